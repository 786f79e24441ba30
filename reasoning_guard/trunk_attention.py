"""Attention for passes that read trunks together with their branches: a mask for the branches alone.

Trunks see what causal attention sees, for which there are kernels that need no mask, share the keys of grouped heads
and leave out what comes later. Under one mask for all, a trunk of some thousand tokens would cost a multiple of that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

WITH_TRUNKS = "reasoning_guard_with_trunks"
"""The name under which Transformers knows :func:`attend_with_trunks`."""


def attend_with_trunks(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled-dot-product attention in which leading tokens that the mask has no rows for are causal among themselves.

    Args:
        module: The layer.
        query: ``[R, H, T + B, D]``.
        key: ``[R, G, T + B, D]``, for as many or fewer heads.
        value: The same.
        attention_mask: ``[R, 1, B, T + B]``; or none, or one with rows for all tokens: attention as it always is.
        settings: What else the model asks of its attention.

    Returns:
        ``[R, T + B, H, D]``, and nothing in place of attention's weights.
    """
    attend = AttentionInterface()["sdpa"]
    trunk = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    if not trunk:
        return attend(module, query, key, value, attention_mask, **settings)
    ahead = [each[:, :, :trunk] for each in (query, key, value)]
    on_trunk, _ = attend(module, *ahead, attention_mask=None, **{**settings, "is_causal": True})
    on_branches, _ = attend(module, query[:, :, trunk:], key, value, attention_mask, **settings)
    return torch.cat([on_trunk, on_branches], dim=1), None


AttentionInterface.register(WITH_TRUNKS, attend_with_trunks)
