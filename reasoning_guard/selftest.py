"""Which way of scoring is exact for this model? Measured, never assumed.

Sharing a trunk needs a cache that keeps everything and masks that every layer respects. Recurrent layers, alibi biases,
local windows and chunks break one or the other, most of them silently. So before anything is scored:

1. A **twin**, a tiny float32 model of the same architecture with windows and chunks shrunk until a short trunk
   overflows them, is scored both ways under every mask plan that may fit. In float32 a wrong mask cannot hide in
   rounding, and a window of 4,096 tokens cannot hide behind a short test.
2. The **user's own model** is scored both ways on one of the trees it was asked about, within its dtype's noise.

The first plan that passes both is used; otherwise every branch is scored on its own, in padded batches where padding
is seen to change nothing and one by one where it does, which is the definition itself.
"""

from __future__ import annotations

import copy
import logging
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.forward import Scores, mask_dtype, read_prompt, score_independent, score_shared
from reasoning_guard.masks import MaskPlan, mask_plans
from reasoning_guard.model_context import device_of, reading, text_config
from reasoning_guard.tree import Branch, BranchScore, TraceTree

logger = logging.getLogger(__name__)

_TWIN_TOLERANCE = 1e-4
_WINDOW = 8
_VOCABULARY = 96
_LARGEST_TWIN = 20_000_000
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope", "su"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model is scored, and why.

    Attributes:
        plan: Mask plan of the shared path, or None: score every branch on its own.
        reason: In words, for the log.
        difference: Largest difference in log-probability that the test saw between the two ways, in nats.
        pads: Whether branches that are scored on their own may be padded to a batch.
    """

    plan: MaskPlan | None
    reason: str
    difference: float = 0.0
    pads: bool = True


_twins: dict[str, Verdict] = {}


def verdict_of_twin(model: nn.Module) -> Verdict:
    """Test a tiny float32 model of the same architecture; the result is remembered for the process.

    Args:
        model: The user's model; only its configuration is looked at.

    Returns:
        The first mask plan under which sharing is exact on the twin, or None with the reason.
    """
    config = text_config(model)
    rope = _rope_types(config) & _LENGTH_DEPENDENT_ROPE
    if rope:
        return Verdict(None, f"its {rope.pop()} RoPE depends on the total length, which a shared trunk changes")
    if _is_recurrent(config):
        return Verdict(None, "it has recurrent or convolutional layers, whose state branches cannot share")
    key = repr((type(config).__name__, _kinds(config), getattr(model.config, "_attn_implementation", None)))
    if key not in _twins:
        _twins[key] = _test_twin(model)
    return _twins[key]


def _is_recurrent(config: Any) -> bool:
    """Whether a configuration names layers that are not attention; erring here costs speed, never exactness."""
    types = {str(kind) for kind in getattr(config, "layer_types", None) or ()}
    return any("attention" not in kind or "linear" in kind for kind in types) or any(
        name.startswith(("mamba_", "ssm_", "state_size")) for name in config.to_dict()
    )


def _kinds(config: Any) -> tuple[object, ...]:
    """What decides which layers a twin has: layer types and whether there are windows, not their sizes."""
    types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
    return (*types, getattr(config, "sliding_window", None) is not None)


def _test_twin(model: nn.Module) -> Verdict:
    try:
        twin = build_twin(model)
    except Exception as error:  # any architecture may refuse to be built small, each in its own way
        return Verdict(None, f"no small model of its kind could be built to test sharing on ({error})")
    with reading(twin, dense_masks=True):
        trees = twin_trees(_VOCABULARY)
        try:
            truth = score_independent(twin, trees, token_budget=1)
        except Exception as error:  # the always-right path itself does not run on the twin: nothing to compare with
            return Verdict(None, f"a small model of its kind did not run ({error})")
        return _first_exact(twin, trees, truth)


def _first_exact(twin: nn.Module, trees: Sequence[TraceTree], truth: Scores) -> Verdict:
    nearest = float("inf")
    for plan in mask_plans(text_config(twin)):
        difference = _try(twin, trees, plan, truth)
        if difference <= _TWIN_TOLERANCE:
            return Verdict(plan, "sharing the trunk is exact on a small model of its kind", difference)
        nearest = min(nearest, difference)
    return Verdict(
        None, f"sharing the trunk changes scores on a small model of its kind by {nearest:.2g} nats", nearest
    )


def _try(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, truth: Scores) -> float:
    """Largest difference from the truth, without and with a beginning that is read ahead, as groups share one."""
    beginning = trees[0].trunk[: len(trees[0].trunk) // 2]
    try:
        ahead = score_shared(model, trees[:1], plan, prompt=read_prompt(model, beginning))
        return max(largest_difference(score_shared(model, trees, plan), truth), largest_difference(ahead, truth[:1]))
    except Exception as error:  # a mask or a cache that the architecture refuses is an answer: not this plan
        logger.debug("mask plan %s failed on %s: %s", plan, type(model).__name__, error)
        return float("inf")


def confirm(model: nn.Module, verdict: Verdict, trees: Sequence[TraceTree]) -> Verdict:
    """Check the verdict on the user's own model with one of its own trees; the caller has put it in evaluation.

    Args:
        model: The user's model.
        verdict: What the twin said.
        trees: Trees that are about to be scored; the shortest is used, with at most four of its branches.

    Raises:
        ConfigurationError: The model is not causal.

    Returns:
        The verdict with the plan scaled to this model's windows, or the fallback and whether it may pad.
    """
    tree = min(trees, key=lambda tree: len(tree.trunk))
    last = len(tree.branches) - 1
    spread = dict.fromkeys(i * last // 3 for i in range(4))  # the first, the last and two between
    sample = [TraceTree(tree.trunk, tuple(tree.branches[i] for i in spread))]
    truth = score_independent(model, sample, token_budget=1)
    _refuse_bidirectional(model, sample, truth)
    worst = max(abs(p) for score in truth[0] for p in score.logprobs)
    allowed = noise(mask_dtype(model), _autocast(model)) * (1 + worst)
    if verdict.plan is not None:
        plan = _scaled(verdict.plan, text_config(model))
        difference = _try(model, sample, plan, truth)
        if difference <= allowed:
            return Verdict(plan, f"{verdict.reason} and within {difference:.2g} nats on this one", difference)
        reason = f"sharing the trunk changes scores on this model by {difference:.2g} nats"
        verdict = Verdict(None, reason, difference)
    padded = score_independent(model, sample, token_budget=sys.maxsize)
    return replace(verdict, pads=largest_difference(padded, truth) <= allowed)


def _refuse_bidirectional(model: nn.Module, trees: Sequence[TraceTree], truth: Scores) -> None:
    """What stands behind a token must not change its score, else every answer would be read off itself."""
    i = max(range(len(truth[0])), key=lambda i: len(truth[0][i].logprobs))
    branch = trees[0].branches[i]
    start = branch.scored[0]
    first = TraceTree(trees[0].trunk, (replace(branch, scored=(start, start + 1)),))
    [[alone]] = score_independent(model, [first], token_budget=1)
    within = truth[0][i].logprobs[0]
    if abs(alone.total - within) > 10 * noise(mask_dtype(model), _autocast(model)) * (1 + abs(within)):
        raise ConfigurationError(
            f"{type(model).__name__} reads tokens behind the one that it predicts ({alone.total:.3g} nats without "
            f"them, {within:.3g} with them): expected a causal language model (an encoder needs `is_decoder=True`)"
        )


def noise(dtype: torch.dtype, autocast: bool = False) -> float:
    """Difference in log-probability that rounding alone may cause, in nats per (1 + |log-probability|)."""
    return 1e-4 if dtype in (torch.float32, torch.float64) and not autocast else 0.03


def _autocast(model: nn.Module) -> bool:
    """Whether the forward runs under autocast, from outside or because accelerate wrapped it in it."""
    return torch.is_autocast_enabled(device_of(model).type) or "forward" in vars(model)


def largest_difference(scores: Scores, truth: Scores) -> float:
    """Largest absolute difference in log-probability between two scorings of the same trees, in nats."""
    pairs = [
        (a, b) for x, y in zip(scores, truth, strict=True) for s, t in zip(x, y, strict=True) for a, b in _pairs(s, t)
    ]
    differences = [abs(a - b) for a, b in pairs]
    return float("inf") if any(d != d for d in differences) else max(differences)


def _pairs(a: BranchScore, b: BranchScore) -> list[tuple[float, float]]:
    return list(zip(a.logprobs, b.logprobs, strict=True))


def _scaled(plan: MaskPlan, config: Any) -> MaskPlan:
    """The twin's plan with the user's own window and chunk sizes."""
    return MaskPlan(
        by_layer_type=plan.by_layer_type,
        window=getattr(config, "sliding_window", None) if plan.window is not None else None,
        chunk=getattr(config, "attention_chunk_size", None) if plan.chunk is not None else None,
    )


def _rope_types(config: Any) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = [getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            found |= {str(item.get("rope_type", item.get("type", "default")))}
            pending += list(item.values())
    return found


def twin_trees(vocabulary: int, seed: int = 0) -> list[TraceTree]:
    """Two trees of different length that overflow the twin's windows; their branches of 3 to 12 tokens share heads."""
    rng = random.Random(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(n))

    trees = []
    for length in (41, 29):
        trunk, head = ids(length), ids(2)
        branches = [
            Branch(at, head + ids(size), (2, 2 + size)) for at in (4, 11, 18, length - 3, length) for size in (1, 4, 10)
        ]
        trees.append(TraceTree(trunk, tuple(branches)))
    return trees


