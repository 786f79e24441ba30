"""Attention for passes that read trunks together with their branches, without a mask of ``[tokens, tokens]``.

In place of a mask, a model is given a *table*: five integers for each branch token, which say what the token sees
(:func:`reasoning_guard.masks.table_of`). The tokens before the branches are the trunk, and see what causal attention
sees. Models pass on whatever is in the place of a mask, so the table reaches :func:`attend_by_table`, which
Transformers knows by name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reasoning_guard.compiled import CompiledKernel, KernelFailedError, compiled_kernel
from reasoning_guard.device_memory import out_of_memory
from reasoning_guard.masks import additive, visible_by

BY_TABLE = "reasoning_guard_by_table"
"""The name under which Transformers knows :func:`attend_by_table`."""

_WITHOUT_EFFECT = {"dropout", "scaling", "sliding_window", "position_ids", "cache_position", "use_cache"}
"""What models say beside queries, keys and values that attention by a table takes or need not know: it is for layers
that reach back to the first token, and there is no dropout in evaluation."""

HEAD_SIZES, _LARGEST_OFFSET = (16, 32, 64, 128), 2**31
"""What the kernel takes: powers of two that its blocks have room for, rows that 32 bits can address."""


def attend_by_table(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled-dot-product attention that takes a table in place of a mask.

    Args:
        module: The layer.
        query: ``[R, H, T + B, D]``.
        key: ``[R, G, T + B, D]``, for as many or fewer heads.
        value: The same.
        attention_mask: ``[R, 1, B, 5]`` integers (see :func:`~reasoning_guard.masks.table_of`). With an ordinary mask
            or none, attention works as usual.
        settings: Whatever else the model asks of its attention.

    Returns:
        ``[R, T + B, H, D]``, and None in place of attention's weights.

    Raises:
        ValueError: The model asks for something that attention by a table does not know, or has keys of its own.
    """
    if attention_mask is None or attention_mask.dtype.is_floating_point or attention_mask.dtype == torch.bool:
        return _attend(module, query, key, value, attention_mask, **settings)
    for name, asked in settings.items():
        if not (asked is None or asked is False or name in _WITHOUT_EFFECT):
            raise ValueError(f"attention by a table does not know {name}={asked!r}")
    if key.shape[2] != query.shape[2]:
        raise ValueError(f"attention by a table expects {query.shape[2]} keys; the model has {key.shape[2]}")
    if not attention_mask.shape[2]:  # no branches
        return _attend(module, query, key, value, None, **settings)
    with suppress(KernelFailedError):
        found = _by_kernel(query, key, value, attention_mask, settings.get("scaling"))
        if found is not None:
            return found, None
    trunk = query.shape[2] - attention_mask.shape[2]
    ahead = [each[:, :, :trunk] for each in (query, key, value)]
    on_trunk, _ = _attend(module, *ahead, attention_mask=None, **{**settings, "is_causal": True})
    mask = _mask_of(attention_mask, trunk, query.dtype)
    on_branches, _ = _attend(module, query[:, :, trunk:], key, value, mask, **settings)
    return torch.cat([on_trunk, on_branches], dim=1), None


AttentionInterface.register(BY_TABLE, attend_by_table)


def sdpa() -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """Return what models take for scaled-dot-product attention: Transformers' own, or a host's replacement."""
    return ALL_ATTENTION_FUNCTIONS["sdpa"]


def _attend(*inputs: Any, **settings: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    return sdpa()(*inputs, **settings)


_masks = WeakTensorKeyDictionary()


def _mask_of(table: torch.Tensor, trunk: int, dtype: torch.dtype) -> torch.Tensor:
    """What a table says as a mask ``[R, 1, B, T + B]``; made once for all layers that are given the table."""
    if table not in _masks:
        _masks[table] = additive(visible_by(table, trunk), dtype)
    return _masks[table]


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def _by_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, scale: float | None
) -> torch.Tensor | None:
    """All of it by one kernel, where there is one for these heads and it stands for what the model would do."""
    if not query.is_cuda or sdpa() is not sdpa_attention_forward:
        return None
    if torch.is_autocast_enabled(query.device.type):  # which reaches into PyTorch's kernels, but not into this one
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    three = (query, key, value)
    if key.shape != value.shape or query.shape[1] % key.shape[1] or not query.dtype == key.dtype == value.dtype:
        return None
    if any(each.stride(3) != 1 or each.stride(2) * each.shape[2] >= _LARGEST_OFFSET for each in three):
        return None
    table = table.to(query.device)  # layers may be spread over several
    kernel = _tried_kernel(query.device, query.dtype, query.shape[3])
    return None if kernel is None else kernel(*three, table, query.shape[3] ** -0.5 if scale is None else scale)


def needs_no_mask(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Say whether heads of ``size`` numbers attend by a kernel, so that no mask is made from their table."""
    if device.type != "cuda" or sdpa() is not sdpa_attention_forward:
        return False
    try:
        kernel = _tried_kernel(device, dtype, size)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False  # it could not be tried yet
    return kernel is not None and kernel.works


@cache
def _tried_kernel(
    device: torch.device, dtype: torch.dtype, size: int
) -> CompiledKernel[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor] | None:
    """The kernel, if a GPU has Triton and what it compiles for heads of ``size`` numbers is right."""

    def load() -> Kernel:
        from reasoning_guard.attention_kernel import attend

        return attend

    if size not in HEAD_SIZES:
        return None
    return compiled_kernel(device, load, lambda own: _compare(own, device, dtype, size), "branches attend under a mask")


def _compare(attend: Kernel, device: torch.device, dtype: torch.dtype, size: int) -> None:
    """See that a kernel says what attention under a mask does, for tokens that see all before them, less, or nothing.

    Raises:
        AssertionError: It does not.
    """
    trunk, rows, heads, groups, branches = 200, 2, 4, 2, 150
    settings = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}  # whatever the defaults are
    at = torch.randint(1, trunk + 1, (rows, branches), **settings)
    at[:, -20:] = trunk
    shares = torch.rand(2, rows, branches, dtype=torch.float32, **settings).sort(0).values
    shares[1, :, ::6] = 1.0
    start, stop = (shares * at).long()
    stop = torch.where(torch.arange(branches, device="cpu") % 3 == 0, stop, start)
    stop[0] = start[0]  # in one row nothing is hidden
    enter = torch.stack([torch.randperm(branches, **settings) for _ in range(rows)])
    leave = (enter // 10 + 1) * 10  # chains of ten
    table = torch.stack([at, start, stop, leave, enter], dim=-1)
    table[0, 70:75] = torch.tensor([1, 0, 0, 0, torch.iinfo(torch.int32).max], device="cpu")  # padding
    table = table[:, None].int()
    query, key, value = (
        torch.randn(rows, trunk + branches, n, size, dtype=torch.float32, **settings).to(device, dtype).transpose(1, 2)
        for n in (heads, groups, groups)
    )
    found = attend(query, key, value, table.to(device), size**-0.5).double()
    places = torch.arange(trunk + branches, device="cpu")
    causal = (places[None, :] <= places[:trunk, None]).expand(rows, -1, -1)
    seen = torch.cat([causal, visible_by(table, trunk)], dim=1)[:, None].to(device)
    keys, values = (each.double().repeat_interleave(heads // groups, dim=1) for each in (key, value))
    weights = (query.double() @ keys.mT * size**-0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    near = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, (weights @ values).transpose(1, 2), rtol=near, atol=near)
