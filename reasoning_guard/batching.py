"""Read trees in batches: how much at once, in which way each, and what to do when memory runs out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import nn
from tqdm.auto import tqdm

from reasoning_guard.device_memory import empty_cache, out_of_memory
from reasoning_guard.effort import Effort
from reasoning_guard.forking import score_forked
from reasoning_guard.forward import Pending, Prompt, Scores, launch_shared, read_prompt
from reasoning_guard.model_parts import device_of
from reasoning_guard.one_pass import fits, launch_at_once
from reasoning_guard.processes import broke_off
from reasoning_guard.sequences import score_independent
from reasoning_guard.tree import BranchScore, TraceTree, only, sees_all, with_gaps
from reasoning_guard.verdict import Verdict

T = TypeVar("T")

logger = logging.getLogger(__name__)

_FORKED_AT_ONCE = 8
"""Multiple of the token budget. Trees whose branches go on from copies are read one by one, so more at once only means
more beginnings that are read once."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a batch of trees is read.

    Attributes:
        shared: Whether branches share what is read of their trunks.
        at_once: Whether trunks and branches go through in one pass.
        behind: Whether what the trunks have in common is read once, before them.
        tokens: Most tokens that are read at once, padding included, where no mask keeps branches apart; 1 for a branch
            at a time.
    """

    shared: bool
    at_once: bool
    behind: bool
    tokens: int


class Batches:
    """Reads trees in batches as large as the device takes.

    Args:
        model: A causal language model in evaluation mode.
        verdict: How the model is scored.
        effort: How much is asked of the device at once; it learns from every batch.
        progress: Whether a bar shows how many trees are done.
    """

    def __init__(self, model: nn.Module, verdict: Verdict, effort: Effort, *, progress: bool) -> None:
        self.model, self.verdict, self.effort, self.progress = model, verdict, effort, progress
        self._masks, self._forks = verdict.plan is not None, verdict.forks

    def score(self, trees: Sequence[TraceTree], beginning: Sequence[int] = ()) -> Scores:
        """Score trees sorted by length in batches. A batch that is too large for the memory is tried again, smaller."""
        sizes, effort = [size_of(tree) for tree in trees], self.effort
        found: dict[int, list[BranchScore]] = {}
        prompt: Prompt | None = None
        pending = sorted((i for i, tree in enumerate(trees) if tree.branches), key=lambda i: sizes[i])
        bar = tqdm(total=len(pending), desc="scoring", leave=False, disable=not self.progress)
        launched: list[tuple[list[int], Pending]] = []

        def fetch(but: int) -> None:
            """Wait for what was launched, except for so many batches of it."""
            while len(launched) > but:
                batch, scores = launched.pop(0)
                found.update(zip(batch, scores(), strict=True))
                bar.update(len(batch))

        while pending:
            batch = self._next_batch(sizes, pending, len(beginning))
            asked, started = [trees[i] for i in batch], time.perf_counter()
            way = self._way(asked, sizes[batch[-1]], bool(beginning))
            if way.behind and prompt is None:
                read = partial(read_prompt, self.model, beginning, effort.elements)
                prompt = self._unless_too_much(read, [len(beginning)], way)
                if prompt is None:
                    continue
            scores = self._unless_too_much(partial(self._launch, asked, way, prompt), [sizes[i] for i in batch], way)
            if scores is None:
                continue
            launched.append((batch, scores))
            fetch(but=1)
            effort.learn([sizes[i] - len(beginning) for i in batch], time.perf_counter() - started)
            pending = pending[len(batch) :]
        fetch(but=0)
        bar.close()
        return [found.get(i, []) for i in range(len(trees))]

    def _way(self, trees: Sequence[TraceTree], longest: int, begins_alike: bool) -> _Way:
        """Find how to read a batch whose longest tree has so many tokens."""
        whole = longest < self.effort.alone_from
        shared = whole and (self._masks or self._forks)
        return _Way(
            shared=shared,
            at_once=shared and not begins_alike and self._goes_at_once(trees),
            behind=shared and self._masks and begins_alike,
            tokens=self.effort.tokens if whole and self.verdict.pads else 1,
        )

    def _unless_too_much(self, work: Callable[[], T], sizes: list[int], way: _Way) -> T | None:
        """What ``work`` returns; None after memory ran out, or one pass failed: from now on less is tried at once.

        Args:
            work: Reads a batch, or what its trees have in common.
            sizes: Tokens of each trace in it.
            way: How the batch is read.
        """
        try:
            return work()
        except Exception as error:
            full, reason = out_of_memory(error), str(error)
            if not (full or way.at_once):
                raise
            broke_off()
        empty_cache(device_of(self.model))  # here: a handler's traceback would keep the failed pass's tensors alive
        if full:
            self.effort.shrink(sizes, way.shared, together=way.tokens > 1, at_once=way.at_once, behind=way.behind)
        else:  # two passes know whether it was the one pass's fault
            self.effort.at_once = False
            logger.warning("one pass failed: trunks are read first from now on (%s)", reason)
        return None

    def _goes_at_once(self, trees: Sequence[TraceTree]) -> bool:
        plan, allowed = self.verdict.plan, self.verdict.at_once and self.effort.at_once
        return plan is not None and allowed and fits(self.model, trees, plan, self.effort.elements)

    def _launch(self, trees: Sequence[TraceTree], way: _Way, prompt: Prompt | None) -> Pending:
        """Launch a batch, and wait for it if it is timed, or if the device may not say before that memory ran out."""
        scores = self._launch_batch(trees, way, prompt)
        waits = self.effort.trying or device_of(self.model).type != "cuda"
        return _at_hand(scores()) if waits else scores

    def _launch_batch(self, trees: Sequence[TraceTree], way: _Way, prompt: Prompt | None) -> Pending:
        plan, limit = self.verdict.plan, self.effort.elements
        if way.at_once and plan is not None:
            return launch_at_once(self.model, trees, plan)
        if way.shared and plan is not None:
            return launch_shared(self.model, trees, plan, prompt=prompt, limit=limit)
        seeing = [only(tree, sees_all) for tree in trees]
        score = score_forked if way.shared else score_independent
        scores = score(self.model, seeing, way.tokens, limit=limit)
        return _at_hand([with_gaps(tree, sees_all, each) for tree, each in zip(trees, scores, strict=True)])

    def _next_batch(self, sizes: Sequence[int], pending: Sequence[int], beginning: int) -> list[int]:
        """Return the longest run of trees, sorted by length, whose padded size fits the token budget; at least one.

        A shared beginning is not read again for each, but each holds it. One by one, branches begin anew.
        """
        effort = self.effort
        budget = effort.tokens * (_FORKED_AT_ONCE if self._forks else 1)
        whole = sizes[pending[0]] < effort.alone_from  # those that don't fit are read in another way, by themselves
        alike = [i for i in pending if (sizes[i] < effort.alone_from) == whole]
        beginning *= whole
        held = effort.held_behind if beginning else math.inf
        sized = ((n, sizes[i]) for n, i in enumerate(alike, 1))
        fitting = [n for n, size in sized if n * (size - beginning) <= budget and n * size <= held]
        return list(pending[: max(fitting, default=1)])


def _at_hand(scores: Scores) -> Pending:
    return lambda: scores


def size_of(tree: TraceTree) -> int:
    """Count the tokens that are fed; those that branches share count for each.

    The last scored token and what follows it are not fed. If a branch's first token is scored, a trunk token is fed
    again.
    """
    return len(tree.trunk) + sum(branch.scored[1] - (branch.scored[0] > 0) for branch in tree.branches)
