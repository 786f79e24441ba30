"""Tiny models of any architecture, on which a question of principle can be tested in a second.

A **twin** has every kind of layer that the user's model has, two of each, with windows and chunks so short that a short
trunk overflows them. It is in float32, where a wrong mask cannot hide in rounding.
"""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.modeling_utils import set_zero3_state

from reasoning_guard.model_parts import attention_name, inner_model, text_config
from reasoning_guard.tree import Branch, TraceTree

VOCABULARY = 96
_WINDOW = 8
_LARGEST_TWIN = 20_000_000


def twin_trees(vocabulary: int, seed: int = 0) -> list[TraceTree]:
    """Make two trees of different length that overflow the twin's windows; branches of 3 to 12 tokens share heads."""
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
    "vocab_size": VOCABULARY, "hidden_size": 64, "n_embd": 64, "d_model": 64, "word_embed_proj_dim": 64,
    "intermediate_size": 64, "ffn_dim": 64, "n_inner": 64, "moe_intermediate_size": 32,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16, "ffn_hidden_size": 64,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "global_head_dim": 16, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1,
    "rotary_dim": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "kv_lora_rank": 16,
    "q_lora_rank": 16, "sliding_window": _WINDOW, "attention_chunk_size": 16, "window_size": _WINDOW,
    "decoder_layers": 2, "encoder_layers": 2, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4,
    "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_head_dim": 16, "linear_num_heads": 4, "lru_width": 64, "mamba_dt_rank": 4, "time_step_rank": 4,
    "attn_layer_period": 2, "attn_layer_offset": 1, "attention_hidden_size": 128, "attention_head_dim": 32,
    "mamba_expand": 2, "expand": 2, "mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_num_heads": 8, "mamba_d_head": 16,
    "mamba_head_dim": 16, "mamba_headdim": 16, "mamba_n_groups": 1, "mamba_ngroups": 1, "n_groups": 1,
    "mamba_d_state": 16, "ssm_state_size": 16, "state_size": 16, "mamba_chunk_size": _WINDOW, "chunk_size": _WINDOW,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def build_twin(model: nn.Module) -> nn.Module:
    """Build a tiny float32 model of the same architecture, with weights large enough that a wrong mask shows.

    Args:
        model: The user's model; its configuration is copied and shrunk.

    Returns:
        The twin, on the CPU, with every kind of layer that the model has.
    """
    attention = "eager" if attention_name(model) == "eager" else "sdpa"
    return build_small(text_config(model), attention, own=type(inner_model(model)))


def build_small(
    config: Any, attention: str = "sdpa", seed: int = 0, own: type[Any] | None = None, **changes: Any
) -> nn.Module:
    """Build a tiny random float32 model of a configuration's architecture, on the CPU, in training mode.

    Args:
        config: A Transformers configuration of any size; copied.
        attention: Attention implementation; eager if the architecture has no other.
        seed: Seed of the weights.
        own: The model's class, for configurations that Transformers' own mapping to causal models does not know.
        changes: Settings to change after shrinking.

    Raises:
        ValueError: The model is still large after everything that can be shrunk is shrunk.
    """
    small = shrink(config)
    small._attn_implementation = attention
    for name, value in changes.items():
        _resize(small, name, value)
    _refuse_large(small, own)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), set_zero3_state():
        torch.random.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed the training's devices too
        model = _from_config(small, own)
        enlarge(model)
    return model.float()


def _refuse_large(config: Any, own: type[Any] | None) -> None:
    """Count the parameters without making them: a size that goes by an unknown name stays as large as the user's."""
    with torch.device("meta"), set_zero3_state():
        size = sum(parameter.numel() for parameter in _from_config(copy.deepcopy(config), own).parameters())
    if size > _LARGEST_TWIN:
        raise ValueError(f"shrunk as far as its sizes are known, it still has {size:,} parameters")


def _from_config(config: Any, own: type[Any] | None) -> nn.Module:
    make: Any = AutoModelForCausalLM.from_config
    expected = getattr(own, "config_class", None)
    if own is not None and expected is not None and isinstance(config, expected) and not _is_mapped(config):
        make = own._from_config
    try:
        return make(config)
    except ValueError:  # the architecture has no scaled-dot-product attention
        config._attn_implementation = "eager"
        return make(config)


def _is_mapped(config: Any) -> bool:
    """Whether Transformers knows a causal model for a configuration; some text parts belong to a larger one only."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING


def shrink(config: Any) -> Any:
    """Copy a configuration with every size small, keeping one or two layers of every kind."""
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
    if hasattr(small, "expand"):  # of Mamba 2, whose heads divide the widened states
        _resize(small, "num_heads", small.expand * _SIZES["hidden_size"] // _SIZES["head_dim"])
    if getattr(config, "num_kv_shared_layers", None):
        _resize(small, "num_kv_shared_layers", depth // 2)
    if getattr(config, "attn_layer_indices", None):
        small.attn_layer_indices = [1]
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
def enlarge(twin: nn.Module) -> None:
    """Make random weights so large that a wrong mask shows."""
    for parameter in twin.parameters():
        if parameter.dim() >= 2:
            parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
