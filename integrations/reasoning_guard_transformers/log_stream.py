"""Getting numbers into a trainer's log, where trackers, history, best-model selection and early stopping all see them.

``on_evaluate`` comes after the record was logged, and reporters hear ``on_log`` before any user callback. The record on
its way into ``trainer.log`` is the one place that all of them share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer


class LogStream:
    """Listens to the evaluation records of a trainer and writes records of its own.

    Args:
        trainer: The trainer.
        add: Called with every evaluation record before it is logged; may add to it.
    """

    def __init__(self, trainer: Trainer, add: Callable[[dict[str, float]], None]) -> None:
        self._trainer = trainer
        self._add = add
        self._listening = False
        self._instance_log: Any = None

    def open(self) -> None:
        """Begin to listen; a second call changes nothing."""
        if self._listening:
            return
        self._listening = True
        self._instance_log = vars(self._trainer).get("log")
        inner = self._trainer.log

        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if any(key.startswith("eval_") for key in logs):
                self._add(logs)
            inner(logs, *args, **kwargs)

        self._trainer.log = log

    def close(self) -> None:
        """Give the trainer the ``log`` back that it had."""
        if self._listening:
            self._listening = False
            vars(self._trainer).pop("log")
            if self._instance_log is not None:
                self._trainer.log = self._instance_log

    def write(self, numbers: Mapping[str, float]) -> None:
        """Log a record of our own.

        Through the base class: TRL's ``log`` empties its pending training metrics into whatever it is given. And
        logging clears the trainer's wish to log, which at this very step may be for its own loss.

        Args:
            numbers: Name to value.
        """
        control = self._trainer.control
        due = control.should_log
        Trainer.log(self._trainer, dict(numbers))
        control.should_log = due
