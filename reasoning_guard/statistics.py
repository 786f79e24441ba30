"""Decide whether a number has really changed: paired confidence bounds, and a level that lasts for a whole run.

Every held-out problem is read at the baseline and again at each look. So a change is judged on the ``n`` differences
``d_i = current_i - baseline_i``, and how hard a problem is cancels out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from scipy import stats

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]

MINIMUM_PAIRS = 16
"""Fewer pairs than this say nothing at the levels of a long run, so the question rests."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The smallest change that matters.

    Attributes:
        relative: As a share of the baseline's mean.
        absolute: In the unit of the value. It keeps every tremor from mattering when the baseline is near 0.
    """

    relative: float = 0.2
    absolute: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no size.

        Raises:
            ConfigurationError: A part that is no number, or not a finite one of at least 0.
        """
        parts: tuple[tuple[str, Any], ...] = (("relative", self.relative), ("absolute", self.absolute))
        for name, part in parts:
            is_number = isinstance(part, Real) and not isinstance(part, bool)  # pyright: ignore
            if not is_number or not math.isfinite(part) or part < 0:
                raise ConfigurationError(f"an effect's `{name}` is a finite number, at least 0; got {part!r}")

    def at(self, baseline: float) -> float:
        """Return the smallest change that matters from ``baseline``, in the unit of the value.

        >>> Effect(relative=0.2, absolute=0.1).at(3.0), Effect(relative=0.2, absolute=0.1).at(0.0)
        (0.6000000000000001, 0.1)
        """
        return max(self.absolute, self.relative * abs(baseline))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How far the mean of one value has moved from the baseline, over the problems that both evaluations scored.

    Attributes:
        name: The value's name.
        set: The problem set.
        n: Number of pairs.
        baseline: Mean at the baseline over the pairs.
        current: Mean now over the pairs.
        difference: ``current - baseline``.
        lower: One-sided lower confidence bound of the difference.
        upper: One-sided upper confidence bound of the difference.
        level: Chance that the true difference lies below ``lower``; likewise above ``upper``.
        standard_error: Standard error of the difference.
    """

    name: str
    set: str
    n: int
    baseline: float
    current: float
    difference: float
    lower: float
    upper: float
    level: float
    standard_error: float

    def bounds(self, *, share: bool) -> tuple[float, float]:
        """Return both bounds for people: the mean of a ``share`` can't move by more than 1."""
        return (max(self.lower, -1.0), min(self.upper, 1.0)) if share else (self.lower, self.upper)

    def fell(self, effect: Effect) -> bool:
        """Say whether the value is surely lower by more than ``effect``."""
        return self.upper < -effect.at(self.baseline)

    def rose(self, effect: Effect) -> bool:
        """Say whether the value is surely higher by more than ``effect``."""
        return self.lower > effect.at(self.baseline)


def spend(alpha: float, look: int) -> float:
    r"""Return the level that look number ``look`` may use, so that a whole run stays below ``alpha``.

    Look ``k`` gets ``alpha * 6 / (pi^2 k^2)``. Since ``sum_k 1/k^2 = pi^2/6`` (Euler, 1735), all looks together get
    ``alpha``, however many there are, and nobody has to know their number in advance.

    **Theorem** (Boole's inequality, G. Boole, *The Mathematical Analysis of Logic*, 1847; also called the union bound).
    For any events, ``P(A_1 or A_2 or ...) <= P(A_1) + P(A_2) + ...``. Let ``A_k`` be "look ``k`` is wrong", which has
    at most the probability of its level. Then the chance that *any* look is wrong is at most ``alpha``. Nothing is
    assumed about how the looks depend on each other. That matters here, because all looks read the same problems and
    share one baseline.

    Args:
        alpha: Largest chance of any false alarm in the run as a whole, between 0 and 1.
        look: Number of this look, 1 for the first after the baseline.

    Returns:
        The level of this look. Questions asked within a look share it, by the same theorem.

    Raises:
        ValueError: ``alpha`` lies outside (0, 1) or ``look`` below 1.

    Example:
        >>> round(spend(0.05, 1), 4), round(spend(0.05, 10), 6)
        (0.0304, 0.000304)
        >>> sum(spend(0.05, look) for look in range(1, 10_000)) < 0.05
        True
    """
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must lie between 0 and 1, e.g. 0.05; got {alpha}")
    if look < 1:
        raise ValueError(f"`look` counts from 1, the first evaluation after the baseline; got {look}")
    return alpha * 6 / (math.pi * look) ** 2


def mean_bounds(differences: Array, level: float) -> tuple[Array, Array, Array]:
    """Compute one-sided confidence bounds of a mean by Student's t, each missed with probability ``level``.

    The bounds are exact for normal differences (Student, *Biometrika* 6, 1908). What matters for false alarms is the
    case "nothing has changed". Baseline and current value of a problem are then exchangeable, so the differences are
    symmetric around 0. For symmetric differences, heavy tails tend to make the test cautious, not rash (Efron,
    "Student's t-test under symmetry conditions", *JASA* 64, 1969). Changes that lean to one side (many small losses,
    made up for by a few great gains) can break the level. No method holds there without further assumptions (Bahadur
    and Savage, *Ann. Math. Statist.* 27, 1956).

    ``benchmarks/false_alarms.py`` measures the share of runs (2,000 a case, 32 to 512 problems, 100 looks, alpha .05)
    in which any look finds a fall. If nothing has changed and any fall counts, it is at most .042. If nothing has
    changed and only falls beyond the shipped smallest effects count, it is .000. If values have fallen by exactly these
    effects, it is at most .021 for symmetric changes; for changes with skewness 6 it is up to .28 at 32 problems and
    .08 at 512 (two looks in a row: .16 and .03). ``docs/statistics.md`` has all tables.

    Args:
        differences: ``[..., n]`` finite numbers, n at least 2.
        level: Error probability of each bound.

    Returns:
        Lower bounds, upper bounds and standard errors, each ``[...]``. If all differences are equal, the standard error
        is 0 and both bounds equal the difference.

    Example:
        >>> lower, upper, _ = mean_bounds(np.array([-1.0, 0.0, -1.0, -1.0]), level=0.05)
        >>> round(float(lower), 2), round(float(upper), 2)
        (-1.34, -0.16)
    """
    n = differences.shape[-1]
    mean = differences.mean(axis=-1)
    error = differences.std(axis=-1, ddof=1) / math.sqrt(n)
    reach = float(stats.t.isf(level, n - 1)) * error
    return mean - reach, mean + reach, error


def paired_change(
    baseline: Evaluation, current: Evaluation, name: str, *, set: str | None = None, level: float
) -> Change | None:
    """Compute the change of ``name`` from ``baseline`` to ``current``, problem by problem.

    Args:
        baseline: The evaluation to compare with.
        current: The evaluation to judge.
        name: The value's name.
        set: The problem set; None takes the first.
        level: Error probability of each bound.

    Returns:
        The change, or None if fewer than :data:`MINIMUM_PAIRS` problems have a finite value in both.
    """
    before, after = baseline.values(name, set), current.values(name, set)
    pairs = np.array([(before[id], after[id]) for id in before if id in after])
    if len(pairs) < MINIMUM_PAIRS:
        return None
    lower, upper, error = map(float, mean_bounds(pairs[:, 1] - pairs[:, 0], level))
    was, now = map(float, pairs.mean(axis=0))
    return Change(
        name=name,
        set=set if set is not None else baseline.sets[0],
        n=len(pairs),
        baseline=was,
        current=now,
        difference=now - was,
        lower=lower,
        upper=upper,
        level=level,
        standard_error=error,
    )
