"""Find out which way of scoring is exact for a model: measured, never assumed.

Sharing a trunk needs a cache that keeps everything, and masks that every layer respects. Recurrent layers, alibi
biases, local windows and chunks break one or the other, most of them silently. So two tests come before anything is
scored:

1. A **twin**, a tiny float32 model of the same architecture with windows and chunks shrunk until a short trunk
   overflows them, is scored both ways under every mask plan that may fit. In float32 a wrong mask cannot hide in
   rounding, and a window of 4,096 tokens cannot hide behind a short test.
2. The **user's own model** is scored both ways on trees that it was asked about, within its dtype's noise.

The first plan that passes on the twin is used if it passes on the user's model too. The same holds for one pass for
trunk and branches together (on a GPU). If no plan passes on the twin, branches go on from copies of the cache, if that
passes both tests. Otherwise every branch is scored on its own, which is the definition itself: in padded batches if
padding is seen to change nothing, else one by one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reasoning_guard.branch_pass import mask_dtype
from reasoning_guard.device_memory import out_of_memory
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.exactness import largest_difference, try_at_once, try_copies, try_sharing
from reasoning_guard.forward import LIMIT, Scores
from reasoning_guard.head import make_logits
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import takes_dense_masks
from reasoning_guard.model_parts import (
    attention_name,
    context_length,
    device_of,
    forward_identity,
    inner_model,
    modules_with,
    settings_of,
    text_config,
    weakly,
)
from reasoning_guard.one_pass import fits, is_launched
from reasoning_guard.processes import broke_off
from reasoning_guard.rounding import rounding_of
from reasoning_guard.selftest_twin import length_dependent_rope, verdict_of_twin
from reasoning_guard.sequences import score_independent
from reasoning_guard.table_attention import sdpa
from reasoning_guard.tree import Branch, TraceTree, sees_all
from reasoning_guard.verdict import Verdict

logger = logging.getLogger(__name__)

_IMPOSSIBLE = 1e4
"""Nats that no token costs which can come; what bars others gives them minus infinity, or the least of their format."""

_settled: WeakKeyDictionary[nn.Module, dict[Hashable, Verdict]] = WeakKeyDictionary()


def verdict_of(model: nn.Module, trees: Sequence[TraceTree], limit: int = LIMIT) -> Verdict:
    """Say how to score a model, tested once for each of its states. The caller has put it in evaluation mode.

    Args:
        model: The user's model.
        trees: Trees, at least one with branches. Used only if the model was not tested yet, or if its forward,
            settings, attention, adapter, number format, device or autocast has changed since.
        limit: Most elements in a mask, in attention's weights or in logits of the test.

    Raises:
        ConfigurationError: The model is not causal.
        torch.OutOfMemoryError: Memory is too small for the test; nothing was learnt about the model.
    """
    known, state = _settled.setdefault(model, {}), _state(model)  # an adapter goes off and on at every evaluation
    if state in known:
        return known[state]
    started = time.perf_counter()
    asked = [_unhidden(tree) for tree in trees if tree.branches]
    verdict = confirm(model, verdict_of_twin(model), asked, limit)
    seconds = time.perf_counter() - started
    level = logging.INFO if verdict.plan or verdict.forks else logging.WARNING
    name = type(model).__name__
    logger.log(level, "scoring %s by %s: %s (tested in %.1f s)", name, verdict.path, verdict.reason, seconds)
    known[state] = verdict
    return verdict


def _state(model: nn.Module) -> Hashable:
    """What decides, beside the architecture, whether sharing is exact."""
    forwards = tuple(forward_identity(each) for each in (model, inner_model(model)))
    adapters = frozenset(
        (off, str(getattr(module, "active_adapters", None)))
        for module in modules_with(model, "disable_adapters")
        if isinstance(off := getattr(module, "disable_adapters", None), bool)  # of whole models it is a method
    )
    device = device_of(model).type
    formats = device, mask_dtype(model), torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    attends = attention_name(model), takes_dense_masks(model), weakly(sdpa())
    return attends, forwards, settings_of(model), adapters, formats


def confirm(model: nn.Module, verdict: Verdict, trees: Sequence[TraceTree], limit: int = LIMIT) -> Verdict:
    """Check the verdict on the user's own model and trees. The caller has put the model in evaluation mode.

    Args:
        model: The user's model.
        verdict: The verdict on the twin.
        trees: Trees that are about to be scored. The test uses the shortest, with at most four of its branches, and one
            of middle length with its last branch, for the padding.
        limit: Most elements in a mask, in attention's weights or in logits of the test.

    Raises:
        ConfigurationError: The model is not causal.
        torch.OutOfMemoryError: Memory is too small for the test.

    Returns:
        The verdict with the plan scaled to this model's windows; or the fallback, with whether it may pad and whether
        it may go on from copies.
    """
    sample = _sample(model, trees)
    truth = score_independent(model, sample, token_budget=1, split=False)
    rounding = rounding_of(model)
    _refuse_bidirectional(model, sample, truth, rounding)
    allowed = rounding * (1 + _largest(truth))
    if largest_difference(score_independent(model, sample, token_budget=1), truth) > allowed and make_logits(model):
        logger.warning(
            "the logits of %s are more than its head's output: they are made from now on", type(model).__name__
        )
    if verdict.plan is not None:
        verdict = _confirm_sharing(model, verdict, verdict.plan, sample, truth, allowed, limit)
    if verdict.plan is not None:
        return verdict
    verdict = replace(verdict, pads=_padding_changes(model, sample, truth) <= allowed)
    return _confirm_copies(model, verdict, sample, truth, allowed, limit) if verdict.forks else verdict


def _largest(truth: Scores) -> float:
    """Largest absolute log-probability of a token that can come, in nats."""
    sizes = (abs(p) for scores in truth for score in scores for p in score.logprobs)
    return max((size for size in sizes if size < _IMPOSSIBLE), default=0.0)


def _confirm_sharing(
    model: nn.Module,
    verdict: Verdict,
    plan: MaskPlan,
    sample: Sequence[TraceTree],
    truth: Scores,
    allowed: float,
    limit: int,
) -> Verdict:
    """The verdict with the plan scaled to this model, and whether one pass will do; without a plan if that differs."""
    plan = _scaled(plan, text_config(model))
    difference = try_sharing(model, sample, plan, truth, limit)
    if difference > allowed and make_logits(model):
        difference = try_sharing(model, sample, plan, truth, limit)
    if difference > allowed:
        return Verdict(None, f"sharing the trunk changes scores on this model by {difference:.2g} nats", difference)
    at_once = verdict.at_once and is_launched(model) and _at_once_is_exact(model, sample, plan, truth, allowed)
    return Verdict(plan, f"{verdict.reason} and within {difference:.2g} nats on this one", difference, at_once=at_once)


def _confirm_copies(
    model: nn.Module, verdict: Verdict, sample: Sequence[TraceTree], truth: Scores, allowed: float, limit: int
) -> Verdict:
    """The verdict with what copies of the cache change on this model, and whether branches go on from them."""
    difference = try_copies(model, sample, truth, limit)
    if difference > allowed:
        reason = f"{verdict.reason}, and copies of its cache change scores on this model by {difference:.2g} nats"
        return replace(verdict, reason=reason, difference=difference, forks=False)
    return replace(verdict, reason=f"{verdict.reason}; copies are within {difference:.2g} nats", difference=difference)


def _at_once_is_exact(
    model: nn.Module, sample: Sequence[TraceTree], plan: MaskPlan, truth: Scores, allowed: float
) -> bool:
    """Say whether one pass is within rounding, on the whole sample or, if that is too long, on its beginning.

    The memory allowed is not what happens to be free now, because the verdict outlasts the moment.
    """
    if not fits(model, sample, plan, LIMIT):
        branch = min(sample[0].branches, key=lambda each: each.at)
        at = branch.at
        while at > 1 and not plan.reaches(at + len(branch.ids)):
            at //= 2
        sample = [TraceTree(sample[0].trunk[:at], (replace(branch, at=at),))]
        truth = score_independent(model, sample, token_budget=1, split=False)
    return fits(model, sample, plan, LIMIT) and try_at_once(model, sample, truth, plan) <= allowed


def _padding_changes(model: nn.Module, sample: Sequence[TraceTree], truth: Scores) -> float:
    """Largest difference that padding two sequences to one length makes, in nats."""
    if length_dependent_rope(text_config(model)):
        return float("inf")  # the longest sequence of a batch would decide about the positions of all
    longest = max(branch.at + len(branch.ids) for tree in sample for branch in tree.branches)
    try:
        return largest_difference(score_independent(model, sample, token_budget=2 * longest), truth)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        broke_off()
        return float("inf")  # one at a time is right too


def _unhidden(tree: TraceTree) -> TraceTree:
    """Return what any model can be asked: the branches that hide nothing, or else all with nothing hidden."""
    branches = list(filter(sees_all, tree.branches)) or tree.branches
    return TraceTree(tree.trunk, tuple(replace(branch, hide=(0, 0), against=None) for branch in branches))


def _sample(model: nn.Module, trees: Sequence[TraceTree]) -> list[TraceTree]:
    by_length = sorted(trees, key=lambda tree: len(tree.trunk))
    shortest, middle = by_length[0], by_length[len(by_length) // 2]
    last = len(shortest.branches) - 1
    spread = dict.fromkeys(i * last // 3 for i in range(4))  # the first, the last and two between
    branches = tuple(shortest.branches[i] for i in spread)
    if len({branch.at for branch in branches}) == 1:  # at its end alone, say, where all of the trunk is seen
        branches += _forking(shortest.trunk, context_length(model))
    sample = [TraceTree(shortest.trunk, branches)]
    return sample if middle is shortest else [*sample, TraceTree(middle.trunk, middle.branches[-1:])]


def _forking(trunk: Sequence[int], limit: int | None) -> tuple[Branch, ...]:
    """Branches that attach early and late on a trunk, made of its own tokens, two of which begin alike."""
    early, late = len(trunk) // 3, 2 * len(trunk) // 3
    if early < 1 or (limit is not None and late + 2 > limit):
        return ()
    first, second, third = trunk[0], trunk[early], trunk[late]
    ends = (first, second, third), (first, third, second)
    return tuple(Branch(at, ids, (1, 3)) for at in (early, late) for ids in ends)


def _refuse_bidirectional(model: nn.Module, trees: Sequence[TraceTree], truth: Scores, rounding: float) -> None:
    """Refuse a model in which what follows a token changes its score: every answer would be read off itself."""
    i = max(range(len(truth[0])), key=lambda i: len(truth[0][i].logprobs))
    branch, within = trees[0].branches[i], truth[0][i].logprobs[0]
    start = branch.scored[0]
    if len(truth[0][i].logprobs) == 1:  # nothing stood behind the only token: let something
        ids, limit = (*branch.ids[: start + 1], branch.ids[start]), context_length(model)
        full = limit is not None and branch.at + start + 1 > limit
        branch = Branch(branch.at - full, ids, (start, start + 2))
        [[both]] = score_independent(model, [TraceTree(trees[0].trunk, (branch,))], token_budget=1, split=False)
        within = both.logprobs[0]
    first = TraceTree(trees[0].trunk, (replace(branch, scored=(start, start + 1)),))
    [[alone]] = score_independent(model, [first], token_budget=1, split=False)
    if abs(alone.total - within) > 10 * rounding * (1 + abs(within)):
        raise ConfigurationError(
            f"{type(model).__name__} reads tokens behind the one that it predicts ({alone.total:.3g} nats without "
            f"them, {within:.3g} with them): expected a causal language model (an encoder needs `is_decoder=True`)"
        )


def _scaled(plan: MaskPlan, config: Any) -> MaskPlan:
    """The twin's plan with the user's own window and chunk sizes."""
    return MaskPlan(
        by_layer_type=plan.by_layer_type,
        window=getattr(config, "sliding_window", None) if plan.window is not None else None,
        chunk=getattr(config, "attention_chunk_size", None) if plan.chunk is not None else None,
    )
