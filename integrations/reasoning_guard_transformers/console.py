"""The trainer's console: one line for each evaluation, instead of every number that trackers get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer

from reasoning_guard.hosting import show

PRINTERS = frozenset({"PrinterCallback", "ProgressCallback", "NotebookProgressCallback", "RichProgressCallback"})
"""Names of the classes that print records. A notebook's can be imported in notebooks only, and Rich's is TRL's."""


Line = Callable[[], str]


class Console:
    """While open, it replaces the guard's numbers in the trainer's own printers by one line.

    Only what is printed changes. Trackers, ``state.log_history`` and every other callback get the record as it is.

    Args:
        trainer: The trainer. Several guards may share its printers.
        line: Makes the line for an evaluation that has not been shown yet; an empty one where there is none.
    """

    def __init__(self, trainer: Trainer, line: Line) -> None:
        self._trainer = trainer
        self._line = line
        self._replaced: list[tuple[Any, str]] = []

    def open(self) -> None:
        """Begin. A second call changes nothing."""
        if self._replaced:
            return
        for callback in self._trainer.callback_handler.callbacks:
            names = PRINTERS.intersection(kind.__name__ for kind in type(callback).__mro__)
            if names:
                self._replace(callback, "on_log", _shorter)
            if "NotebookProgressCallback" in names:  # its table has a column for each number
                self._replace(callback, "on_evaluate", _narrower)

    def close(self) -> None:
        """Give the printers their own methods back, once no guard needs them."""
        for printer, name in self._replaced:
            lines = _lines_of(printer, name)
            if lines is not None and self._line in lines:
                lines.remove(self._line)
                if not lines:
                    vars(printer).pop(name)
        self._replaced.clear()

    def _replace(self, printer: Any, name: str, by: Callable[[Any, list[Line]], Callable[..., None]]) -> None:
        """Replace a method of the printer's class; one that was set on the printer itself stays."""
        if name not in vars(printer):
            lines: list[Line] = []
            method = by(printer, lines)
            method.lines = lines  # type: ignore[attr-defined]
            setattr(printer, name, method)
        if (shared := _lines_of(printer, name)) is not None:
            shared.append(self._line)
            self._replaced.append((printer, name))


def _lines_of(printer: Any, name: str) -> list[Line] | None:
    """What makes the lines of the guards that share a method; None if the method is somebody else's."""
    return getattr(vars(printer).get(name), "lines", None)


def _shorter(printer: Any, lines: list[Line]) -> Callable[..., None]:
    whole = printer.on_log

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

    return on_log


def _narrower(printer: Any, _lines: list[Line]) -> Callable[..., None]:
    whole = printer.on_evaluate

    def on_evaluate(args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        whole(args, state, control, metrics=_others(metrics or {}), **kwargs)

    return on_evaluate


def _others(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of a record but the guard's."""
    return {key: value for key, value in numbers.items() if "guard/" not in key}
