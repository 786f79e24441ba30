"""Attention of trunks and packed branches in one kernel (see :mod:`reasoning_guard.table_attention`).

A token sees the trunk up to where its branch attaches (less a slice that it may not see), its own ancestors, and
itself. Five integers for each token say all of that. So nothing of the size ``[tokens, tokens]`` is ever written, keys
that no token in a block of queries sees are not read, and grouped heads share theirs. Uses FlashAttention's online
softmax (Dao 2023, https://arxiv.org/abs/2307.08691). Needs Triton, which comes with PyTorch's builds for GPUs.
"""

# Triton's language has types of its own, which Python's do not describe.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false, reportMissingImports=false

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

_BLOCKS, _EXACT_BLOCKS = {64: (64, 32, 4, 3), 128: (64, 64, 4, 3)}, (32, 32, 4, 2)
"""By size of heads: queries and keys in a block, warps, and blocks under way at once; in float32 for any size."""

COLUMNS = 5
"""The numbers of a branch token: how much of the trunk it sees, where the slice that it does not see begins and ends,
one past its last descendant's number, and its own number (:class:`~reasoning_guard.packing.PackedBatch`)."""


@triton.jit
def _step(
    q, kept, total, top, keys, values, scale, seen,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,  # noqa: N803
):  # fmt: skip
    """A block of keys and values into the running maximum, sum and average of a block of queries."""
    weights = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
    if MASKED:
        weights = tl.where(seen, weights, -1.0e30)
    higher = tl.maximum(top, tl.max(weights, 1))
    shrunk = tl.exp2(top - higher)
    weights = tl.exp2(weights - higher[:, None])
    total = total * shrunk + tl.sum(weights, 1)
    kept = kept * shrunk[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    return kept, total, higher


@triton.jit(do_not_specialize=["trunk", "length"])
def _attend(
    query, key, value, table, found, scale, trunk, length,
    query_row, query_head, query_token, key_row, key_head, key_token, value_row, value_head, value_token,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,  # noqa: N803
):  # fmt: skip
    blocks = tl.cdiv(length, QUERIES)
    row, head = tl.program_id(0) // blocks // HEADS, tl.program_id(0) // blocks % HEADS
    row, head = row.to(tl.int64), head.to(tl.int64)
    # The last tokens see most and take longest: they begin first.
    own = (blocks - 1 - tl.program_id(0) % blocks) * QUERIES + tl.arange(0, QUERIES)
    size, there = tl.arange(0, SIZE), own < length
    q = tl.load(
        query + row * query_row + head * query_head + own[:, None] * query_token + size[None, :],
        mask=there[:, None], other=0.0,
    )  # fmt: skip
    branch = there & (own >= trunk)
    numbers = table + (row * (length - trunk) + (own - trunk)) * COLUMNS
    reach = tl.load(numbers, mask=branch, other=0)
    hidden_from = tl.load(numbers + 1, mask=branch, other=0)
    hidden_to = tl.load(numbers + 2, mask=branch, other=0)
    number = tl.load(numbers + 4, mask=branch, other=-1)  # no trunk token sees a branch
    reach = tl.where(branch, reach, tl.where(there, own + 1, 1))

    keys_at = key + row * key_row + (head // GROUP) * key_head + size[None, :]
    values_at = value + row * value_row + (head // GROUP) * value_head + size[None, :]
    kept = tl.zeros([QUERIES, SIZE], tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    top = tl.full([QUERIES], -1.0e30, tl.float32)

    sees_all = tl.min(tl.where(there, reach, length), 0)  # what every query sees needs no comparison
    if tl.max(hidden_to - hidden_from, 0) > 0:
        sees_all = 0
    sees_all = sees_all // KEYS * KEYS
    farthest = tl.max(reach, 0)
    inside = tl.arange(0, KEYS)
    for begin in range(0, sees_all, KEYS):
        places = (begin + inside)[:, None]
        keys = tl.load(keys_at + places * key_token)
        values = tl.load(values_at + places * value_token)
        kept, total, top = _step(q, kept, total, top, keys, values, scale, 0, False, PRECISION)
    for begin in range(sees_all, farthest, KEYS):
        place = begin + inside
        in_trunk = place[:, None] < trunk
        keys = tl.load(keys_at + place[:, None] * key_token, mask=in_trunk, other=0.0)
        values = tl.load(values_at + place[:, None] * value_token, mask=in_trunk, other=0.0)
        seen = place[None, :] < reach[:, None]
        seen &= (place[None, :] < hidden_from[:, None]) | (place[None, :] >= hidden_to[:, None])
        kept, total, top = _step(q, kept, total, top, keys, values, scale, seen, True, PRECISION)
    if tl.max(number, 0) >= 0:
        for begin in range(trunk, length, KEYS):
            place = begin + inside
            on_branch = place < length
            theirs = table + (row * (length - trunk) + (place - trunk)) * COLUMNS
            leave = tl.load(theirs + 3, mask=on_branch, other=0)
            enter = tl.load(theirs + 4, mask=on_branch, other=2147483647)
            seen = (enter[None, :] <= number[:, None]) & (number[:, None] < leave[None, :])
            if tl.max(tl.max(seen.to(tl.int32), 1), 0) > 0:
                keys = tl.load(keys_at + place[:, None] * key_token, mask=on_branch[:, None], other=0.0)
                values = tl.load(values_at + place[:, None] * value_token, mask=on_branch[:, None], other=0.0)
                kept, total, top = _step(q, kept, total, top, keys, values, scale, seen, True, PRECISION)

    kept = kept / total[:, None]
    there_at = found + ((row * length + own[:, None]) * HEADS + head) * SIZE + size[None, :]
    tl.store(there_at, kept.to(found.dtype.element_ty), mask=there[:, None])


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend from ``T`` trunk tokens and the ``B`` branch tokens behind them, in each of ``R`` rows.

    Args:
        query: ``[R, H, T + B, D]``, ``D`` one of :data:`~reasoning_guard.table_attention.HEAD_SIZES`.
        key: ``[R, G, T + B, D]``; ``G`` divides ``H``.
        value: The same.
        table: ``[R, 1, B, 5]`` int32, contiguous: :data:`COLUMNS` of each branch token.
        scale: The factor for products of queries and keys.

    Returns:
        ``[R, T + B, H, D]``.
    """
    rows, heads, length, size = query.shape
    if table.shape[2] > length or table.shape[0] != rows or table.shape[3] != COLUMNS or not table.is_contiguous():
        raise ValueError(
            f"expected a contiguous table of {COLUMNS} numbers for at most {length} tokens in {rows} rows; got "
            f"{tuple(table.shape)}"
        )
    found = torch.empty(rows, length, heads, size, dtype=query.dtype, device=query.device)
    exact = query.dtype == torch.float32
    queries, keys, warps, stages = _EXACT_BLOCKS if exact else _BLOCKS[max(64, size)]
    numbers = (scale * math.log2(math.e), length - table.shape[2], length)
    strides = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3])
    with torch.cuda.device_of(query):  # else Triton takes the current one
        _attend[(triton.cdiv(length, queries) * rows * heads,)](  # along one axis: the others are short
            query, key, value, table, found, *numbers, *strides,
            HEADS=heads, GROUP=heads // key.shape[1], SIZE=size, COLUMNS=COLUMNS, QUERIES=queries, KEYS=keys,
            PRECISION="ieee" if exact else "tf32", num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return found
