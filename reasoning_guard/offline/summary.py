"""Many rows in a few numbers: means over problems with their 95 % intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasoning_guard.evaluation import Row
from reasoning_guard.report.measures import measure
from reasoning_guard.report.series import EVERYWHERE, Estimate, estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One value over one problem set.

    Attributes:
        set: The problem set.
        name: The value's name.
        estimate: Mean over problems with its 95 % interval; None if nothing could be scored.
        unscored: Number of rows without the value.
    """

    set: str
    name: str
    estimate: Estimate | None
    unscored: int


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Summarise every value of every set. Several rows of one problem count as one, by their mean.

    Args:
        rows: Rows of one evaluation, or scores of saved traces.

    Example:
        >>> rows = [Row(id=name, values={"info_gain": gain}) for name, gain in (("a", 1.0), ("a", 3.0), ("b", 4.0))]
        >>> [found] = summarise(rows)
        >>> found.estimate.mean, found.estimate.n
        (3.0, 2)
    """
    sets = dict.fromkeys(row.set for row in rows)
    return [
        _summary(set, name, [row for row in rows if row.set == set])
        for set in sets
        for name in dict.fromkeys(name for row in rows if row.set == set for name in row.values)
    ]


def nested(summaries: Sequence[Summary]) -> dict[str, dict[str, Any]]:
    """Return summaries as plain types: from set to value name to mean, lower, upper, n and unscored."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for each in summaries:
        numbers = asdict(each.estimate) if each.estimate else {"mean": None, "lower": None, "upper": None, "n": 0}
        found[each.set][each.name] = {**numbers, "unscored": each.unscored}
    return dict(found)


def _summary(set: str, name: str, rows: Sequence[Row]) -> Summary:
    by_problem: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if math.isfinite(value := row.values.get(name, math.nan)):
            by_problem[row.id].append(value)
    means = [sum(each) / len(each) for each in by_problem.values()]
    what = measure(name)
    flag = what.flag and all(mean in (0.0, 1.0) for mean in means)
    within = (0.0, 1.0) if what.bounded else EVERYWHERE
    scored = sum(map(len, by_problem.values()))
    return Summary(set=set, name=name, estimate=estimate(means, flag=flag, within=within), unscored=len(rows) - scored)