_SIZES = {
    "vocab_size": _VOCABULARY, "hidden_size": 64, "n_embd": 64, "d_model": 64, "word_embed_proj_dim": 64,
    "intermediate_size": 64, "ffn_dim": 64, "n_inner": 64, "moe_intermediate_size": 32,
    "vocab_size_per_layer_input": _VOCABULARY, "hidden_size_per_layer_input": 16, "ffn_hidden_size": 64,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "global_head_dim": 16, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1,
    "rotary_dim": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "kv_lora_rank": 16,
    "q_lora_rank": 16, "sliding_window": _WINDOW, "attention_chunk_size": 16, "window_size": _WINDOW,
    "decoder_layers": 2, "encoder_layers": 2, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def build_twin(model: nn.Module) -> nn.Module:
    """A tiny float32 model of the same architecture, with weights large enough that a wrong mask shows.

    Args:
        model: The user's model; its configuration is copied and shrunk.

    Returns:
        The twin, on the CPU, with every kind of layer that the model has.
    """
    attention = "eager" if getattr(model.config, "_attn_implementation", "") == "eager" else "sdpa"
    return build_small(text_config(model), attention)


def build_small(config: Any, attention: str = "sdpa", seed: int = 0, **changes: Any) -> nn.Module:
    """A tiny random float32 model of a configuration's architecture, on the CPU, in training mode.

    Args:
        config: A Transformers configuration of any size; copied.
        attention: Attention implementation; eager where the architecture has no other.
        seed: Seed of the weights.
        changes: Settings that are set after shrinking.

    Raises:
        ValueError: If what can be shrunk is shrunk and the model is still large.
    """
    small = shrink(config)
    small._attn_implementation = attention
    for name, value in changes.items():
        _resize(small, name, value)
    _refuse_large(small)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model = _from_config(small)
        _enlarge(model)
    return model.float()


def _refuse_large(config: Any) -> None:
    """Count the parameters without making them: a size that goes by an unknown name stays as large as the user's."""
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in _from_config(copy.deepcopy(config)).parameters())
    if size > _LARGEST_TWIN:
        raise ValueError(f"shrunk as far as its sizes are known, it still has {size:,} parameters")


