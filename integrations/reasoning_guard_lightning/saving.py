"""Save through the trainer's own strategy, so that a disk that fails on one process keeps no other waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_checkpoint(trainer: Any, path: Path, *, weights_only: bool = False) -> None:
    """Do what ``trainer.save_checkpoint`` does. Every process must call this, and all of them fail if one does.

    Args:
        trainer: The trainer.
        path: Where to save; folders are made if necessary.
        weights_only: Leave out whatever is only needed to continue the training.

    Raises:
        OSError: The checkpoint could not be written.
    """
    strategy = trainer.strategy
    try:
        careful = strategy.checkpoint_io = _Careful(strategy.checkpoint_io)
    except Exception:  # DeepSpeed and others that write in their own way take none
        trainer.save_checkpoint(path, weights_only=weights_only)
        return
    try:
        trainer.save_checkpoint(path, weights_only=weights_only)
    finally:
        strategy.checkpoint_io = careful.inner
    if strategy.reduce_boolean_decision(careful.error is not None, all=False):
        raise OSError(f"{path} could not be written: {careful.error or 'another process failed'}") from careful.error


class _Careful:
    """A strategy's checkpoint IO that keeps an error to itself, for behind the barrier where the processes meet."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.error: Exception | None = None

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save, or note why not."""
        try:
            self.inner.save_checkpoint(*args, **kwargs)
        except Exception as error:
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
