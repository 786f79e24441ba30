"""What guarding costs: announced before it is spent, logged afterwards, and kept under a limit if one is set.

Everything but the clock is read off the records, so a resumed run goes on as the first one did. Times differ from
process to process and from run to run, so decisions that depend on them are taken on the main process, for all. They
affect only when and how much is read, never the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from reasoning_guard.evaluation import Evaluation
from reasoning_guard.problems import Problem

PROBED = 8
"""Fewest problems on each process, and their share of all, that are read to measure what all of them will cost."""

FEWEST = 32
"""Problems are never narrowed below this: fewer find next to nothing, and cost too little to be worth a probe."""

WIDEST = 4
"""The interval between evaluations grows up to this many times before problems are left out."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one evaluation takes.

    Attributes:
        problems: Number of problems.
        tokens: Tokens that the model writes for them, without altered traces.
        seconds: Wall time.
    """

    problems: int
    tokens: int
    seconds: float

    @classmethod
    def of(cls, evaluation: Evaluation) -> Cost:
        """Return what an evaluation took."""
        written = sum(sum(evaluation.values("tokens", set).values()) for set in evaluation.sets)
        return cls(len(evaluation.rows), round(written), evaluation.seconds.get("total", 0.0))

    def between(self, share: float) -> float:
        """Return the seconds of training between evaluations for which evaluating takes ``share`` of the time.

        >>> Cost(problems=128, tokens=6400, seconds=30.0).between(0.05)
        570.0
        """
        return round(self.seconds * (1 - share) / share, 6)


def extrapolated(fewer: Cost, more: Cost, problems: int, rounds: float = 1.0) -> Cost:
    """Estimate what ``problems`` problems would take, from what two small numbers of them took.

    A batch takes as many passes as its longest trace has tokens, however many traces it holds. So part of the time is a
    fixed price for each round of batches. Only what the larger number took beyond the smaller one is the price of the
    problems.

    Args:
        fewer: What the smaller number took.
        more: What the larger number took.
        problems: How many there will be.
        rounds: By what factor the number of batches grows.

    Returns:
        The cost. It is never less than what ``more`` took, nor more than that times the number of problems.

    Example:
        >>> two, eight = Cost(problems=2, tokens=60, seconds=1.1), Cost(problems=8, tokens=240, seconds=1.4)
        >>> extrapolated(two, eight, 128)
        Cost(problems=128, tokens=3840, seconds=7.4)
        >>> extrapolated(two, eight, 128, rounds=3).seconds
        9.4
    """
    factor = problems / max(1, more.problems)
    each = max(0.0, more.seconds - fewer.seconds) / max(1, more.problems - fewer.problems)
    a_round = max(0.0, more.seconds - each * more.problems)
    seconds = min(a_round * rounds + each * problems, more.seconds * factor)
    return Cost(problems, round(more.tokens * factor), round(seconds, 6))


class Budget:
    """Decides when to evaluate, and on how many problems, under a limit on the share of the time.

    Args:
        problems: All problems of the run.
        limit: The share of the time that evaluating may take, or None for no limit.
    """

    def __init__(self, problems: Sequence[Problem], limit: float | None) -> None:
        """See the class."""
        self.problems, self.limit = problems, limit
        self._since: float | None = None
        self._skipped = 0

    def training(self) -> float:
        """Seconds since the last evaluation ended; 0 before there was one."""
        return 0.0 if self._since is None else time.perf_counter() - self._since

    def next_size(self, made: Sequence[Evaluation]) -> int:
        """Return how many problems the next evaluation may have; 0 skips it. Asked on the main process.

        Args:
            made: All evaluations of the run. Before there was a sound one, and without a limit, all problems are read.
        """
        last = next((e for e in reversed(made) if e.failure is None and e.rows), None)
        if self.limit is None or last is None or self._since is None:
            return len(last.rows) if last is not None and self.limit is not None else len(self.problems)
        size = affordable(last, len(self.problems), self.training(), self._skipped, self.limit)
        self._skipped = 0 if size else self._skipped + 1
        return size

    def evaluated(self) -> None:
        """Note that an evaluation has ended and training goes on from here."""
        self._since = time.perf_counter()


def announcement(cost: Cost, limit: float | None) -> str:
    """Say what an evaluation will cost, for people, before the first one.

    Training has not begun, so the share of the time is put the other way round: how much training keeps it.
    """
    share = 0.05 if limit is None else limit
    stretch = cost.between(share)
    rule = "; evaluations that come sooner are left out, then problems" if limit is not None else ""
    return (
        f"an evaluation of {cost.problems} problems will take about {_seconds(cost.seconds)} s (some {cost.tokens} "
        f"tokens to write, measured on a few problems): {share:.0%} of the time if there are {_seconds(stretch)} s of "
        f"training between two of them{rule}"
    )


def report(evaluation: Evaluation, made: Sequence[Evaluation]) -> str:
    """Say what an evaluation has cost, for the log."""
    seconds, share = evaluation.seconds, share_of_time(made)
    parts = ", ".join(f"{name} {_seconds(seconds.get(name, 0.0))}" for name in ("generation", "scoring", "rest"))
    taken = "" if math.isnan(share) else f"; {share:.1%} of the time so far"
    total = _seconds(seconds.get("total", 0.0))
    return f"step {evaluation.step}: {len(evaluation.rows)} problems in {total} s ({parts}){taken}"


def _seconds(value: float) -> str:
    """Three digits, and all digits of a thousand and more, which would be written as powers."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def timed(evaluation: Evaluation, training: float) -> dict[str, float]:
    """Return an evaluation's seconds by part, with the remainder and the seconds of training before it."""
    known = evaluation.seconds
    rest = known.get("total", 0.0) - known.get("generation", 0.0) - known.get("scoring", 0.0)
    return {**known, "rest": max(0.0, rest), "training": training}