def _from_config(config: Any) -> nn.Module:
    try:
        return AutoModelForCausalLM.from_config(config)
    except ValueError:  # the architecture has no scaled-dot-product attention
        config._attn_implementation = "eager"
        return AutoModelForCausalLM.from_config(config)


def shrink(config: Any) -> Any:
    """A copy of a configuration with every size small, keeping one or two layers of every kind."""
    small = copy.deepcopy(config)
    small.dtype = None
    small.allow_global_per_layer_attribute_access = True  # else configurations with sizes a layer refuse to be read
    every_head = getattr(small, "num_key_value_heads", None) in (None, getattr(small, "num_attention_heads", None))
    for name, size in _SIZES.items():
        _resize(small, name, size)
    types = list(getattr(config, "layer_types", None) or ())
    kinds = list(dict.fromkeys(types))
    depth = max(2, 2 * len(kinds))
    for name in _DEPTHS:
        _resize(small, name, depth)
    if every_head:
        _fill(small, "num_key_value_heads", _SIZES["num_attention_heads"])
    for name in ("head_dim", "num_experts_per_tok"):
        _fill(small, name, _SIZES[name])
    if getattr(config, "num_kv_shared_layers", None):
        _resize(small, "num_kv_shared_layers", depth // 2)
    if kinds:
        with suppress(AttributeError):  # some architectures derive the kinds of their layers from the depth
            small.layer_types = (kinds * depth)[:depth]
    return small


def _fill(config: Any, name: str, size: int) -> None:
    """Set a size that the configuration knows by name, also where it is left to be derived."""
    with suppress(AttributeError):
        if hasattr(config, name):
            setattr(config, name, size)


def _resize(config: Any, name: str, size: int) -> None:
    """Set a size that the configuration has, leaving alone what it derives, or keeps per layer."""
    with suppress(AttributeError):
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            setattr(config, name, size)


@torch.no_grad()
def _enlarge(twin: nn.Module) -> None:
    for parameter in twin.parameters():
        if parameter.dim() >= 2:
            parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
