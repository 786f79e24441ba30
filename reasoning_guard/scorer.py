"""The scorer: from traces to answer curves, in one pass if that is exact, else in one pass for each branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.formats import TraceFormat
from reasoning_guard.reader import TraceReader
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore, TraceTree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class AnswerCurve:
    """How likely an answer is after ``k = 0..n`` steps.

    Attributes:
        logprobs: ``n + 1`` sums ``lp_k`` over the answer's tokens, in nats.
        n_tokens: Number of scored answer tokens ``N``, terminator included.
        greedy: ``n + 1`` flags that say whether greedy decoding would write exactly this answer here.
        entropies: ``n + 1`` mean next-token entropies over the answer's tokens, in nats.
    """

    logprobs: tuple[float, ...]
    n_tokens: int
    greedy: tuple[bool, ...]
    entropies: tuple[float, ...]


class AnswerScorer(BranchScorer):
    """Scores answers at the cuts of traces with one causal language model.

    Args:
        model: The model to read, in any state; it is left in that state.
        tokenizer: Its tokenizer; never changed.
        format: How an answer is asked for (a preset's name or a :class:`~reasoning_guard.formats.TraceFormat`).
        token_budget: Most tokens, padding included, in one batch; see :class:`BranchScorer`.
        shared: None lets the self-test decide; False scores every branch on its own.

    Example:
        >>> scorer = AnswerScorer(model, tokenizer, "gsm8k")              # doctest: +SKIP
        >>> [curve] = scorer.score([trace])                               # doctest: +SKIP
        >>> (curve.logprobs[-1] - curve.logprobs[0]) / curve.n_tokens     # InfoGain, nats a token  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        format: str | TraceFormat = "plain",
        *,
        token_budget: int | None = None,
        shared: bool | None = None,
    ) -> None:
        super().__init__(model, token_budget=token_budget, shared=shared)
        self.reader = TraceReader(tokenizer, format)

    def score(self, traces: Sequence[Trace], answers: Sequence[str] | None = None) -> list[AnswerCurve]:
        """Score an answer at every cut of every trace.

        Args:
            traces: Traces to read.
            answers: One answer for each trace; by default the problems' reference answers.

        Returns:
            One curve for each trace; NaN where a sequence is longer than the model's context.

        Raises:
            ValueError: A trace's problem has no reference answer, and no answer is given.
        """
        return [_curve(scores) for scores in self.score_trees(self._trees(traces, answers))]

    def score_groups(self, groups: Sequence[Sequence[Trace]]) -> list[list[AnswerCurve]]:
        """Score the reference answer at every cut of several completions of a problem, reading each prompt once.

        Args:
            groups: For each problem its traces, as GRPO and its relatives sample them.

        Returns:
            For each group, what :meth:`score` returns for its traces.

        Raises:
            ValueError: A trace's problem has no reference answer.
        """
        trees = [self._trees(traces, None) for traces in groups]
        return [[_curve(scores) for scores in group] for group in self.score_tree_groups(trees)]

    def _trees(self, traces: Sequence[Trace], answers: Sequence[str] | None) -> list[TraceTree]:
        wanted = [trace.problem.answer for trace in traces] if answers is None else list(answers)
        missing = [trace.problem.id for trace, answer in zip(traces, wanted, strict=True) if answer is None]
        if missing:
            raise ValueError(f"no answer to score for problem(s) {missing[:3]}: pass `answers=` or drop them")
        questions = [self.reader.ask(answer) for answer in wanted if answer is not None]
        return [
            TraceTree(trace.ids, tuple(q.branch(cut) for cut in trace.cuts))
            for trace, q in zip(traces, questions, strict=True)
        ]


def _curve(scores: Sequence[BranchScore]) -> AnswerCurve:
    return AnswerCurve(
        logprobs=tuple(score.total for score in scores),
        n_tokens=len(scores[0].logprobs),
        greedy=tuple(score.all_greedy for score in scores),
        entropies=tuple(sum(score.entropies) / len(score.entropies) for score in scores),
    )
