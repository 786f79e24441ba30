"""A guard's records on disk, whose failure never ends a run. Only the main process calls this."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.history import History
from reasoning_guard.settings import OnError

logger = logging.getLogger("reasoning_guard.guard")


class Records:
    """The place where a guard keeps what it found.

    Args:
        directory: The folder.
        on_error: With "record", a record that cannot be written is lost, which is logged, and the run goes on. With
            "raise", it is an error.
    """

    def __init__(self, directory: Path, on_error: OnError) -> None:
        """See the class."""
        self._history = History(directory)
        self._on_error = on_error

    def begin(self, step: int, fingerprint: Mapping[str, str], settings: Mapping[str, Any]) -> list[Evaluation]:
        """Take over the folder (see :meth:`History.begin`)."""
        return self._history.begin(step, fingerprint, settings)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the records that a training checkpoint carries into the folder (see :meth:`History.restore`)."""
        self._history.restore(state)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the last run noted."""
        return self._history.run().get("settings", {})

    def keep(self, evaluation: Evaluation) -> None:
        """Add an evaluation."""
        self._write(lambda: self._history.append(evaluation))

    def keep_alerts(self, alerts: Sequence[Alert]) -> None:
        """Replace the alerts."""
        self._write(lambda: self._history.write_alerts(alerts))

    def _write(self, write: Callable[[], None]) -> None:
        """Write; a full disk, or what cannot be written at all, costs the record on disk, not the alarm."""
        try:
            write()
        except Exception as error:
            if self._on_error == "raise":
                raise
            of_disk = isinstance(error, OSError)
            what = error if of_disk else repr(error)
            logger.error("the guard's records could not be written: %s; training goes on", what, exc_info=not of_disk)
