"""Rewards for how sure a model is of its own answer, after its own text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reasoning_guard.rewards.base import TraceReward
from reasoning_guard.rewards.batch import Batch
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore, TraceTree


class _OwnAnswerReward(TraceReward):
    """Asks for the trace's own answer at the end of its reasoning; the model in training reads by default."""

    def __init__(self, answer: str | None = "solution", *, scorer: Any = "policy", **options: Any) -> None:
        super().__init__(answer, scorer=scorer, **options)

    def _own_scores(self, traces: Sequence[Trace]) -> list[BranchScore | None]:
        scores = self._score(traces, [self._tree(trace) for trace in traces])
        return [each[0] if each and math.isfinite(each[0].total) else None for each in scores]

    def _tree(self, trace: Trace) -> TraceTree | None:
        if trace.answer is None:
            return None
        assert self.reader is not None
        question = self.reader.ask(trace.answer)
        return TraceTree(trace.ids, (question.branch(trace.cuts[-1]),))


class AnswerConfidenceReward(_OwnAnswerReward):
    """Pays for how far the answer stands out: mean over its tokens of ``p(token) - p(runner-up)``, 0 to 1.

    This is the confidence of RLSF (van Niekerk et al. 2025, https://arxiv.org/abs/2507.21931), read after the trace's
    own reasoning. A token that is not the most likely one counts 0 (in RLSF it may count less than 0).

    Confidence alone teaches a model to be confidently wrong, so a wrong answer earns 0. With ``answer=None`` and
    without ``correct`` there is no reference, and every answer is paid, which is RLSF as published.

    Args:
        answer: Column with the reference answers, or None.
        **options: ``scorer`` (default "policy"), ``tokenizer``, ``format`` and ``correct`` of :class:`TraceReward`.
    """

    name = "answer_confidence"

    def _grade(self, traces: Sequence[Trace], batch: Batch) -> list[float | None]:
        paid = self._paid(traces, batch)
        found = [None if score is None else disparity(score) for score in self._own_scores(traces)]
        known = [value for value in found if value is not None]
        if known:
            batch.log(f"{self.name}/disparity", sum(known) / len(known))
        return [None if ok is None else value if ok else 0.0 for value, ok in zip(found, paid, strict=True)]


class CalibrationReward(_OwnAnswerReward):
    """Pays one minus the squared distance of confidence and correctness, 0 to 1 (Brier 1950).

    Confidence is the probability of the trace's own answer, terminator included, after its own reasoning. The score is
    proper: in expectation, nothing earns more than a confidence that equals the chance of being right. The form is
    RLCR's (Damani et al. 2025, https://arxiv.org/abs/2507.16806), which takes the confidence that the model writes
    down, and adds the correctness itself.

    Here correctness is left to a reward of its own, which must not be missing. Alone, this reward pays most for a wrong
    answer that contradicts the trace's own chain, since nothing is easier to be sure of. Beside a correctness reward of
    0 and 1 with weight ``a``, a right answer is worth at least ``a``, and a wrong one at most the weight ``b`` of this
    reward. With ``a >= b``, no wrong answer is worth more than any right one.

    Args:
        answer: Column with the reference answers.
        **options: ``scorer`` (default "policy"), ``tokenizer``, ``format`` and ``correct`` of :class:`TraceReward`.
    """

    name = "calibration"

    def _grade(self, traces: Sequence[Trace], batch: Batch) -> list[float | None]:
        right = self._right(traces, batch)
        sure = [None if score is None else math.exp(score.total) for score in self._own_scores(traces)]
        known = [(p, float(ok)) for p, ok in zip(sure, right, strict=True) if p is not None and ok is not None]
        if known:
            batch.log(f"{self.name}/confidence", sum(p for p, _ in known) / len(known))
            batch.log(f"{self.name}/accuracy", sum(ok for _, ok in known) / len(known))
        return [
            1 - (p - ok) ** 2 if p is not None and ok is not None else None for p, ok in zip(sure, right, strict=True)
        ]


def disparity(score: BranchScore) -> float:
    """Average the probability by which the most likely token leads; 0 where the token is not that one.

    Example:
        >>> import math
        >>> round(disparity(BranchScore((math.log(0.6),), (True,), (0.0,), (math.log(0.6 / 0.3),))), 3)
        0.3
    """
    leads = (
        math.exp(logprob) * (1 - math.exp(-margin)) if greedy else 0.0
        for logprob, margin, greedy in zip(score.logprobs, score.margins, score.greedy, strict=True)
    )
    return sum(leads) / len(score.logprobs)
