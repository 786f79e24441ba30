"""Lightning's loggers: numbers at the step of the evaluation, and sinks for those that show text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from reasoning_guard.sinks import Sink, TensorBoardSink, WandbSink


def log_to(loggers: Iterable[Any], numbers: Mapping[str, float], step: int) -> None:
    """Give the numbers to all loggers, at ``step``.

    ``self.log`` would not do: its numbers are charted one step too early (Lightning counts batches from 0), and those
    of a training step are dropped unless ``log_every_n_steps`` divides it.

    Args:
        loggers: ``trainer.loggers``; each writes on the main process only.
        numbers: Name to value.
        step: Training step of the evaluation.
    """
    for logger in loggers if numbers else ():
        logger.log_metrics(metrics=dict(numbers), step=step)
        logger.save()


def sinks_of(trainer: Any) -> list[Sink]:
    """Make a sink for every logger that shows text and images: TensorBoard's writer, the active W&B run.

    Args:
        trainer: A Lightning trainer that is fitting.

    Returns:
        The sinks.
    """
    found: list[Sink] = []
    for logger in trainer.loggers:
        kinds = {kind.__name__ for kind in type(logger).__mro__}  # by name: there are two frameworks
        if "TensorBoardLogger" in kinds:
            prefix = getattr(logger, "_prefix", "")
            found.append(TensorBoardSink(logger.experiment, prefix=f"{prefix}-" if prefix else ""))
        if "WandbLogger" in kinds:
            # Such a logger has imported wandb itself.
            found.append(WandbSink(logger.experiment, sys.modules.get("wandb"), step_name="trainer/global_step"))
    return found
