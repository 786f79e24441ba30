"""Weights to go back to: written at each evaluation, kept while an alarm may need them, loaded at the end."""

from __future__ import annotations

import logging
from inspect import signature
from pathlib import Path
from typing import Any

from reasoning_guard.guard import Guard
from reasoning_guard.healthy import HealthyCheckpoints, returns
from reasoning_guard.processes import from_main_process, is_main_process
from reasoning_guard_lightning.saving import save_checkpoint

logger = logging.getLogger(__name__)


class Rollback:
    """Keeps and restores weights through the trainer's own strategy, so sharded models work like others.

    Args:
        guard: The guard, which knows since when the run is unhealthy, and is told which weights were kept.
        directory: The folder of its records; weights go to ``healthy`` in it.
    """

    def __init__(self, guard: Guard, directory: Path) -> None:
        """See the class."""
        self._guard = guard
        self._healthy = HealthyCheckpoints(directory / "healthy")

    def begin(self, step: int) -> None:
        """Forget what a run that stands at ``step`` has not saved."""
        if is_main_process():
            self._healthy.begin(step)

    def keep(self, trainer: Any) -> None:
        """Write the weights of this step. Every process must call this."""
        part = self._healthy.part(trainer.global_step, ".ckpt")
        save_checkpoint(trainer, part, weights_only=True)
        if is_main_process():
            self._healthy.settle(part)
            self._healthy.drop_all_but(returns(self._guard))

    def roll_back(self, trainer: Any) -> None:
        """Give the model the last weights from before an open alarm, or say why that can't be."""
        since = self._guard.unhealthy_since
        if since is None:
            return
        found = from_main_process(lambda: self._healthy.last_before(since))
        if found is None:
            logger.warning("cannot roll back: no weights were kept from before step %d; the last model is kept", since)
            return
        try:
            _load(trainer, found)
        except Exception as error:
            logger.warning("cannot roll back: %s could not be loaded (%s); the last model is kept", found, error)
            return
        self._guard.kept_checkpoint = str(found)
        logger.warning("rolled back: the model has the weights of %s, from before the alarm of step %d", found, since)


def _load(trainer: Any, path: Path) -> None:
    """As the trainer restores a model, sharded or whole; training is over, so no optimizer is restored."""
    strategy, module = trainer.strategy, trainer.lightning_module
    optimizers, strategy.optimizers = strategy.optimizers, []
    try:
        # Hyperparameters may be of any type; newer versions load plain types only, unless told that the file is ours.
        asks = "weights_only" in signature(strategy.load_checkpoint).parameters
        checkpoint = strategy.load_checkpoint(path, **({"weights_only": False} if asks else {}))
        module.on_load_checkpoint(checkpoint)
        strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
    finally:
        strategy.optimizers = optimizers
