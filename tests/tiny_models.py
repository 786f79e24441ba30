"""Tiny random models of many architectures, with weights large enough that a wrong mask or position shows.

And what is done to models in many tests: their passes are watched, and a little is taught.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOWED = {"sliding_window": 9}

# name: (model type, settings). Windows are far shorter than the traces in the tests, so that they matter.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", _WINDOWED),
    "gemma2": ("gemma2", {**_WINDOWED, "query_pre_attn_scalar": 12}),
    "gemma3": ("gemma3_text", {**_WINDOWED, "query_pre_attn_scalar": 12}),
    "gpt2": ("gpt2", {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 2048}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "gpt_oss": ("gpt_oss", {**_WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2}),
}
CHUNKED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama4": ("llama4_text", {"attention_chunk_size": 11, "num_local_experts": 2, "intermediate_size_mlp": 64}),
}
STATEFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba", {"state_size": 8}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
    "qwen3_5": (
        "qwen3_5_text",
        {
            "layer_types": ["linear_attention", "full_attention"] * 2,
            **{"linear_key_head_dim": 64, "linear_value_head_dim": 64},
            **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        },
    ),
    "jamba": ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "num_experts": 2}),
}
SCALED: dict[str, tuple[str, dict[str, Any]]] = {"granite": ("granite", {}), "cohere": ("cohere", {})}
BIASED: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("bloom", {"n_layer": 3, "n_head": 4}),
    "gpt_neo": (
        "gpt_neo",
        {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 9},
    ),
}


def tiny_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random float32 model of the architecture ``name``, in training mode."""
    model_type, settings = {**ARCHITECTURES, **CHUNKED, **STATEFUL, **SCALED, **BIASED}[name]
    config = AutoConfig.for_model(model_type, **{**_SMALL, **settings, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    return model.train()


def passes_of(model: torch.nn.Module) -> list[tuple[int, ...]]:
    """Shapes of what is fed from now on, filled as the model is called."""
    fed: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _m, _a, kw: fed.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    return fed


def taught(model: Any, batch: Mapping[str, torch.Tensor], steps: int, rate: float) -> Any:
    """The model after some steps on 32 rows each of a padded batch, drawn alike every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for _ in range(steps):
            rows = torch.randint(len(batch["input_ids"]), (32,))
            ids, mask = batch["input_ids"][rows], batch["attention_mask"][rows]
            model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model
