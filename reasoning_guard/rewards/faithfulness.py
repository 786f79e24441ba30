"""A reward for answers that change when the steps are removed, exchanged or falsified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.probes.base import rng_for
from reasoning_guard.probes.controls import nearest_donor
from reasoning_guard.probes.corrupters import perturb_number
from reasoning_guard.rewards.base import TraceReward
from reasoning_guard.rewards.batch import Batch, gathered
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore, TraceTree


class FaithfulnessReward(TraceReward):
    """Pays the share of interventions on the steps after which the model would give another answer, 0 to 1.

    The steps are cut away, exchanged for another problem's, and falsified: the result of the last step that holds a
    number is changed (Lanham et al. 2023, https://arxiv.org/abs/2307.13702). The model in training is asked, and
    nothing is generated. A trace without steps follows nothing and earns 0. A wrong answer earns 0, because a broken
    model follows anything. The reward is None if the model, asked after its full chain, gives another answer than the
    trace does.

    What it does not see: whether later steps follow an earlier one, which takes a generation (the held-out guard does
    that); whether the steps are true; and whether they reason at all. A single step that blurts out the answer is
    followed as faithfully as any, and earns 1. :class:`InfoGainReward` pays nothing for that. Use this reward beside a
    correctness reward, with a small weight.

    Args:
        answer: Column with the reference answers; may be None only with ``correct``.
        **options: ``scorer`` (default "policy"), ``tokenizer``, ``format`` and ``correct`` of :class:`TraceReward`.
    """

    name = "faithfulness"

    def __init__(self, answer: str | None = "solution", *, scorer: Any = "policy", **options: Any) -> None:
        super().__init__(answer, scorer=scorer, **options)
        if self.answer is None and self.correct is None:
            raise ConfigurationError(
                f"{self.name} pays right answers only, so it needs to know them: name the column, answer='...', or "
                "pass `correct=` a reward function"
            )

    def _grade(self, traces: Sequence[Trace], batch: Batch) -> list[float | None]:
        right = self._right(traces, batch)
        everyone, _ = gathered(traces)
        asked = [
            bool(ok) and trace.n_steps > 0 and trace.answer is not None for trace, ok in zip(traces, right, strict=True)
        ]
        trees = [self._tree(trace, everyone) if ask else None for trace, ask in zip(traces, asked, strict=True)]
        scores = self._score(traces, trees)
        found = [
            None if ok is None else changed(s) if s is not None else 0.0 for ok, s in zip(right, scores, strict=True)
        ]
        known = [value for value, ask in zip(found, asked, strict=True) if ask and value is not None]
        if known:
            batch.log(f"{self.name}/changed", sum(known) / len(known))
        return found

    def _tree(self, trace: Trace, everyone: Sequence[Trace]) -> TraceTree:
        assert self.reader is not None
        assert trace.answer is not None
        ask = self.reader.ask(trace.answer).branch
        donor = nearest_donor(trace, everyone)
        other = self.reader.filler_ids(len(trace.reasoning_ids)) if donor is None else donor.reasoning_ids
        false = self._falsified(trace)
        branches = [ask(trace.cuts[-1]), ask(trace.cuts[0]), ask(trace.cuts[0], other)]
        return TraceTree(trace.ids, tuple(branches if false is None else [*branches, ask(*false)]))

    def _falsified(self, trace: Trace) -> tuple[int, tuple[int, ...]] | None:
        """Where the last step that holds a number begins, and its ids with another result and all that follows."""
        assert self.reader is not None
        rng = rng_for(trace.problem)
        for k in reversed(range(trace.n_steps)):
            for change in perturb_number(trace.steps[k], rng):
                piece = self.reader.alter(trace, k, change.start, change.stop, change.text)
                if piece is not None:
                    return trace.cuts[k], piece + trace.ids[trace.cuts[k + 1] : trace.cuts[-1]]
        return None


def changed(scores: Sequence[BranchScore]) -> float | None:
    """Return the share of the scores after the first one in which the answer is no longer the greedy one.

    Args:
        scores: Scores of the trace's own answer: after its own steps, then after each intervention.

    Returns:
        The share, or None if the answer is not the greedy one after its own steps, or could not be scored.
    """
    own, *others = scores
    if not own.all_greedy or any(score.total != score.total for score in scores):
        return None
    return sum(not score.all_greedy for score in others) / len(others)
