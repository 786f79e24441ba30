"""From trees to scores: which path to take for a model, and what trees that begin alike have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from reasoning_guard.batching import Batches, size_of
from reasoning_guard.device_memory import empty_cache, out_of_memory
from reasoning_guard.effort import SMALLEST_PART, Effort, effort_of, untried
from reasoning_guard.embeddings import refuse_unknown_tokens
from reasoning_guard.forward import Scores
from reasoning_guard.head import settled_head
from reasoning_guard.model_context import reading
from reasoning_guard.model_parts import context_length, device_of, is_sharded, readable
from reasoning_guard.packing import anchored
from reasoning_guard.processes import broke_off, in_step
from reasoning_guard.selftest import verdict_of
from reasoning_guard.tokens import common_prefix
from reasoning_guard.tree import Branch, TraceTree, ask_once, only, with_gaps
from reasoning_guard.verdict import Verdict

logger = logging.getLogger(__name__)

_WORTH_A_GROUP = 0.1
"""Share of a group's tokens that its beginning must save, to be read on its own."""


class BranchScorer:
    """Score branches on trunks with one causal language model.

    Args:
        model: The model to read, in any state; it is left in that state. Wrappers (``DataParallel``,
            ``DistributedDataParallel``, ``AveragedModel``) are looked through.
        token_budget: Most tokens, padding included, in one batch of traces. The default is 2,048 on a CPU, where small
            batches win; elsewhere it is found by trying on the first traces, and then kept. It is halved when memory
            runs out.
        shared: None lets the self-test decide; False scores every branch on its own.

    Raises:
        ConfigurationError: The model is none of Transformers', or hidden in a wrapper that is not known.

    Attributes:
        verdict: How the model is scored and why; None before the first trees came.
        progress: Whether a bar shows how many trees are done; off by default.

    Example:
        >>> from reasoning_guard.tree import Branch, TraceTree
        >>> scorer = BranchScorer(model)                                      # doctest: +SKIP
        >>> scorer.score_trees([TraceTree((5, 6, 7), (Branch(3, (8, 9), (1, 2)),))])   # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, *, token_budget: int | None = None, shared: bool | None = None) -> None:
        self.model = readable(model)
        self._own_effort = None if token_budget is None else untried(self.model, token_budget)
        self._shared = shared
        self.verdict: Verdict | None = None
        self.progress = False

    @property
    def effort(self) -> Effort:
        """How much is asked of the device at once, as learnt so far. A model may move after the scorer was made."""
        return self._own_effort or effort_of(self.model)

    @property
    def token_budget(self) -> int:
        """Most tokens, padding included, in one batch of traces."""
        return self.effort.tokens

    def score_trees(self, trees: Sequence[TraceTree]) -> Scores:
        """Score every branch of every tree, in order.

        If memory runs out, the parts are made smaller, and the work goes on from where it was.

        Args:
            trees: Trees to score; one without branches is fine.

        Returns:
            One score for each branch, for each tree. NaN for branches beyond the model's context, and for branches that
            hide tokens from a model that can't be given masks.

        Raises:
            ConfigurationError: The model has no embedding of a token, or is not causal.
            torch.OutOfMemoryError: A single branch is too large.
        """
        return self._read([trees], lambda groups: list(map(self._score_fitting, groups)))[0]

    def score_tree_groups(self, groups: Sequence[Sequence[TraceTree]]) -> list[Scores]:
        """Score groups of trees whose trunks begin alike, e.g. several completions of one prompt.

        What the trunks of a group have in common is read once, and so is every branch that attaches there.

        Args:
            groups: Groups of trees. Trees that have little in common cost as much as without groups.

        Returns:
            For each group, what :meth:`score_trees` returns for its trees.
        """
        return self._read(groups, self._score_groups)

    def _read(
        self,
        groups: Sequence[Sequence[TraceTree]],
        score: Callable[[Sequence[Sequence[TraceTree]]], list[Scores]],
    ) -> list[Scores]:
        refuse_unknown_tokens(self.model, _distinct_ids(tree for group in groups for tree in group))
        limit = context_length(self.model)

        def in_context(branch: Branch) -> bool:
            if limit is None:
                return True
            return branch.at + branch.scored[1] - 1 <= limit and (branch.against is None or in_context(branch.against))

        asked = [[only(tree, in_context) for tree in group] for group in groups]
        with (
            reading(self.model, dense_masks=True),
            _in_step(self.model),
            settled_head(self.model),
        ):
            self._settle([tree for group in asked for tree in group])
            found = score(asked)
        return [
            [with_gaps(tree, in_context, scores) for tree, scores in zip(group, each, strict=True)]
            for group, each in zip(groups, found, strict=True)
        ]

    def _settle(self, trees: Sequence[TraceTree]) -> None:
        """Find the path that is exact for this model as it is; tested on the first trees, and if its state changes."""
        if self._shared is False:
            self.verdict = Verdict(None, "asked for", pads=False)
            return
        limit = self.effort.elements
        while any(tree.branches for tree in trees):
            try:
                self.verdict = verdict_of(self.model, trees, limit)
                return
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                broke_off()
            empty_cache(device_of(self.model))
            if limit <= SMALLEST_PART:  # nothing was learnt of the model, so it is tested again at the next call
                logger.warning("out of memory while testing how to score: branches are read one by one for now")
                self.verdict = Verdict(None, "memory is too small to test it", pads=False)
                return
            limit //= 8

    def _score_groups(self, groups: Sequence[Sequence[TraceTree]]) -> list[Scores]:
        """Score groups with a shared beginning one by one; the trees of all others together, in full batches."""
        beginnings = [_beginning(group) for group in groups]
        others = [tree for group, beginning in zip(groups, beginnings, strict=True) if not beginning for tree in group]
        rest = iter(self._score_fitting(others))
        return [
            self._score_group(group, beginning) if beginning else [next(rest) for _ in group]
            for group, beginning in zip(groups, beginnings, strict=True)
        ]

    def _score_group(self, trees: Sequence[TraceTree], beginning: Sequence[int]) -> Scores:
        once, sources = ask_once(trees, len(beginning))
        found = self._score_fitting(once, beginning)
        return [[found[i][j] for i, j in places] for places in sources]

    def _score_fitting(self, trees: Sequence[TraceTree], beginning: Sequence[int] = ()) -> Scores:
        if self.verdict is None:  # nobody asks anything
            return [[] for _ in trees]
        return Batches(self.model, self.verdict, self.effort, progress=self.progress).score(trees, beginning)


@contextmanager
def _in_step(model: nn.Module) -> Iterator[None]:
    """Announce every forward pass of a sharded model, and accompany those of other processes."""

    def companion() -> None:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device_of(model)), use_cache=False)

    with in_step(is_sharded(model), companion) as announce:
        # Before the model's own hooks: they are what gathers the weights.
        hook = model.register_forward_pre_hook(lambda *_: announce(), prepend=True)
        try:
            yield
        finally:
            hook.remove()


def _distinct_ids(trees: Iterable[TraceTree]) -> Iterable[tuple[int, ...]]:
    """Yield all that is fed, but the very same tuple only once: one question is asked at every cut of a trace."""
    found: dict[int, tuple[int, ...]] = {}
    for tree in trees:
        found[id(tree.trunk)] = tree.trunk
        for branch in tree.branches:
            found[id(branch.ids)] = branch.ids
            if branch.against is not None:
                found[id(branch.against.ids)] = branch.against.ids
    return found.values()


def _beginning(trees: Sequence[TraceTree]) -> tuple[int, ...]:
    """Return what a group's trunks share, as far as any branch sees; nothing if reading it once saves little.

    A group with a shared beginning is read on its own, so what it saves must be worth batches that are less full.
    """
    if len(trees) < 2:
        return ()
    seen = max((branch.reach for tree in map(anchored, trees) for branch in tree.branches), default=0)
    beginning = _common([tree.trunk for tree in trees])[:seen]
    saved = (len(trees) - 1) * len(beginning)
    return beginning if saved >= _WORTH_A_GROUP * sum(map(size_of, trees)) else ()


def _common(trunks: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the longest beginning that all trunks share."""
    shortest, longest = min(trunks), max(trunks)  # what the first and the last in order share, all of them share
    return shortest[: common_prefix(shortest, longest)]
