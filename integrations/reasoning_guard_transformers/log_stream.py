"""Get numbers into a trainer's log, where trackers, history, best-model selection and early stopping see them.

``on_evaluate`` comes after the record was logged, and reporters hear ``on_log`` before any user callback. So the record
on its way into ``trainer.log`` is the one place that all of them share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer


class LogStream:
    """Listens to the evaluation records of a trainer, and writes records of its own.

    Args:
        trainer: The trainer.
        add: Called with every evaluation record before it is logged. It may add to the record.
    """

    def __init__(self, trainer: Trainer, add: Callable[[dict[str, float]], None]) -> None:
        self._trainer = trainer
        self._add = add
        self._listening = False
        self._instance_log: Any = None
        self._own_log: Any = None

    def open(self) -> None:
        """Begin to listen. A second call changes nothing."""
        if self._listening:
            return
        self._listening = True
        self._instance_log = vars(self._trainer).get("log")
        inner = self._trainer.log

        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if self._listening and is_evaluation(logs):
                self._add(logs)
            inner(logs, *args, **kwargs)

        log.stream = self  # type: ignore[attr-defined]
        self._trainer.log = self._own_log = log

    def close(self) -> None:
        """Give the trainer back the ``log`` that it had. Under a later wrapper, this one stays and does nothing.

        When the later wrapper goes, this one goes with it: a second guard's gives back what was there before both.
        """
        if not self._listening:
            return
        self._listening = False
        if vars(self._trainer).get("log") is not self._own_log:
            return
        before = self._instance_log
        while (stream := getattr(before, "stream", None)) is not None and not stream.listening:
            before = stream.before
        if before is None:
            vars(self._trainer).pop("log")
        else:
            self._trainer.log = before

    @property
    def listening(self) -> bool:
        """Whether it is open."""
        return self._listening

    @property
    def before(self) -> Any:
        """The ``log`` that the trainer itself had before; None if it was its class's."""
        return self._instance_log

    def write(self, numbers: Mapping[str, float]) -> None:
        """Log a record of the guard's own.

        This goes through the base class, because TRL's ``log`` empties its pending training metrics into whatever it is
        given. The trainer's wish to log, which logging clears, is kept, since at this very step it may be for its own
        loss.

        Args:
            numbers: Name to value.
        """
        control = self._trainer.control
        due = control.should_log
        try:
            Trainer.log(self._trainer, dict(numbers))
        finally:  # a tracker that fails on one process alone must not keep it from logging the loss with the others
            control.should_log = due


def is_evaluation(logs: Mapping[str, float]) -> bool:
    """Say whether a record is a trainer's evaluation, which says how long it took, and not somebody else's value.

    Others log where they like, even on the main process alone. An evaluation belongs to all processes.
    """
    return any(key.startswith("eval_") and key.endswith("_runtime") for key in logs)
