"""What a guard knows of its run so far, wherever it is kept: in memory, in a folder, in training checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import HistoryError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.history import check_fingerprint, state_of
from reasoning_guard.places import check_folder
from reasoning_guard.processes import from_main_process
from reasoning_guard.records import Records
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
        on_error: What happens if the disk refuses, see :class:`~reasoning_guard.records.Records`.
    """

    def __init__(self, on_error: OnError) -> None:
        """See the class."""
        self._on_error: OnError = on_error
        self._records: Records | None = None
        self._directory: Path | None = None
        self._carried: Mapping[str, Any] = {}

    def keep_in(self, directory: Path) -> None:
        """Keep records on disk from now on."""
        self._records, self._directory = Records(directory, self._on_error), directory

    def check(self) -> None:
        """Refuse a folder that can't be made, before any training; on the main process.

        Raises:
            ConfigurationError: There is a file in its place.
        """
        if self._directory is not None:
            check_folder(self._directory, "`directory`")

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
            HistoryError: The records were made with other problems or another format.
        """
        records, read_by = self._records, None
        if self._carried and step > 0:
            known, read_by = self._unpacked(identity)
        if records is None:
            return [e for e in known if e.step <= step and step > 0], _same(read_by, identity.reference)
        return from_main_process(lambda: self._from_disk(records, step, identity))

    def keep(self, evaluation: Evaluation) -> None:
        """Add an evaluation to the folder, if there is one; on the main process."""
        if self._records is not None:
            self._records.keep(evaluation)

    def keep_alerts(self, alerts: Sequence[Alert]) -> None:
        """Replace the alerts in the folder, if there is one; on the main process."""
        if self._records is not None:
            self._records.keep_alerts(alerts)

    def _unpacked(self, identity: Identity) -> tuple[list[Evaluation], str | None]:
        """Unpack what a training checkpoint brought, into the folder too, and the reference that read it."""
        state, self._carried = self._carried, {}
        run, records = state["run"], self._records
        check_fingerprint(run["fingerprint"], identity.fingerprint, "the checkpoint's records")
        if records is not None:
            from_main_process(lambda: records.restore(state))
        brought = [Evaluation.from_dict(record) for record in state["evaluations"]]
        return brought, run["settings"].get("reference_fingerprint")

    def _from_disk(self, records: Records, step: int, identity: Identity) -> tuple[list[Evaluation], bool]:
        """Read from disk. Only a resumed run ends if the disk refuses twice: it would lose its baseline for good."""
        try:
            return _begun(records, step, identity)
        except OSError as error:
            if step == 0 or self._on_error == "raise":
                raise
            logger.warning("the run's records could not be read, which is tried once more: %s", error)
        time.sleep(_WAIT)
        try:
            return _begun(records, step, identity)
        except OSError as error:
            raise HistoryError(
                f"the run goes on at step {step}, and its records can't be read: {error}. Without them the model as it "
                "is now would become the baseline; make them readable, or give the run another folder to start a "
                "baseline of its own"
            ) from error


def _begun(records: Records, step: int, identity: Identity) -> tuple[list[Evaluation], bool]:
    before = records.settings().get("reference_fingerprint")
    found = records.begin(step, identity.fingerprint, identity.settings)
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
