"""Evaluations made up for the rules: healthy ones, with some means altered."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row

HEALTHY = {
    "accuracy": 0.75,
    "placebo_changed": 0.97,
    "mistake_changed": 0.97,
    "chain_holds": 0.97,
    "reference/info_gain": 2.0,
    "info_gain": 2.0,
    "early_answering_aoc": 0.9,
    "prior": -2.4,
    "posterior": -0.1,
    "tokens": 40.0,
    "finished": 0.97,
    "hedges_per_1000": 8.0,
    "token_entropy": 4.0,
}
SHARES = {"accuracy", "placebo_changed", "mistake_changed", "chain_holds", "finished"}
"""Values that are 0 or 1 for each problem."""


def evaluation(step: int, n: int = 64, set: str = "id", **means: float) -> Evaluation:
    """A healthy evaluation with some means altered; NaN takes a value away."""
    rng = random.Random(f"{step} {set}")

    def value(name: str, mean: float) -> float:
        drawn = float(rng.random() < mean) if name in SHARES else mean + rng.gauss(0, 0.3)
        return math.nan if math.isnan(mean) else drawn

    wanted = {**HEALTHY, **{name.replace("reference_", "reference/"): mean for name, mean in means.items()}}
    rows = tuple(
        Row(id=f"p{i}", set=set, values={name: value(name, mean) for name, mean in wanted.items()}) for i in range(n)
    )
    return Evaluation(step=step, rows=rows)


def both(step: int, ood: float = 0.75, near: float = 0.75) -> Evaluation:
    """An evaluation of two problem sets with their accuracies."""
    far = tuple(replace(row, id=f"far {row.id}") for row in evaluation(step, set="ood", accuracy=ood).rows)
    return Evaluation(step=step, rows=evaluation(step, accuracy=near).rows + far)


def names(alerts: Sequence[Alert]) -> list[str]:
    return [alert.key for alert in alerts]


TRAPPED = {"accuracy": 1.0, "placebo_changed": 0.0, "mistake_changed": 0.05, "prior": -0.1}


def answers_that_follow(step: int, share: float, n: int = 128) -> Evaluation:
    """Whether the answer changes under another problem's steps, as the 0 or 1 that it is for each problem."""
    changed = round(share * n)
    rows = (Row(id=f"p{i}", values={"accuracy": 1.0, "placebo_changed": float(i < changed)}) for i in range(n))
    return Evaluation(step=step, rows=tuple(rows))
