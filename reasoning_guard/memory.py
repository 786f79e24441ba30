"""What a guard knows of its run so far, wherever it is kept: in memory, in a folder, in training checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import HistoryError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.history import History, check_fingerprint, state_of
from reasoning_guard.places import check_folder
from reasoning_guard.processes import from_main_process
from reasoning_guard.settings import OnError

logger = logging.getLogger("reasoning_guard.guard")

_WAIT = 1.0
"""Seconds before records are read again that could not be read; network file systems fail for a moment."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is.

    Attributes:
        fingerprint: What must not change if numbers are to be comparable, by name.
        settings: Plain values that are kept beside the records.
    """

    fingerprint: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def reference(self) -> str | None:
        """Fingerprint of the frozen reference, or None without one."""
        return self.settings.get("reference_fingerprint")


class Memory:
    """Takes up, keeps and hands out the records of one run.

    Args:
        on_error: With "record", a record that cannot be written is lost, which is logged, and the run goes on. With
            "raise", it is an error.
    """

    def __init__(self, on_error: OnError) -> None:
        """See the class."""
        self._on_error: OnError = on_error
        self._history: History | None = None
        self._carried: Mapping[str, Any] = {}

    def keep_in(self, directory: Path) -> None:
        """Keep records on disk from now on."""
        self._history = History(directory)

    def check(self) -> None:
        """Refuse a folder that can't be made, before any training; on the main process.

        Raises:
            ConfigurationError: There is a file in its place.
        """
        if self._history is not None:
            check_folder(self._history.directory, "`directory`")

    def carry(self, state: Mapping[str, Any]) -> None:
        """Note the records that a training checkpoint brought, until they are taken up."""
        self._carried = state

    def state(self, evaluations: Sequence[Evaluation], identity: Identity) -> dict[str, Any]:
        """Return the records for a training checkpoint, as plain types only."""
        return state_of(evaluations, identity.fingerprint, identity.settings)

    def take_up(self, step: int, known: Sequence[Evaluation], identity: Identity) -> tuple[list[Evaluation], bool]:
        """Return the records from which a run goes on. Every process must call this.

        Args:
            step: Training step at which the run stands. At 0 there are no records; a resumed run takes those up to
                ``step``.
            known: The evaluations that are in memory.
            identity: What the run is.

        Returns:
            The evaluations, the same on every process, and whether this run's reference is the one that read them.

        Raises:
            HistoryError: The records were made with other problems, format or chat template.
        """
        history, read_by = self._history, None
        if self._carried and step > 0:
            known, read_by = self._unpacked(identity)
        if history is None:
            return [e for e in known if e.step <= step and step > 0], _same(read_by, identity.reference)
        return from_main_process(lambda: self._from_disk(history, step, identity))

    def keep(self, evaluation: Evaluation) -> None:
        """Add an evaluation to the folder, if there is one; on the main process."""
        self._write(lambda history: history.append(evaluation))

    def keep_alerts(self, alerts: Sequence[Alert]) -> None:
        """Replace the alerts in the folder, if there is one; on the main process."""
        self._write(lambda history: history.write_alerts(alerts))

    def _write(self, write: Callable[[History], None]) -> None:
        """Write; a full disk, or what cannot be written at all, costs the record on disk, not the alarm."""
        if self._history is None:
            return
        try:
            write(self._history)
        except Exception as error:
            if self._on_error == "raise":
                raise
            of_disk = isinstance(error, OSError)
            what = error if of_disk else repr(error)
            logger.error("the guard's records could not be written: %s; training goes on", what, exc_info=not of_disk)

    def _unpacked(self, identity: Identity) -> tuple[list[Evaluation], str | None]:
        """Unpack what a training checkpoint brought, into the folder too, and the reference that read it."""
        state, self._carried = self._carried, {}
        run, history = state["run"], self._history
        check_fingerprint(run["fingerprint"], identity.fingerprint, "the checkpoint's records")
        if history is not None:
            from_main_process(lambda: history.restore(state))
        brought = [Evaluation.from_dict(record) for record in state["evaluations"]]
        return brought, run["settings"].get("reference_fingerprint")

    def _from_disk(self, history: History, step: int, identity: Identity) -> tuple[list[Evaluation], bool]:
        """Read from disk. Only a resumed run ends if the disk refuses twice: it would lose its baseline for good."""
        try:
            return _begun(history, step, identity)
        except OSError as error:
            if step == 0 or self._on_error == "raise":
                raise
            logger.warning("the run's records could not be read, which is tried once more: %s", error)
        time.sleep(_WAIT)
        try:
            return _begun(history, step, identity)
        except OSError as error:
            raise HistoryError(
                f"the run goes on at step {step}, and its records can't be read: {error}. Without them the model as it "
                "is now would become the baseline; make them readable, or give the run another folder to start a "
                "baseline of its own"
            ) from error


def _begun(history: History, step: int, identity: Identity) -> tuple[list[Evaluation], bool]:
    before = history.run().get("settings", {}).get("reference_fingerprint")
    found = history.begin(step, identity.fingerprint, identity.settings)
    return found, not found or _same(before, identity.reference)


def _same(before: str | None, now: str | None) -> bool:
    """Say whether the reference is the one that read the baseline. Others can't be compared with it."""
    if now is None or before is None or now == before:
        return True
    logger.warning(
        "the frozen reference is not the one that read the baseline, so its values are left out from here on; "
        "construct the guard before the checkpoint is loaded, or pass the original model as `reference=`"
    )
    return False
