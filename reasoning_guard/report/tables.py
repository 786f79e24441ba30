"""All numbers of a run in one table, for readers who want more than the charts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reasoning_guard.report.measures import Measure, measure
from reasoning_guard.report.numbers import number
from reasoning_guard.report.series import Estimate, Timeline


@dataclass(frozen=True, slots=True)
class TableRow:
    """A value of one run and one set in the table of numbers."""

    set: str
    label: str
    unit: str
    before: str
    after: str
    change: str
    n: int
    unscored: str


def table(history: Timeline) -> list[TableRow]:
    """Return every value of every set at the baseline and at the last evaluation, with the paired change.

    All three rest on the problems that both evaluations scored, where there are such problems.
    """
    cells = [(set, name) for set in history.sets for name in history.names]
    return [row for set, name in cells if (row := _table_row(history, set, name)) is not None]


def _table_row(history: Timeline, set: str, name: str) -> TableRow | None:
    what, change = measure(name), history.difference(name, set)
    before, after = history.ends(name, set) or _apart(history, set, name)
    if not (before or after):
        return None
    n = change.n if change else max(e.n for e in (before, after) if e)
    missing = _last_unscored(history, set, name)
    cells = (_cell(before, what), _cell(after, what), _cell(change, what) if change else "")
    return TableRow(set, what.full_label, what.unit, *cells, n, f"{missing:.0%}" if missing else "")


def _apart(history: Timeline, set: str, name: str) -> tuple[Estimate | None, Estimate | None]:
    """The two evaluations, each by itself: of a value that no problem has in both, or that is none of a problem's."""
    by_step = dict(history.series(name, set))
    ends = (history.first, history.last)
    before, after = (None if e is None else by_step.get(e.step) for e in ends)
    return before, after


def _cell(found: Estimate | None, what: Measure) -> str:
    if found is None:
        return number(math.nan)
    mean, lower, upper = (number(v, share=what.bounded) for v in (found.mean, found.lower, found.upper))
    return f"{mean} ({lower} to {upper})" if math.isfinite(found.lower) else mean


def _last_unscored(history: Timeline, set: str, name: str) -> float:
    last = [s for s in history.snapshots if s.failure is None][-1]
    return last.unscored.get((set, name), 0.0)
