"""Tokens that only make sense to somebody who already knows the answer (the penalty of RLT).

One reader has two views: the reasoning after the prompt, and the reasoning after the prompt with the answer given away.
A token that is far likelier in the second view was written towards the answer, not towards finding it. This follows the
KL term of Sakana's reinforcement-learned teachers (Cetin et al. 2025, https://arxiv.org/abs/2506.08388), up to the
first statement of the answer; from there on, knowing the answer is no leak.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoning_guard.reader import Question
from reasoning_guard.tree import Branch, BranchScore

_PEAK = 0.01
"""Weight of the worst token beside the mean, as in RLT: a single leap does not average out in a long text."""


def leak_branches(text: tuple[int, ...], at: int, question: Question) -> list[Branch] | None:
    """Ask for the text before the statement, with and without the answer given away; nothing if there is no text.

    Returns None if the text begins behind a single token: the scorer reads that token again, and nothing precedes it.

    Args:
        text: Token ids of the reasoning before the answer is first stated.
        at: Where the reasoning begins.
        question: Asks for the reference answer. Its cue and the answer are what is given away.
    """
    if not text:
        return []
    if at < 2:
        return None
    told = question.ids[: question.answer[1]]
    return [
        Branch(at, text, (0, len(text))),
        Branch(at, told + text, (len(told), len(told) + len(text))),
    ]


def leak(scores: Sequence[BranchScore]) -> float:
    """Return the two views' mean difference plus a hundredth of the largest one, in nats, at least 0.

    Args:
        scores: What :func:`leak_branches` asked for; empty if there was no text.

    Example:
        >>> plain, told = (BranchScore(x, (True,) * 2, (0.0,) * 2, (0.0,) * 2) for x in ((-2.0, -1.0), (-1.0, -1.0)))
        >>> leak([plain, told])
        0.51
    """
    if not scores:
        return 0.0
    plain, told = scores
    differences = [b - a for a, b in zip(plain.logprobs, told.logprobs, strict=True)]
    return max(0.0, sum(differences) / len(differences) + _PEAK * max(differences))
