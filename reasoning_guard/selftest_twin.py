"""The first half of the self-test (:mod:`reasoning_guard.selftest`): which way of scoring is exact on a twin.

In float32 a wrong mask cannot hide in rounding, and a window of 4,096 tokens cannot hide behind a short test. What is
found depends on the architecture alone, so a process finds it out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from reasoning_guard.exactness import try_at_once, try_copies, try_sharing, within_reach
from reasoning_guard.forward import LIMIT, Scores
from reasoning_guard.masks import mask_plans
from reasoning_guard.model_context import reading, takes_dense_masks
from reasoning_guard.model_parts import attention_name, inner_model, text_config
from reasoning_guard.sequences import score_independent
from reasoning_guard.tree import TraceTree
from reasoning_guard.twins import VOCABULARY, build_twin, shrink, twin_trees
from reasoning_guard.verdict import Verdict

_TWIN_TOLERANCE = 1e-4
_COPIES_TOLERANCE = 1e-3
"""Layers that normalise a state of small numbers magnify rounding; what forgets a state is wrong by tenths of a nat."""

_CROWDED = 2**14
"""Elements of masks and logits that make a twin's branches be read in several parts and pieces."""

_NAMES = {"_name_or_path", "architectures", "transformers_version", "dtype"}
"""Settings of a configuration that say where a model comes from, not what it is."""

_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope", "su"}

_twins: dict[str, Verdict] = {}


def verdict_of_twin(model: nn.Module) -> Verdict:
    """Test a tiny float32 model of the same architecture. The process remembers the result.

    Args:
        model: The user's model; only its configuration is used.

    Returns:
        The first mask plan under which sharing is exact on the twin; or None with the reason, and whether going on from
        copies is exact.
    """
    config = text_config(model)
    if rope := length_dependent_rope(config):
        return Verdict(None, f"its {rope} RoPE depends on the total length, which a shared trunk changes")
    masks = takes_dense_masks(model)
    key = repr((type(inner_model(model)), _kind(config), attention_name(model), masks))
    if key not in _twins:
        _twins[key] = _test_twin(model, masks)
    return _twins[key]


def _is_recurrent(config: Any) -> bool:
    """Whether a configuration names layers that are not attention; erring here costs speed, never exactness."""
    types = {str(kind) for kind in getattr(config, "layer_types", None) or ()}
    return any("attention" not in kind or "linear" in kind for kind in types) or any(
        name.startswith(("mamba_", "ssm_", "state_size")) for name in config.to_dict()
    )


def _kind(config: Any) -> object:
    """What decides what a twin is: all settings once those that are sizes have been made small."""
    try:
        small = shrink(config)
    except Exception:  # then the twin can't be built either, and that is its verdict
        small = config
    settings = small.to_dict().items()
    return type(config), sorted((name, repr(value)) for name, value in settings if name not in _NAMES)


def _test_twin(model: nn.Module, masks: bool) -> Verdict:
    try:
        twin = build_twin(model)
    except Exception as error:  # any architecture may refuse to be built small, each in its own way
        return Verdict(None, f"no small model of its kind could be built to test sharing on ({_said(error)})")
    with torch.autocast("cpu", enabled=False), reading(twin, dense_masks=True):  # whatever the model is read in
        trees = twin_trees(VOCABULARY)
        try:
            truth = score_independent(twin, trees, token_budget=1, split=False)
        except Exception as error:  # the always-right path itself does not run on the twin: nothing to compare with
            return Verdict(None, f"a small model of its kind did not run ({_said(error)})")
        if not masks:
            unshared = f"its attention ({attention_name(model)}) takes no dense masks and can't be switched"
        elif _is_recurrent(text_config(model)):
            unshared = "it has recurrent or convolutional layers, whose state branches cannot share"
        else:
            verdict = _first_exact(twin, trees, truth)
            if verdict.plan is not None:
                return verdict
            unshared = verdict.reason
        copied = max(try_copies(twin, trees, truth, limit) for limit in (LIMIT, _CROWDED))
        return Verdict(None, unshared, copied, forks=copied <= _COPIES_TOLERANCE)


def _said(error: Exception) -> str:
    """An error in a line: some messages list all that Transformers knows."""
    return (str(error).strip().splitlines() or [""])[0][:200] or type(error).__name__


def _first_exact(twin: nn.Module, trees: Sequence[TraceTree], truth: Scores) -> Verdict:
    nearest = float("inf")
    for plan in mask_plans(text_config(twin)):
        difference = max(try_sharing(twin, trees, plan, truth), try_sharing(twin, trees, plan, truth, _CROWDED))
        if difference <= _TWIN_TOLERANCE:
            at_once = try_at_once(twin, *within_reach(trees, truth, plan), plan) <= _TWIN_TOLERANCE
            return Verdict(plan, "sharing the trunk is exact on a small model of its kind", difference, at_once=at_once)
        nearest = min(nearest, difference)
    return Verdict(
        None, f"sharing the trunk changes scores on a small model of its kind by {nearest:.2g} nats", nearest
    )


def length_dependent_rope(config: Any) -> str | None:
    """Return the kind of a configuration's rotary embedding whose positions depend on the total length, or None."""
    return next(iter(_rope_types(config) & _LENGTH_DEPENDENT_ROPE), None)


def _rope_types(config: Any) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = [getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            found |= {str(item.get("rope_type", item.get("type", "default")))}
            pending += list(item.values())
    return found
