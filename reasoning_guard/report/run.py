"""What a report is about: one run's history, in memory or on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import ConfigurationError, HistoryError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.history import History

FOLDER = "reasoning_guard"
RECORDS = "evaluations.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as a report tells it.

    Attributes:
        name: Short name, written at the lines of the charts.
        evaluations: The history. The first successful evaluation is the baseline. It may be lazy: it is read once, in
            order.
        alerts: What the guard said.
        settings: The configuration: from name to any value that JSON can express.
        description: One sentence on what was trained on what.
    """

    name: str
    evaluations: Sequence[Evaluation]
    alerts: Sequence[Alert] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    description: str = ""


class RecordedEvaluations(Sequence[Evaluation]):
    """The evaluations of a history file, read one by one as they are asked for, never all at once.

    A last line without its newline was cut short by a kill and is left out. :class:`~reasoning_guard.history.History`,
    which reads the whole file, does the same.

    Args:
        path: A file with one evaluation on each line.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """See the class."""
        self._path = Path(path)
        self._starts = _line_starts(self._path)

    def __len__(self) -> int:
        """Number of whole lines."""
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Evaluation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Evaluation]: ...
    def __getitem__(self, index: int | slice) -> Evaluation | list[Evaluation]:
        """Read one line, or several.

        Raises:
            HistoryError: The line is no record.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline()
        try:
            return Evaluation.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            number = range(1, len(self) + 1)[index]
            raise HistoryError(f"line {number} of {self._path} is not an evaluation of this version") from error


def load_run(directory: str | os.PathLike[str], *, name: str = "", description: str = "") -> Run:
    """Read a run back from the records that the guard keeps.

    Args:
        directory: The run's output folder, or the ``reasoning_guard`` folder in it.
        name: Name in the report; by default the output folder's.
        description: One sentence on what was trained on what.

    Returns:
        The run. Its evaluations are read from disk when the report asks for them.

    Raises:
        HistoryError: There are no records.
    """
    given = Path(directory)
    folder = next((f for f in (given, given / FOLDER) if (f / RECORDS).is_file()), None)
    if folder is None:
        raise HistoryError(
            f"no {RECORDS} in {given} or in its folder {FOLDER}; give the output folder of a run that had a guard"
        )
    history = History(folder)
    return Run(
        name=name or _output_folder(folder).name,
        evaluations=RecordedEvaluations(folder / RECORDS),
        alerts=history.alerts(),
        settings=_settings(history.run()),
        description=description,
    )


def distinct_names(directories: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Name each run of a report by its output folder, and by those folders above that tell it from the others.

    Args:
        directories: As :func:`load_run` takes them.

    Returns:
        One name for each run.

    Raises:
        ConfigurationError: A run is there twice.

    Example:
        >>> distinct_names(["seeds/0/out", "seeds/1/out", "other"])
        ['0/out', '1/out', 'other']
    """
    places = [_output_folder(Path(directory)) for directory in directories]
    for place, directory in zip(places, directories, strict=True):
        if places.count(place) > 1:
            raise ConfigurationError(f"{directory} is given twice; name each run once")
    return [_shortest(place.parts, [other.parts for other in places]) for place in places]


def _shortest(parts: tuple[str, ...], among: Sequence[tuple[str, ...]]) -> str:
    """The last parts of a path, as few as no other path ends in."""
    lengths = range(1, len(parts) + 1)
    length = next(n for n in lengths if n == len(parts) or sum(other[-n:] == parts[-n:] for other in among) == 1)
    return "/".join(parts[-length:])


def _output_folder(given: Path) -> Path:
    """The run's output folder, which is given itself or by the guard's own folder in it."""
    whole = given.resolve()
    return whole.parent if whole.name == FOLDER else whole


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run.get("settings", {}), **run.get("fingerprint", {})}


def _line_starts(path: Path) -> list[int]:
    starts, at = [], 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                starts.append(at)
            at += len(line)
    return starts
