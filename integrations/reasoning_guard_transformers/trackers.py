"""The host's own trackers, handed to the guard as sinks."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from reasoning_guard.sinks import Sink, TensorBoardSink, WandbSink


def sinks_of(trainer: Trainer) -> list[Sink]:
    """Make a sink for every tracker that shows text and images: TensorBoard's writer, the active W&B run.

    Trackers open on the main process only, when training begins. Elsewhere and earlier, the list is empty.

    Args:
        trainer: A trainer whose ``on_train_begin`` has reached its reporters.

    Returns:
        The sinks.
    """
    found: list[Sink] = []
    for callback in trainer.callback_handler.callbacks:
        writer: Any = getattr(callback, "tb_writer", None)
        wandb: Any = getattr(callback, "_wandb", None)
        run: Any = getattr(wandb, "run", None)
        if writer is not None:
            found.append(TensorBoardSink(writer, prefix="eval/"))
        if run is not None:
            found.append(WandbSink(run, media=wandb))
    return found
