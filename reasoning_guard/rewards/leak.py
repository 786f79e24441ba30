"""Tokens that only make sense to somebody who already knows the answer (the penalty of RLT).

One reader, two views: the reasoning after the prompt, and after the prompt with the answer given away. A token that is
far likelier in the second view was written towards the answer, not towards finding it. After the KL term of Sakana's
reinforcement-learned teachers (Cetin et al. 2025, https://arxiv.org/abs/2506.08388), up to the first statement of the
answer, where knowing it is everybody's right.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoning_guard.reader import Question
from reasoning_guard.tree import Branch, BranchScore

_PEAK = 0.01
"""Weight of the worst token beside the mean, as in RLT: a single leap does not average out in a long text."""


def leak_branches(text: tuple[int, ...], at: int, question: Question) -> list[Branch] | None:
    """The text before the statement, without and with the answer given away before it; none where there is no text.

    None where the text begins behind a single token: the scorer reads that again, and nothing stands before it.

    Args:
        text: Token ids of the reasoning before the answer is first stated.
        at: Where the reasoning begins.
        question: Asks for the reference answer; given away are its cue and the answer.
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
    """Mean difference of the two views over the tokens plus a hundredth of the largest, in nats, at least 0.

    Args:
        scores: What :func:`leak_branches` asked for; empty when there was no text.

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
