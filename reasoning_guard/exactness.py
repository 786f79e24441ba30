"""How far apart two ways of scoring a model are, in nats."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import compress

from torch import nn

from reasoning_guard.device_memory import out_of_memory
from reasoning_guard.forking import score_forked
from reasoning_guard.forward import LIMIT, Scores, read_prompt, score_shared
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_parts import attention_name
from reasoning_guard.one_pass import launch_at_once
from reasoning_guard.tree import BranchScore, TraceTree

logger = logging.getLogger(__name__)


def largest_difference(scores: Scores, truth: Scores) -> float:
    """Return the largest absolute difference in log-probability between two scorings of the same trees, in nats."""
    pairs = [
        (a, b) for x, y in zip(scores, truth, strict=True) for s, t in zip(x, y, strict=True) for a, b in _pairs(s, t)
    ]
    differences = [0.0 if a == b else abs(a - b) for a, b in pairs]  # a token that cannot come is -inf twice
    return float("inf") if any(d != d for d in differences) else max(differences)


def try_sharing(
    model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, truth: Scores, limit: int = LIMIT
) -> float:
    """Measure sharing's largest difference from the truth, with and without a beginning that a group shares."""
    beginning = trees[0].trunk[: len(trees[0].trunk) // 2]
    try:
        ahead = score_shared(model, trees[:1], plan, prompt=read_prompt(model, beginning), limit=limit)
        alone = score_shared(model, trees, plan, limit=limit)
        return max(largest_difference(alone, truth), largest_difference(ahead, truth[:1]))
    except Exception as error:  # a mask or a cache that the architecture refuses is an answer: not this plan
        if out_of_memory(error):
            raise
        logger.debug("mask plan %s failed on %s: %s", plan, type(model).__name__, error)
        return float("inf")


def try_at_once(model: nn.Module, trees: Sequence[TraceTree], truth: Scores, plan: MaskPlan) -> float:
    """Measure the largest difference from the truth of trunks and branches in one pass."""
    if attention_name(model) != "sdpa":
        return float("inf")
    try:
        return largest_difference(launch_at_once(model, trees, plan)(), truth)
    except Exception as error:  # what takes a mask may refuse a table, or look into it
        if out_of_memory(error):
            raise
        logger.debug("one pass with mask plan %s failed on %s: %s", plan, type(model).__name__, error)
        return float("inf")


def try_copies(model: nn.Module, trees: Sequence[TraceTree], truth: Scores, a_pass: int, limit: int = LIMIT) -> float:
    """Measure the largest difference from the truth of branches that go on from copies of the cache."""
    try:
        return largest_difference(score_forked(model, trees, sys.maxsize, a_pass=a_pass, limit=limit), truth)
    except Exception as error:  # caches are of many kinds, and not all can be continued or copied
        if out_of_memory(error):
            raise
        logger.debug("copies of the cache failed on %s: %s", type(model).__name__, error)
        return float("inf")


def within_reach(trees: Sequence[TraceTree], truth: Scores, plan: MaskPlan) -> tuple[list[TraceTree], Scores]:
    """Keep only the branches from which layers of every kind see back to the start, as one pass requires."""
    kept = [[plan.reaches(branch.at + len(branch.ids)) for branch in tree.branches] for tree in trees]
    short = [
        TraceTree(tree.trunk, tuple(compress(tree.branches, keep))) for tree, keep in zip(trees, kept, strict=True)
    ]
    return short, [list(compress(scores, keep)) for scores, keep in zip(truth, kept, strict=True)]


def _pairs(a: BranchScore, b: BranchScore) -> list[tuple[float, float]]:
    return list(zip(a.logprobs, b.logprobs, strict=True))
