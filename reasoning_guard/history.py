"""Records on disk that survive a kill at any moment: one line for each evaluation, and which run it belongs to.

A record is one ``write`` of a line that ends in a newline, followed by ``fsync``. A kill can only leave a last line
without its newline, which is dropped. Every other file is written beside its place and then moved there in one go.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from reasoning_guard.alerts import Alert
from reasoning_guard.atomic import replace_file
from reasoning_guard.errors import HistoryError, warn_once
from reasoning_guard.evaluation import Evaluation

T = TypeVar("T")


class History:
    """The evaluations of one run, in a folder. Only the main process of a run may write.

    Args:
        directory: The folder; it is made when something is written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """See the class."""
        self.directory = Path(directory)
        self._records = self.directory / "evaluations.jsonl"
        self._alerts = self.directory / "alerts.jsonl"
        self._run = self.directory / "run.json"

    def begin(
        self, step: int, fingerprint: Mapping[str, str], settings: Mapping[str, Any] | None = None
    ) -> list[Evaluation]:
        """Take over the folder for a run that stands at ``step``, and return the records from which it goes on.

        A run from step 0 starts without records. A resumed run keeps the records up to ``step``. Later ones are moved
        out, because the run will reach those steps again. Whatever is moved out is kept in ``earlier-1``,
        ``earlier-2``, ...

        Args:
            step: Training step at which the run stands; 0 for a new run.
            fingerprint: What must not change if numbers are to be comparable, by name, e.g. ``{"problems": digest(ids),
                "format": "think"}``.
            settings: Plain values to keep beside the records.

        Returns:
            The evaluations up to ``step``, oldest first.

        Raises:
            HistoryError: The run is resumed and its records belong to other problems, another format or chat template.
        """
        kept = self._resume(step, fingerprint) if step > 0 else self._restart()
        run = {"fingerprint": dict(fingerprint), "settings": dict(settings or {}), "begun_at_step": step}
        self._note(plain(run))
        return kept

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the records that a training checkpoint carries into the folder, as if the run had kept them here.

        The checkpoint may have been moved, or its run may have written elsewhere. Records that are here already are
        left alone; those of another run are moved to ``earlier-1``, ``earlier-2``, ...

        Args:
            state: What :func:`state_of` made.
        """
        carried = [_line(record) for record in state["evaluations"]]
        here = self._records.read_bytes().splitlines(keepends=True) if self._records.exists() else []
        if here[: len(carried)] == carried:
            return
        self._restart()
        self._note(state["run"])
        replace_file(self._records, b"".join(carried))

    def append(self, evaluation: Evaluation) -> None:
        """Add a record. When this returns, it is on the disk.

        Args:
            evaluation: The evaluation, later than every recorded one.

        Raises:
            OSError: The disk refused; the file is unchanged.
        """
        line = _line(evaluation.to_dict())
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self._records, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(f"only part of a record could be written to {self._records}; is the disk full?")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def load(self) -> list[Evaluation]:
        """Return all records, oldest first. A last line that a kill cut short is dropped, with a warning.

        Records that do not come later than the one before them are dropped too, with a warning: somebody continued the
        file without reading it.

        Raises:
            HistoryError: A line before the last is no record.
        """
        return self._rising(self._all())

    def write_alerts(self, alerts: Sequence[Alert]) -> None:
        """Replace the alerts on disk, which are derived from the records, with ``alerts``."""
        replace_file(self._alerts, _lines(alerts))

    def alerts(self) -> list[Alert]:
        """Return the alerts as they were last written.

        Raises:
            HistoryError: A line is not an alert of this version.
        """
        return list(_made(Alert.from_dict, self._alerts))

    def run(self) -> dict[str, Any]:
        """Return what :meth:`begin` noted about the run: ``fingerprint``, ``settings``, ``begun_at_step``."""
        try:
            found = json.loads(self._run.read_text("utf-8")) if self._run.exists() else {}
        except ValueError:  # a disk lost it; the records beside it are whole all the same
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, run: Mapping[str, Any]) -> None:
        """Note what the run is, for :meth:`run`."""
        replace_file(self._run, (json.dumps(run, indent=2) + "\n").encode())

    def _restart(self) -> list[Evaluation]:
        """Move everything of an earlier run aside."""
        present = [path for path in (self._records, self._alerts, self._run) if path.exists()]
        if present:
            aside = self._earlier()
            for path in present:
                os.replace(path, aside / path.name)
        return []

    def _resume(self, step: int, fingerprint: Mapping[str, str]) -> list[Evaluation]:
        """Keep the records up to ``step``, put the later ones aside."""
        whole = self._all()
        if whole:
            self._check(fingerprint)
        kept = [e for e in self._rising(whole) if e.step <= step]
        if len(kept) < len(whole):
            held = set(map(id, kept))
            replace_file(self._earlier() / self._records.name, _lines(e for e in whole if id(e) not in held))
        if self._records.exists():
            replace_file(self._records, _lines(kept))
        return kept

    def _all(self) -> list[Evaluation]:
        return list(_made(Evaluation.from_dict, self._records))

    def _rising(self, read: Sequence[Evaluation]) -> list[Evaluation]:
        """Return those that come later than all before them."""
        latest = [-1, *accumulate((e.step for e in read), max)]
        rising = [e for e, before in zip(read, latest, strict=False) if e.step > before]
        if len(rising) < len(read):
            warn_once(
                f"{len(read) - len(rising)} records in {self._records} are no later than one before them; they are "
                "left out",
                key=f"not rising {self._records}",
            )
        return rising

    def _check(self, fingerprint: Mapping[str, str]) -> None:
        """Refuse records of another run. Records of an unknown run (the disk refused to note it) are accepted."""
        known = self.run().get("fingerprint")
        if known is not None:
            check_fingerprint(known, fingerprint, f"the records in {self.directory}")
            return
        warn_once(
            f"{self._run} is missing, so nothing says with which problems and format the records beside it were made; "
            "they are taken as they are, and compared where the ids of problems agree",
            key=f"unknown {self._run}",
        )

    def _earlier(self) -> Path:
        number = 1
        while (folder := self.directory / f"earlier-{number}").exists():
            number += 1
        folder.mkdir(parents=True)
        return folder


def _made(make: Callable[[dict[str, Any]], T], path: Path) -> Iterator[T]:
    """Yield what the whole lines of a file hold. A last line without its newline is dropped, with a warning."""
    whole, _, torn = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    if torn:
        warn_once(f"the last record in {path} was cut short, probably by a kill; it is dropped", key=f"torn {path}")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            yield make(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HistoryError(
                f"line {number} of {path} is not a record of this version; move the file away, or use another output "
                "folder"
            ) from error


def state_of(
    evaluations: Sequence[Evaluation], fingerprint: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Pack a run's records for a training checkpoint, which may travel without the folder of records.

    Args:
        evaluations: The records, oldest first.
        fingerprint: As for :meth:`History.begin`.
        settings: As for :meth:`History.begin`.

    Returns:
        Dicts, lists, strings, numbers and None only, so that ``torch.load(weights_only=True)`` reads it.
    """
    state = {
        "run": {"fingerprint": dict(fingerprint), "settings": dict(settings)},
        "evaluations": [evaluation.to_dict() for evaluation in evaluations],
    }
    return json.loads(json.dumps(plain(state)))


def check_fingerprint(known: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Refuse records that cannot be compared with what this run would measure.

    Args:
        known: Fingerprint of the records.
        now: Fingerprint of this run.
        where: Where the records come from, for the message.

    Raises:
        HistoryError: They differ; the message says where.
    """
    changed = sorted(k for k in {*known, *now} if known.get(k) != now.get(k))
    if changed:
        what = ", ".join(f"{k} ({known.get(k)} then, {now.get(k)} now)" for k in changed)
        raise HistoryError(
            f"{where} were made with other settings: {what}; numbers cannot be compared. "
            "Give the run what it began with, or another output folder to start a baseline of its own."
        )


def digest(value: Any) -> str:
    """Return a short fingerprint of JSON-able data: 16 hex characters of the SHA-256 of its canonical JSON.

    A value that JSON does not know, such as a function, is written as Python prints it, without its address.

    >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    True
    """
    canonical = json.dumps(value, sort_keys=True, default=lambda each: re.sub(r" at 0x[0-9a-fA-F]+", "", str(each)))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _lines(kept: Iterable[Evaluation | Alert]) -> bytes:
    return b"".join(_line(each.to_dict()) for each in kept)


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain(record), allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """``value`` with NaN and infinities, which JSON does not know, as None, and tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
