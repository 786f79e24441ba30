"""The scorer: trees in, log-probabilities out; one pass where that is exact, one pass a branch where it is not."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from reasoning_guard.formats import TraceFormat
from reasoning_guard.forward import Scores, score_independent, score_shared
from reasoning_guard.model_context import context_length, device_of, reading
from reasoning_guard.reader import TraceReader
from reasoning_guard.selftest import Verdict, confirm, verdict_of_twin
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore, TraceTree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_CPU_BUDGET, _GPU_BUDGET = 2_048, 16_384


@dataclass(frozen=True, slots=True)
class AnswerCurve:
    """How likely an answer is after ``k = 0..n`` steps.

    Attributes:
        logprobs: ``n + 1`` sums ``lp_k`` over the answer's tokens, in nats.
        n_tokens: Number of scored answer tokens ``N``, terminator included.
        greedy: ``n + 1`` flags: greedy decoding would write exactly this answer here.
        entropies: ``n + 1`` mean next-token entropies over the answer's tokens, in nats.
    """

    logprobs: tuple[float, ...]
    n_tokens: int
    greedy: tuple[bool, ...]
    entropies: tuple[float, ...]


class AnswerScorer:
    """Scores branches on traces with one causal language model.

    Args:
        model: The model to read, in whatever state it is; it is left in that state.
        tokenizer: Its tokenizer; never changed.
        format: How an answer is asked for (a preset's name or a :class:`~reasoning_guard.formats.TraceFormat`).
        token_budget: Most tokens, padding included, in one forward; default 2,048 on a CPU, where small batches win,
            and 16,384 elsewhere. Halved when memory runs out, and kept there.
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
        self.model = model
        self.reader = TraceReader(tokenizer, format)
        self.token_budget = token_budget or (_CPU_BUDGET if device_of(model).type == "cpu" else _GPU_BUDGET)
        self.verdict = Verdict(None, "asked for") if shared is False else None

    def score(self, traces: Sequence[Trace], answers: Sequence[str] | None = None) -> list[AnswerCurve]:
        """Score an answer at every cut of every trace.

        Args:
            traces: Traces to read.
            answers: One answer a trace; default the problems' reference answers.

        Returns:
            One curve a trace; NaN where a sequence is longer than the model's context.

        Raises:
            ValueError: If a trace's problem has no reference answer and none is given.
        """
        wanted = [trace.problem.answer for trace in traces] if answers is None else list(answers)
        missing = [trace.problem.id for trace, answer in zip(traces, wanted, strict=True) if answer is None]
        if missing:
            raise ValueError(f"no answer to score for problem(s) {missing[:3]}: pass `answers=` or drop them")
        questions = [self.reader.ask(answer) for answer in wanted if answer is not None]
        trees = [
            TraceTree(trace.ids, tuple(Branch(cut, q.ids, q.scored) for cut in trace.cuts))
            for trace, q in zip(traces, questions, strict=True)
        ]
        return [_curve(scores) for scores in self.score_trees(trees)]

    def score_trees(self, trees: Sequence[TraceTree]) -> Scores:
        """Score every branch of every tree, in order.

        Memory that runs out halves the token budget and the work goes on from where it was.

        Args:
            trees: Trees to score; one without branches is fine.

        Returns:
            A score a branch, for each tree. Branches beyond the model's context are NaN.
        """
        limit = context_length(self.model)
        fits = [TraceTree(t.trunk, tuple(b for b in t.branches if _fits(b, limit))) for t in trees]
        found: dict[int, list[BranchScore]] = {}
        with reading(self.model, dense_masks=True):
            self._settle([tree for tree in fits if tree.branches])
            pending = sorted((i for i, t in enumerate(fits) if t.branches), key=lambda i: len(fits[i].trunk))
            while pending:
                batch = self._next_batch(fits, pending)
                try:
                    scores = self._score_batch([fits[i] for i in batch])
                except torch.OutOfMemoryError:
                    self._halve([fits[i] for i in batch])
                    continue
                found.update(zip(batch, scores, strict=True))
                pending = pending[len(batch) :]
        return [_in_order(tree, limit, found.get(i, [])) for i, tree in enumerate(trees)]

    def _settle(self, trees: Sequence[TraceTree]) -> None:
        """Decide once, on the first trees, which path is exact for this model, and say so."""
        if self.verdict is not None or not trees:
            return
        self.verdict = confirm(self.model, verdict_of_twin(self.model), trees)
        path = "one shared pass" if self.verdict.plan else "a pass of its own for every branch (slower, always right)"
        level = logging.INFO if self.verdict.plan else logging.WARNING
        logger.log(level, "scoring %s by %s: %s", type(self.model).__name__, path, self.verdict.reason)

    def _score_batch(self, trees: Sequence[TraceTree]) -> Scores:
        assert self.verdict is not None
        if self.verdict.plan is None:
            return score_independent(self.model, trees, self.token_budget)
        return score_shared(self.model, trees, self.verdict.plan)

    def _next_batch(self, trees: Sequence[TraceTree], pending: Sequence[int]) -> list[int]:
        """The longest run of trees, sorted by length, whose padded size is within the token budget; one at least."""
        batch: list[int] = []
        widest = 0
        for i in pending:
            widest = max(widest, _size(trees[i]))
            if batch and (len(batch) + 1) * widest > self.token_budget:
                break
            batch.append(i)
        return batch

    def _halve(self, batch: Sequence[TraceTree]) -> None:
        """Halve the budget below what has just failed, so that the next try is a smaller one."""
        if len(batch) == 1:
            raise torch.OutOfMemoryError(
                f"out of memory on a single trace of {_size(batch[0])} tokens with its branches"
            )
        self.token_budget = min(self.token_budget, len(batch) * max(map(_size, batch))) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory on %d traces: token budget halved to %d", len(batch), self.token_budget)


def _size(tree: TraceTree) -> int:
    return len(tree.trunk) + sum(len(branch.ids) for branch in tree.branches)


def _fits(branch: Branch, limit: int | None) -> bool:
    return limit is None or branch.at + len(branch.ids) - 1 <= limit


def _in_order(tree: TraceTree, limit: int | None, found: Sequence[BranchScore]) -> list[BranchScore]:
    """The scores in the order of the tree's own branches, NaN for those that did not fit."""
    scored = iter(found)
    return [next(scored) if _fits(branch, limit) else _unscored(branch) for branch in tree.branches]


def _unscored(branch: Branch) -> BranchScore:
    n = branch.scored[1] - branch.scored[0]
    return BranchScore((math.nan,) * n, (False,) * n, (math.nan,) * n, (math.nan,) * n)


def _curve(scores: Sequence[BranchScore]) -> AnswerCurve:
    return AnswerCurve(
        logprobs=tuple(score.total for score in scores),
        n_tokens=len(scores[0].logprobs),
        greedy=tuple(score.all_greedy for score in scores),
        entropies=tuple(sum(score.entropies) / len(score.entropies) for score in scores),
    )
