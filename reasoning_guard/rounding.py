"""How far rounding alone moves a score. A difference within that range shows no error."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reasoning_guard.model_parts import device_of, inner_model

_COARSE = 0.03
"""In 16 bits and fewer."""


def rounding_of(model: nn.Module) -> float:
    """Return the difference that rounding alone may cause in a model, in nats per (1 + |log-probability|).

    The caller has put the model in evaluation mode.
    """
    return _COARSE if _is_quantised(model) else noise(working_dtype(model))


def noise(dtype: torch.dtype) -> float:
    """Return the difference that rounding alone may cause in a dtype, in nats per (1 + |log-probability|)."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else _COARSE


def _is_quantised(model: nn.Module) -> bool:
    """Whether numbers are rounded to a few bits on the way; with one scale for all tokens, each moves all others."""
    return getattr(inner_model(model), "is_quantized", False) is True or any(
        type(module).__module__.startswith("torch.ao.nn") for module in model.modules()
    )


def working_dtype(model: nn.Module) -> torch.dtype:
    """Find the coarsest floating dtype that any layer puts out. The caller has put the model in evaluation mode.

    Weights do not tell it. Quantisation, and autocast (from outside or wrapped around the forward by a host), compute
    in other dtypes than they store. Hosts wrap the forward for other reasons too, so a wrapper tells nothing.
    """
    seen: set[torch.dtype] = set()

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.dtype.is_floating_point:
            seen.add(output.dtype)

    hooks: list[Any] = []
    try:
        hooks += (module.register_forward_hook(note) for module in model.modules())
        model(input_ids=torch.tensor([[1, 2]], device=device_of(model)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return min(seen, key=lambda dtype: dtype.itemsize, default=torch.float32)
