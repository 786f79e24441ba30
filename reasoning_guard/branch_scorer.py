"""From trees to scores: which path to take, how much to read at once, and what to do when memory runs out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from tqdm.auto import tqdm

from reasoning_guard.device_memory import empty_cache, out_of_memory
from reasoning_guard.effort import SMALLEST_PART, Effort, effort_of, untried
from reasoning_guard.embeddings import refuse_unknown_tokens
from reasoning_guard.forking import score_forked
from reasoning_guard.forward import Pending, Prompt, Scores, launch_shared, read_prompt
from reasoning_guard.head import settled_head
from reasoning_guard.model_context import reading
from reasoning_guard.model_parts import context_length, device_of, is_sharded, readable
from reasoning_guard.one_pass import fits, launch_at_once
from reasoning_guard.packing import anchored
from reasoning_guard.processes import broke_off, in_step
from reasoning_guard.selftest import Verdict, verdict_of
from reasoning_guard.sequences import score_independent
from reasoning_guard.tree import Branch, BranchScore, TraceTree, ask_once

logger = logging.getLogger(__name__)

_WORTH_A_GROUP = 0.1
"""Share of a group's tokens that its beginning must save, to be read on its own."""

_FORKED_AT_ONCE = 8
"""Multiple of the token budget. Trees whose branches go on from copies are read one by one, so more at once only means
more beginnings that are read once."""


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

        asked = [[_only(tree, in_context) for tree in group] for group in groups]
        with (
            reading(self.model, dense_masks=True),
            _in_step(self.model),
            settled_head(self.model),
        ):
            self._settle([tree for group in asked for tree in group])
            found = score(asked)
        return [
            [_with_gaps(tree, in_context, scores) for tree, scores in zip(group, each, strict=True)]
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
        """Score trees sorted by length in batches. A batch that is too large for the memory is tried again, smaller."""
        sizes, effort = [_size(tree) for tree in trees], self.effort
        found: dict[int, list[BranchScore]] = {}
        prompt: Prompt | None = None
        pending = sorted((i for i, tree in enumerate(trees) if tree.branches), key=lambda i: sizes[i])
        bar = tqdm(total=len(pending), desc="scoring", leave=False, disable=not self.progress)
        launched: list[tuple[list[int], Pending]] = []
        may_wait = device_of(self.model).type == "cuda"  # others may not say before that memory ran out

        def fetch(but: int) -> None:
            """Wait for what was launched, except for so many batches of it."""
            while len(launched) > but:
                batch, scores = launched.pop(0)
                found.update(zip(batch, scores(), strict=True))
                bar.update(len(batch))

        while pending:
            batch = self._next_batch(sizes, pending, len(beginning))
            whole = sizes[batch[-1]] < effort.alone_from
            shared = whole and (self._masks or self._forks)
            at_once = shared and not beginning and self._goes_at_once([trees[i] for i in batch])
            budget = effort.tokens if whole and self.verdict is not None and self.verdict.pads else 1
            started, full, reason = time.perf_counter(), False, ""
            reads_prompt = shared and self._masks and bool(beginning) and prompt is None
            try:
                if reads_prompt:
                    prompt = read_prompt(self.model, beginning, effort.elements)
                scores = self._launch_batch([trees[i] for i in batch], shared, prompt, budget, at_once)
                if effort.trying or not may_wait:  # of a batch that is timed, all of it
                    scores = _at_hand(scores())
            except Exception as error:
                scores, full, reason = None, out_of_memory(error), str(error)
                if not (full or at_once):
                    raise
                broke_off()
            if scores is None:  # here, not above: a handler's traceback would keep the failed pass's tensors alive
                empty_cache(device_of(self.model))
                if full:
                    asked = [len(beginning)] if reads_prompt and prompt is None else [sizes[i] for i in batch]
                    behind = shared and self._masks and bool(beginning)
                    effort.shrink(asked, shared, together=budget > 1, at_once=at_once, behind=behind)
                else:  # two passes know whether it was the one pass's fault
                    effort.at_once = False
                    logger.warning("one pass failed: trunks are read first from now on (%s)", reason)
                continue
            launched.append((batch, scores))
            fetch(but=1)
            effort.learn([sizes[i] - len(beginning) for i in batch], time.perf_counter() - started)
            pending = pending[len(batch) :]
        fetch(but=0)
        bar.close()
        return [found.get(i, []) for i in range(len(trees))]

    @property
    def _masks(self) -> bool:
        return self.verdict is not None and self.verdict.plan is not None

    @property
    def _forks(self) -> bool:
        return self.verdict is not None and self.verdict.forks

    def _goes_at_once(self, trees: Sequence[TraceTree]) -> bool:
        verdict, effort = self.verdict, self.effort
        if verdict is None or verdict.plan is None or not (verdict.at_once and effort.at_once):
            return False
        return fits(self.model, trees, verdict.plan, effort.elements)

    def _launch_batch(
        self, trees: Sequence[TraceTree], shared: bool, prompt: Prompt | None, budget: int, at_once: bool
    ) -> Pending:
        assert self.verdict is not None
        if shared and self.verdict.plan is not None:
            if at_once:
                return launch_at_once(self.model, trees, self.verdict.plan)
            return launch_shared(self.model, trees, self.verdict.plan, prompt=prompt, limit=self.effort.elements)
        seeing = [_only(tree, _sees_all) for tree in trees]
        if shared:
            scores = score_forked(self.model, seeing, budget, limit=self.effort.elements)
        else:
            scores = score_independent(self.model, seeing, budget, limit=self.effort.elements)
        return _at_hand([_with_gaps(tree, _sees_all, each) for tree, each in zip(trees, scores, strict=True)])

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
    return beginning if saved >= _WORTH_A_GROUP * sum(map(_size, trees)) else ()


def _common(trunks: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the longest beginning that all trunks share."""
    shortest, longest = min(trunks), max(trunks)  # what the first and the last in order share, all of them share
    n = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
    return shortest[:n]


def _size(tree: TraceTree) -> int:
    """Count the tokens that are fed; those that branches share count for each.

    The last scored token and what follows it are not fed. If a branch's first token is scored, a trunk token is fed
    again.
    """
    return len(tree.trunk) + sum(branch.scored[1] - (branch.scored[0] > 0) for branch in tree.branches)


def _sees_all(branch: Branch) -> bool:
    return branch.hide[0] == branch.hide[1]


def _only(tree: TraceTree, keep: Callable[[Branch], bool]) -> TraceTree:
    kept = tuple(filter(keep, tree.branches))
    return tree if len(kept) == len(tree.branches) else TraceTree(tree.trunk, kept)


def _with_gaps(tree: TraceTree, kept: Callable[[Branch], bool], found: Sequence[BranchScore]) -> list[BranchScore]:
    """Return the scores in the order of the tree's own branches, NaN for those that were not kept."""
    if len(found) == len(tree.branches):
        return list(found)
    scored = iter(found)
    return [next(scored) if kept(branch) else _unscored(branch) for branch in tree.branches]


def _unscored(branch: Branch) -> BranchScore:
    n = branch.scored[1] - branch.scored[0]
    return BranchScore((math.nan,) * n, (False,) * n, (math.nan,) * n, (math.nan,) * n)
