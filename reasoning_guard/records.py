"""A guard's records on disk, as a whole run sees them: written by the main process, and never the end of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.history import History
from reasoning_guard.processes import from_main_process, is_main_process
from reasoning_guard.settings import OnError

logger = logging.getLogger("reasoning_guard.guard")


class Records:
    """Where a guard keeps what it found.

    Args:
        directory: The folder.
        on_error: "record": a disk that refuses costs the record, which is said, not the run; "raise": it is an error.
    """

    def __init__(self, directory: Path, on_error: OnError) -> None:
        """See the class."""
        self._history = History(directory)
        self._on_error = on_error

    def begin(self, step: int, fingerprint: Mapping[str, str], settings: Mapping[str, Any]) -> list[Evaluation]:
        """Take the folder over (see :meth:`History.begin`); every process gets the evaluations."""
        return from_main_process(lambda: self._history.begin(step, fingerprint, settings))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the records that a training checkpoint carries into the folder (see :meth:`History.restore`)."""
        from_main_process(lambda: self._history.restore(state))

    def settings(self) -> dict[str, Any]:
        """The settings that the last run noted."""
        return from_main_process(self._history.run).get("settings", {})

    def keep(self, evaluation: Evaluation) -> None:
        """Add an evaluation."""
        self._write(lambda: self._history.append(evaluation))

    def keep_alerts(self, alerts: Sequence[Alert]) -> None:
        """Replace the alerts."""
        self._write(lambda: self._history.write_alerts(alerts))

    def _write(self, write: Callable[[], None]) -> None:
        """Write on the main process; a full disk costs the record on disk, not the alarm."""
        if not is_main_process():
            return
        try:
            write()
        except OSError as error:
            if self._on_error == "raise":
                raise
            logger.error("the guard's records could not be written: %s; training goes on", error)
