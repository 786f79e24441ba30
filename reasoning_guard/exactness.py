"""How far apart two ways of scoring a model are, in nats."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from itertools import compress

from torch import nn

from reasoning_guard.device_memory import out_of_memory
from reasoning_guard.forking import score_forked
from reasoning_guard.forward import LIMIT, Scores, read_prompt, score_shared
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_parts import attention_name
from reasoning_guard.one_pass import launch_at_once
from reasoning_guard.tree import TraceTree

logger = logging.getLogger(__name__)

_PASSES = (0, 8)
"""Prices of a pass, in tokens: copies wherever anything is shared, and longer ends that go on in one batch."""


def largest_difference(scores: Scores, truth: Scores) -> float:
    """Return the largest absolute difference in log-probability between two scorings of the same trees, in nats."""
    both = (pair for tree, own in zip(scores, truth, strict=True) for pair in zip(tree, own, strict=True))
    pairs = [pair for found, own in both for pair in zip(found.logprobs, own.logprobs, strict=True)]
    differences = [0.0 if a == b else abs(a - b) for a, b in pairs]  # a token that cannot come is -inf twice
    return float("inf") if any(d != d for d in differences) else max(differences)


def try_sharing(
    model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, truth: Scores, limit: int = LIMIT
) -> float:
    """Measure sharing's largest difference from the truth, with and without a beginning that a group shares."""
    beginning = trees[0].trunk[: len(trees[0].trunk) // 2]

    def measured() -> float:
        ahead = score_shared(model, trees[:1], plan, prompt=read_prompt(model, beginning), limit=limit)
        alone = score_shared(model, trees, plan, limit=limit)
        return max(largest_difference(alone, truth), largest_difference(ahead, truth[:1]))

    return _unless_refused(measured, model, f"mask plan {plan}")


def try_at_once(model: nn.Module, trees: Sequence[TraceTree], truth: Scores, plan: MaskPlan) -> float:
    """Measure the largest difference from the truth of trunks and branches in one pass."""
    if attention_name(model) != "sdpa":
        return float("inf")
    return _unless_refused(
        lambda: largest_difference(launch_at_once(model, trees, plan)(), truth),
        model,
        f"one pass with mask plan {plan}",
    )


def try_copies(model: nn.Module, trees: Sequence[TraceTree], truth: Scores, limit: int = LIMIT) -> float:
    """Measure the largest difference from the truth of branches that go on from copies of the cache."""

    def measured() -> float:
        found = (score_forked(model, trees, sys.maxsize, a_pass=a_pass, limit=limit) for a_pass in _PASSES)
        return max(largest_difference(each, truth) for each in found)

    return _unless_refused(measured, model, "copies of the cache")


def _unless_refused(measured: Callable[[], float], model: nn.Module, what: str) -> float:
    """What is measured; infinite where the model refuses ``what``: a mask or a table, a cache or its copy.

    Any error is an answer, as architectures refuse in ways of their own. Only memory that runs out is none.
    """
    try:
        return measured()
    except Exception as error:
        if out_of_memory(error):
            raise
        logger.debug("%s failed on %s: %s", what, type(model).__name__, error)
        return float("inf")


def within_reach(trees: Sequence[TraceTree], truth: Scores, plan: MaskPlan) -> tuple[list[TraceTree], Scores]:
    """Keep only the branches from which layers of every kind see back to the start, as one pass requires."""
    kept = [[plan.reaches(branch.at + len(branch.ids)) for branch in tree.branches] for tree in trees]
    short = [
        TraceTree(tree.trunk, tuple(compress(tree.branches, keep))) for tree, keep in zip(trees, kept, strict=True)
    ]
    return short, [list(compress(scores, keep)) for scores, keep in zip(truth, kept, strict=True)]
