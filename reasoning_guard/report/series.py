"""From a history to what a chart needs: means with 95 % intervals, step by step, in one pass over the evaluations.

An evaluation holds every text of every problem, but a chart needs only a few numbers of it. The pass keeps those
numbers, and the whole of only the first and the last evaluation. So a long history may be read lazily from disk.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from scipy import stats

from reasoning_guard.decision import baseline_of
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.faithfulness import newcombe, wilson
from reasoning_guard.probes.calibration import expected_calibration_error
from reasoning_guard.report.measures import measure

LEVEL = 0.95
EVERYWHERE = (-math.inf, math.inf)
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95 % interval.

    Attributes:
        mean: Mean of the finite values.
        lower: Lower bound; NaN if there is only one value, which leaves nothing to estimate.
        upper: Upper bound.
        n: Number of problems.
    """

    mean: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One evaluation in numbers.

    Attributes:
        step: Training step.
        estimates: Estimate by ``(set, name)``; a value that is NaN everywhere is missing.
        unscored: Share of problems without a value, by ``(set, name)``.
        seconds: Wall time by part.
        failure: Why the evaluation failed, or None.
    """

    step: int
    estimates: Mapping[Key, Estimate] = field(default_factory=dict)
    unscored: Mapping[Key, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run's history in numbers.

    Attributes:
        snapshots: One snapshot for each evaluation, by rising step.
        first: The first evaluation that did not fail (the baseline), with all its traces.
        last: The last evaluation that did not fail.
    """

    snapshots: tuple[Snapshot, ...]
    first: Evaluation | None
    last: Evaluation | None

    @property
    def sets(self) -> tuple[str, ...]:
        """Problem sets of the baseline; the one that is trained for comes first."""
        return self.first.sets if self.first else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the values that have an estimate anywhere, in order of appearance."""
        return tuple(dict.fromkeys(name for s in self.snapshots for _, name in s.estimates))

    def series(self, name: str, set: str | None = None) -> list[tuple[int, Estimate | None]]:
        """Return steps with the estimate of ``name`` (None if missing), without failed evaluations.

        Args:
            name: Value name.
            set: Problem set; None takes the first.
        """
        key = (self._set(set), name)
        return [(s.step, s.estimates.get(key)) for s in self.snapshots if s.failure is None]

    def ends(self, name: str, set: str | None = None) -> tuple[Estimate, Estimate] | None:
        """Return the estimates of ``name`` at the baseline and at the last evaluation; None without problems in both.

        They rest on the problems that both scored, so their difference is that of :meth:`difference`.
        """
        both = self._both(name, set)
        was, now = (_estimate(name, column) for column in both)
        return (was, now) if was and now else None

    def difference(self, name: str, set: str | None = None, *, level: float = LEVEL) -> Estimate | None:
        """Return last evaluation minus baseline, paired by problem: mean difference with its interval.

        The interval is Student's, and Newcombe's for shares of problems, which has a width even if no problem moved.
        """
        before, after = self._both(name, set)
        moved = [now - was for was, now in zip(before, after, strict=True)]
        within = (-1.0, 1.0) if measure(name).bounded else EVERYWHERE
        found = estimate(moved, flag=False, level=level, within=within)
        if found is None or found.n < 2 or not (measure(name).flag and _are_zeros_and_ones([*before, *after])):
            return found
        lower, upper = newcombe(np.array(before), np.array(after), 1 - level)
        return replace(found, lower=lower, upper=upper)

    def _both(self, name: str, set: str | None) -> tuple[list[float], list[float]]:
        """Values at the baseline and at the last evaluation, of the problems that both scored."""
        if self.first is None or self.last is None or self.first is self.last:
            return [], []
        before, after = (e.values(name, self._set(set)) for e in (self.first, self.last))
        shared = [id for id in before if id in after]
        return [before[id] for id in shared], [after[id] for id in shared]

    def _set(self, set: str | None) -> str:
        return set if set is not None else (self.sets[0] if self.sets else "")


def timeline(evaluations: Iterable[Evaluation]) -> Timeline:
    """Read a history once, by rising step.

    Args:
        evaluations: The evaluations of one run; may be lazy.
    """
    snapshots: list[Snapshot] = []
    ends: list[Evaluation] = []
    for evaluation in evaluations:
        snapshots.append(snapshot(evaluation))
        if evaluation.failure is None and evaluation.rows:
            ends = [*ends[:1], evaluation] if ends and baseline_of(ends) is ends[0] else [evaluation]
    ends.sort(key=lambda e: e.step)
    return Timeline(
        tuple(sorted(snapshots, key=lambda s: s.step)), ends[0] if ends else None, ends[-1] if ends else None
    )


def snapshot(evaluation: Evaluation) -> Snapshot:
    """Return means, intervals and gaps of one evaluation, for every set and every value."""
    columns: dict[Key, list[float]] = defaultdict(list)
    for row in evaluation.rows:
        for name, value in row.values.items():
            columns[row.set, name].append(value)
    finite = {key: [v for v in column if math.isfinite(v)] for key, column in columns.items()}
    estimates = {k: e for k, v in finite.items() if (e := _estimate(k[1], v))}
    return Snapshot(
        step=evaluation.step,
        estimates=estimates | _calibration_errors(evaluation),
        unscored={k: 1 - len(finite[k]) / len(column) for k, column in columns.items()},
        seconds=dict(evaluation.seconds),
        failure=evaluation.failure,
    )


def _calibration_errors(evaluation: Evaluation) -> dict[Key, Estimate]:
    """The one number that belongs to a whole set; it has no interval."""
    found = {set: expected_calibration_error(evaluation, set) for set in evaluation.sets}
    counts = {set: len(evaluation.values("confidence", set)) for set in found}
    return {(s, "ece"): Estimate(e, math.nan, math.nan, counts[s]) for s, e in found.items() if math.isfinite(e)}


def estimate(
    values: Sequence[float], *, flag: bool, level: float = LEVEL, within: tuple[float, float] = EVERYWHERE
) -> Estimate | None:
    """Estimate a mean with its interval: Wilson's for shares of problems, Student's for the rest.

    Args:
        values: Finite values, one for each problem.
        flag: Whether they are all 0 or 1.
        level: Chance that the interval holds the mean.
        within: Where the mean lies by nature. Student's interval ends there, which costs it nothing.

    Returns:
        The estimate; None without values.

    Example:
        >>> e = estimate([1.0] * 10, flag=True)
        >>> e.mean, round(e.lower, 3), round(e.upper, 3)
        (1.0, 0.722, 1.0)
    """
    n = len(values)
    if n == 0:
        return None
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if flag:
        return Estimate(mean, *wilson(int(data.sum()), n, 1 - level), n)
    half = float(_student(n, level) * data.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    least, most = min(within[0], mean), max(within[1], mean)  # a probe of one's own may give anything by any name
    return Estimate(mean, max(mean - half, least), min(mean + half, most), n)


def _estimate(name: str, values: Sequence[float]) -> Estimate | None:
    known = measure(name)
    flag = (known.flag or not known.unit) and _are_zeros_and_ones(values)
    return estimate(values, flag=flag, within=(0.0, 1.0) if known.bounded else EVERYWHERE)


def _are_zeros_and_ones(values: Sequence[float]) -> bool:
    return all(value in (0.0, 1.0) for value in values)


@cache
def _student(n: int, level: float) -> float:
    return float(stats.t.ppf(0.5 + level / 2, n - 1))
