"""The trainer's console: one line for each evaluation, instead of every number that trackers get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer

from reasoning_guard.hosting import show

PRINTERS = frozenset({"PrinterCallback", "ProgressCallback", "NotebookProgressCallback", "RichProgressCallback"})
"""Names of the classes that print records. A notebook's can be imported in notebooks only, and Rich's is TRL's."""


class Console:
    """While open, it replaces the guard's numbers in the trainer's own printers by one line.

    Only what is printed changes. Trackers, ``state.log_history`` and every other callback get the record as it is.

    Args:
        trainer: The trainer. Several guards may share its printers.
        line: Makes the line for an evaluation that has not been shown yet; an empty one where there is none.
    """

    def __init__(self, trainer: Trainer, line: Callable[[], str]) -> None:
        self._trainer = trainer
        self._line = line
        self._printers: list[Any] = []

    def open(self) -> None:
        """Begin. A second call changes nothing."""
        if self._printers:
            return
        for callback in self._trainer.callback_handler.callbacks:
            names = PRINTERS.intersection(kind.__name__ for kind in type(callback).__mro__)
            if not names:
                continue
            if "on_log" not in vars(callback):
                callback.on_log = _shorter(callback)
            if "NotebookProgressCallback" in names and "on_evaluate" not in vars(callback):
                callback.on_evaluate = _narrower(callback)  # its table has a column for each number
            if (lines := _lines_of(callback)) is not None:
                lines.append(self._line)
                self._printers.append(callback)

    def close(self) -> None:
        """Give the printers their own methods back, once no guard needs them."""
        for callback in self._printers:
            lines = _lines_of(callback)
            if lines is not None and self._line in lines:
                lines.remove(self._line)
            if not lines:
                vars(callback).pop("on_log", None)
                vars(callback).pop("on_evaluate", None)
        self._printers.clear()


def _lines_of(printer: Any) -> list[Callable[[], str]] | None:
    """What makes the lines of a printer; None if its method was replaced by somebody else."""
    return getattr(vars(printer).get("on_log"), "lines", None)


def _shorter(printer: Any) -> Callable[..., None]:
    whole = printer.on_log
    lines: list[Callable[[], str]] = []

    def on_log(args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not any("guard/" in key for key in logs or ()):
            whole(args, state, control, logs=logs, **kwargs)
            return
        rest = _others(logs)
        if rest.keys() - {"epoch", "step"}:
            whole(args, state, control, logs=rest, **kwargs)
        bar = getattr(printer, "training_bar", None)
        for line in filter(None, (make() for make in lines if state.is_world_process_zero)):
            show(line, getattr(bar, "write", print))

    on_log.lines = lines  # type: ignore[attr-defined]
    return on_log


def _narrower(printer: Any) -> Callable[..., None]:
    whole = printer.on_evaluate

    def on_evaluate(args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        whole(args, state, control, metrics=_others(metrics or {}), **kwargs)

    return on_evaluate


def _others(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of a record but the guard's."""
    return {key: value for key, value in numbers.items() if "guard/" not in key}
