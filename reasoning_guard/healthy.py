"""The weights of the last healthy checkpoint, out of reach of a trainer that tidies up.

An alarm is told some evaluations after it began, and by then the trainer may have deleted the last checkpoint from
before. So weights are held in a folder of ours: those of the trainer's own checkpoints, linked (a hard link takes no
space while the trainer keeps its own), or written there by the host. Only a few are held: those that an alarm might
still need.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasoning_guard.guard import Guard

NOT_WEIGHTS = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "global_step*", "latest", "zero_to_fp32.py")
"""What a checkpoint holds for going on with the training; it is not kept."""


class HealthyCheckpoints:
    """Checkpoints named ``checkpoint-<step>``, files or folders.

    Args:
        folder: Where they are held; made when one is kept. It must be on the disk of the trainer's checkpoints, or
            those are copied.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """See the class."""
        self.folder = Path(folder)

    def begin(self, step: int) -> None:
        """Forget what a run that stands at ``step`` has not saved: everything at step 0, later steps when resumed."""
        for held, path in self._held():
            if step == 0 or held > step:
                _remove(path)

    def path(self, step: int, suffix: str = "") -> Path:
        """Where a host writes the weights of ``step`` by itself.

        >>> HealthyCheckpoints("healthy").path(7, ".ckpt").as_posix()
        'healthy/checkpoint-7.ckpt'
        """
        return self.folder / f"checkpoint-{step}{suffix}"

    def keep(self, checkpoint: Path) -> None:
        """Link the weights of ``checkpoint`` (a folder ``checkpoint-<step>``)."""
        aim = self.folder / checkpoint.name
        _remove(aim)
        shutil.copytree(checkpoint, aim, copy_function=_link, ignore=shutil.ignore_patterns(*NOT_WEIGHTS))

    def drop_older_than_last_before(self, step: int) -> None:
        """Drop what no alarm that begins at ``step`` or later would go back to."""
        for _, path in [(held, path) for held, path in self._held() if held < step][:-1]:
            _remove(path)

    def last_before(self, step: int) -> Path | None:
        """The latest checkpoint from before ``step``, or None."""
        return next((path for held, path in reversed(self._held()) if held < step), None)

    def _held(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem.rpartition("-")[2]), path) for path in self.folder.glob("checkpoint-*"))


def oldest_return(guard: Guard) -> int:
    """The earliest step at which an alarm can have begun that is open, or that may still be told.

    An alarm that is told now began ``patience`` evaluations ago; what was saved before the oldest of them, but for
    the last such checkpoint, will not be needed again.

    Args:
        guard: The guard of the run.

    Returns:
        A training step.
    """
    looks = guard.evaluations[-guard.patience :]
    oldest = looks[0].step if looks else 0
    since = guard.unhealthy_since
    return oldest if since is None else min(since, oldest)


def _remove(path: Path) -> None:
    """A checkpoint is one file, or a folder of shards."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
