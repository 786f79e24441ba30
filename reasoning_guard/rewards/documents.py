"""A reward for answers that rest on the documents that came with the question."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoning_guard.problems import Problem, with_text_before
from reasoning_guard.rewards.base import TraceReward
from reasoning_guard.rewards.batch import Batch
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore, TraceTree

_SURE, _UNLIKELY = -0.2, -5.0
"""Bounds of RLAG, in nats a token: what is sure with documents earns no more, what is hopeless without no less."""


class AugmentedGenerationReward(TraceReward):
    """Pays for how much likelier the documents make the answer that was given, in nats a token.

    This is the margin of RLAG (Nie et al. 2025, https://arxiv.org/abs/2509.20162): the mean log-probability of the
    trace's own answer behind documents and question, at most -0.2, minus that behind the question alone, at least -5.
    An answer that the documents support, and that the reader would not have given without them, earns most. An answer
    that they contradict earns less than nothing. RLAG samples the two answers and compares two losses. Here each
    completion is graded by itself, and the reasoning is left out of both views, so that it cannot bring in the answer.

    The dataset needs a column "documents" (a list of texts, or one text). The reward is None if a row has none, or if
    the trace gives no answer.

    Args:
        answer: Column with the reference answers; a wrong answer earns 0. With None, the default, and no ``correct``,
            the documents alone judge.
        **options: ``scorer``, ``tokenizer``, ``format`` and ``correct`` of :class:`TraceReward`.
    """

    name = "augmented_generation"

    def __init__(self, answer: str | None = None, **options: object) -> None:
        super().__init__(answer, **options)  # type: ignore[arg-type]

    def _grade(self, traces: Sequence[Trace], batch: Batch) -> list[float | None]:
        paid = self._paid(traces, batch)
        without = self._score(traces, [self._tree(t, t.prompt_ids) for t in traces])
        given = self._score(traces, [self._tree(t, self._prompt_ids(with_documents(t.problem))) for t in traces])
        margins = [margin(*each) for each in zip(given, without, strict=True)]
        known = [value for value in margins if value is not None]
        if known:
            batch.log(f"{self.name}/margin", sum(known) / len(known))
        return [
            None if ok is None or value is None else value if ok else 0.0
            for value, ok in zip(margins, paid, strict=True)
        ]

    def _tree(self, trace: Trace, prompt: tuple[int, ...]) -> TraceTree | None:
        if trace.answer is None or not trace.problem.documents:
            return None
        assert self.reader is not None
        question = self.reader.ask(trace.answer)
        return TraceTree(prompt, (question.branch(len(prompt)),))


def with_documents(problem: Problem) -> Problem:
    r"""Return the problem with its documents before the question; in a chat, before the last message.

    Example:
        >>> with_documents(Problem(prompt="Who?", documents=("It was Ann.",))).prompt
        'It was Ann.\n\nWho?'
    """
    return with_text_before(problem, "".join(f"{document}\n\n" for document in problem.documents))


def margin(given: Sequence[BranchScore] | None, without: Sequence[BranchScore] | None) -> float | None:
    """Return ``min(L_given, -0.2) - max(L_without, -5)``, mean log-probabilities in nats a token; None if unscored."""
    if not given or not without or not math.isfinite(given[0].total + without[0].total):
        return None
    return min(given[0].mean, _SURE) - max(without[0].mean, _UNLIKELY)