def share_of_time(made: Sequence[Evaluation]) -> float:
    """Return the share of the wall time that evaluations took; NaN before there was training between them."""
    guarding = sum(e.seconds.get("total", 0.0) for e in made)
    training = sum(e.seconds.get("training", 0.0) for e in made)
    return guarding / (guarding + training) if training else math.nan


def affordable(last: Evaluation, problems: int, training: float, skipped: int, limit: float) -> int:
    """Return how many problems the next evaluation may have under ``limit``; 0 skips it.

    First the interval widens, up to :data:`WIDEST` times. Then problems are left out. If :data:`FEWEST` problems are
    still too many, the interval widens further.

    Args:
        last: The latest evaluation. It says what a problem costs, and how many problems are left.
        problems: Number of problems of the run.
        training: Seconds of training since then.
        skipped: Evaluations that have been skipped since then.
        limit: The share of the time that evaluating may take, between 0 and 1.

    Returns:
        A number of problems, never more than the last one had.

    Example:
        >>> last = Evaluation(step=0, rows=(), seconds={"total": 10.0})
        >>> affordable(last, problems=100, training=190.0, skipped=0, limit=0.05)
        100
        >>> affordable(last, 100, 95.0, 0, 0.05), affordable(last, 100, 95.0, 3, 0.05)
        (0, 50)
    """
    had = len(last.rows) or problems
    allowed = training * limit / (1 - limit)
    fits = math.floor(had * min(1.0, allowed / max(last.seconds.get("total", 0.0), 1e-9)) + 1e-9)
    if fits >= had:
        return had
    return fits if skipped + 1 >= WIDEST and fits >= FEWEST else 0


def nested(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Take part of the problems, the same share of each set. A smaller part lies within every larger one.

    So the part can still be compared with a baseline of more problems. A hash of their ids decides which problems stay,
    so nothing that has been measured has a say in it.

    Args:
        problems: All problems.
        count: How many to keep, about; sets are rounded up.

    Returns:
        Those that stay, in their own order.
    """
    kept: set[str] = set()
    for name in {problem.set for problem in problems}:
        drawn = sorted((sha256(p.id.encode()).hexdigest(), p.id) for p in problems if p.set == name)
        kept.update(id for _, id in drawn[: math.ceil(len(drawn) * count / len(problems))])
    return [problem for problem in problems if problem.id in kept]
