"""One kernel for all that is read off a slice of logits, in one pass over it (see :mod:`reasoning_guard.hidden`).

Operation by operation, a GPU would read and write a slice some ten times, and Python would launch as many kernels.
Needs Triton, which comes with PyTorch's builds for GPUs.
"""

# Triton's language has types of its own, which Python's do not describe.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false, reportMissingImports=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK, _WARPS = 4096, 8


@triton.jit(do_not_specialize=["start", "rows"])
def _read(logits, numbers, stride, width, start, rows, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    inside = tl.arange(0, BLOCK)
    never = float("-inf")
    top, second, best, total, mass = never, never, 0, 0.0, 0.0
    for begin in range(0, width, BLOCK):
        places = begin + inside
        x = tl.load(logits + row * stride + places, mask=places < width, other=never).to(tl.float32)
        largest, where = tl.max(x, 0, return_indices=True)
        next_to = tl.max(tl.where(inside == where, never, x), 0)
        higher = tl.maximum(top, largest)
        anchor = tl.where(higher == never, 0.0, higher)  # else -inf less -inf
        share, shrunk = tl.exp(x - anchor), tl.exp(top - anchor)
        total = total * shrunk + tl.sum(share, 0)
        mass = mass * shrunk + tl.sum(tl.where(x == never, 0.0, share * x), 0)
        second = tl.maximum(tl.maximum(second, next_to), tl.minimum(top, largest))
        best = tl.where(largest > top, begin + where, best)
        top = higher
    tl.store(numbers + row, tl.where(total == total, top, total))  # maxima pass NaN by
    tl.store(numbers + rows + row, second)
    tl.store(numbers + 2 * rows + row, (best + start).to(tl.float32))
    tl.store(numbers + 3 * rows + row, tl.log(total))
    tl.store(numbers + 4 * rows + row, mass / total)


def read_slice(logits: torch.Tensor, start: int) -> torch.Tensor:
    """Reduce a slice ``[M, C]`` of logits, from token ``start`` on, to ``[5, M]`` in float32.

    The five are the best ``m``, the second best, where the best is, ``log(Z / exp(m))`` and the mean logit, by online
    softmax (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867).
    """
    numbers = torch.empty(5, len(logits), dtype=torch.float32, device=logits.device)
    grid = (len(logits),)
    sizes = logits.stride(0), logits.shape[1], start, len(logits)
    with torch.cuda.device_of(logits):  # else Triton takes the current one
        _read[grid](logits, numbers, *sizes, BLOCK=_BLOCK, num_warps=_WARPS)
    return numbers
