"""Lone lucky successes: the only right answer of a group, with nothing in the text that leads to it.

A right answer among ``G`` samples gets the group-normalised advantage ``sqrt((1 - p) / p)``, where ``p`` is the share
of right answers: 2.6 for one in eight, 3.9 for one in sixteen. If it was a guess, the largest push of the batch goes to
whatever happened to be written before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = 0.1
"""A net gain of at most this, in nats a token, is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is known about one completion.

    Attributes:
        problem: The problem's id; samples of one problem are a group.
        right: Whether its answer is right.
        gain: Net gain over the placebo up to the statement of the answer, in nats a token; NaN if it is not known.
    """

    problem: str
    right: bool
    gain: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """How much of a batch rests on luck.

    Attributes:
        groups: Number of groups.
        problems: Problems whose group has a lone lucky success.
        lucky: Positions of these successes among the samples.
        advantage: Share of the batch's positive correctness advantage that they carry, 0 to 1.
    """

    groups: int
    problems: tuple[str, ...]
    lucky: tuple[int, ...]
    advantage: float

    def __str__(self) -> str:
        """A sentence for the user."""
        return (
            f"{len(self.lucky)} of {self.groups} groups have one right answer and no text that leads to it; "
            f"these carry {self.advantage:.0%} of the positive advantage (problems {', '.join(self.problems[:3])})"
        )


def luck(samples: Sequence[Sample]) -> Luck:
    """Find the lone lucky successes of a batch.

    A success of unknown gain does not count as lucky.

    Args:
        samples: All samples of all groups, those of other processes included.

    Example:
        >>> batch = [Sample(problem="a", right=i == 0, gain=0.0) for i in range(4)]
        >>> batch += [Sample(problem="b", right=i < 2, gain=2.0) for i in range(4)]
        >>> found = luck(batch)
        >>> found.problems, round(found.advantage, 2)
        (('a',), 0.46)
    """
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.problem, []).append(i)
    lucky: list[int] = []
    pushes = carried = 0.0
    for members in groups.values():
        right = [i for i in members if samples[i].right]
        p = len(right) / len(members)
        push = math.sqrt((1 - p) / p) if 0 < p < 1 else 0.0
        pushes += push * len(right)
        if len(right) == 1 < len(members) and samples[right[0]].gain <= NOTHING:
            lucky += right
            carried += push
    problems = tuple(samples[i].problem for i in lucky)
    return Luck(
        groups=len(groups), problems=problems, lucky=tuple(lucky), advantage=carried / pushes if pushes else 0.0
    )
