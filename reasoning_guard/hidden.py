"""Read next-token distributions from hidden states and a head's weights, without making the logits.

Logits of some hundred positions over 150,000 tokens are hundreds of MiB, written once and read once or twice. So the
head runs over one slice of the vocabulary at a time, for all positions. What is read off each slice is put together in
the end: the log-sum-exp of the slices' log-sum-exps, and the best two of all slices' best two (as online softmax does,
Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867; and for losses Cut Cross-Entropy, Wijmans et al. 2024,
https://arxiv.org/abs/2411.09009).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reasoning_guard.compiled import KernelFailedError, compiled_kernel
from reasoning_guard.logits import CHUNK, Place, best_two
from reasoning_guard.packing import on_device
from reasoning_guard.trie import Integers

_CPU_SLICE, _GPU_SLICE, _FUSED_SLICE = (2**19, 512, 2048), (2**24, 4096, 2**24), (2**25, 4096, 2**25)
"""Elements of a slice's logits, and its least and greatest width in tokens. On a CPU what stays in its second-level
cache; narrower ones would bring the hidden states into the multiplication's order too often. On a GPU that reads them
with one kernel nothing beside them is written, and they stay as coarse as the model makes them."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Distributions as hidden states, to be multiplied with the head's weights (see :class:`logits.Distributions`).

    Attributes:
        states: ``[R, P, H]``, the head's input.
        head: The head.
        dtype: The dtype in which the head would have computed: autocast's, or that of its weights.
    """

    states: torch.Tensor
    head: nn.Linear
    dtype: torch.dtype

    def numbers(self, rows: Integers, columns: Integers, targets: Integers) -> torch.Tensor:
        """The numbers of each asked token (see :class:`logits.Distributions`)."""
        if not 0 <= targets.min() <= targets.max() < self.head.out_features:
            raise IndexError(
                f"expected tokens that the head knows, 0 to {self.head.out_features - 1}; got {targets.min()} to "
                f"{targets.max()}"
            )
        distinct, which = np.unique(rows * self.states.shape[1] + columns, return_inverse=True)
        order = np.argsort(targets, kind="stable")  # so that a slice of the vocabulary has neighbours
        asked, device = targets[order], self.states.device
        sent = np.concatenate([distinct, which, targets, which[order], asked, order])
        first, which, wanted, place, token, turn = on_device(torch.from_numpy(sent), device).split(
            [len(distinct), *[len(targets)] * 5]
        )
        states = self.states.flatten(0, 1)[first].to(self.dtype)
        own = torch.empty(len(targets), dtype=torch.float32, device=device)
        fused = fused_reading(device)
        found, width = [], _width(len(states), device, fused is not None)
        for start in range(0, self.head.out_features, width):
            logits = self._logits(states, start, start + width)
            a, b = np.searchsorted(asked, [start, start + width]).tolist()
            if a < b:
                own[turn[a:b]] = logits[place[a:b], token[a:b] - start].float()
            found.append(_read(logits, start, fused))
        top, second, best, log_total, entropy = _together(found)[:, which]
        return torch.stack([own - top - log_total, (best == wanted).float(), entropy, top - second])

    def logits(self, places: Sequence[Place]) -> torch.Tensor:
        """``[M, V]`` logits at some places, made now."""
        rows, columns = zip(*places, strict=True)
        return self._logits(self.states[list(rows), list(columns)].to(self.dtype), 0, self.head.out_features)

    def _logits(self, states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        weight = self.head.weight[start:stop].to(self.dtype)
        bias: torch.Tensor | None = self.head.bias
        bias = None if bias is None else bias[start:stop].to(self.dtype)  # pyright: ignore[reportUnnecessaryComparison]
        with torch.autocast(states.device.type, enabled=False):  # what it would do is in `dtype` already
            return F.linear(states, weight, bias)


def _width(rows: int, device: torch.device, fused: bool) -> int:
    elements, least, greatest = _CPU_SLICE if device.type == "cpu" else _FUSED_SLICE if fused else _GPU_SLICE
    return max(least, min(greatest, elements // rows // CHUNK * CHUNK))  # whole chunks: quicker to look through


Reader = Callable[[torch.Tensor, int], torch.Tensor]


@cache
def fused_reading(device: torch.device) -> Reader | None:
    """Return one kernel in place of :func:`_read_slice`'s many, if the GPU has Triton and the kernel is right."""

    def load() -> Reader:
        from reasoning_guard.slice_kernel import read_slice

        return read_slice

    def check(read: Reader) -> None:
        trial = (
            torch.linspace(-9, 9, 3 * 5001, dtype=torch.float32, device=device)
            .view(5001, 3)
            .T.contiguous()
            .sin()
            .mul_(30)
        )
        torch.testing.assert_close(read(trial, 7), _read_slice(trial, 7), rtol=1e-4, atol=1e-4)

    return compiled_kernel(device, load, check, "logits are read in several steps")


def _read(logits: torch.Tensor, start: int, fused: Reader | None) -> torch.Tensor:
    if fused is not None:
        with suppress(KernelFailedError):
            return fused(logits, start)
    return _read_slice(logits.float(), start)


def _read_slice(logits: torch.Tensor, start: int) -> torch.Tensor:
    """A slice ``[M, C]`` to ``[5, M]``: best ``m``, second, best's place, ``log(Z / exp(m))`` and the mean logit."""
    top, second, best = best_two(logits)
    p = logits.softmax(-1)
    log_total = -p.gather(-1, best[:, None])[:, 0].log()
    mean = p.mul_(logits).nansum(-1)  # 0 x -inf: a token that is ruled out adds nothing
    return torch.stack([top, second, (best + start).to(top.dtype), log_total, mean])


def _together(slices: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same of all slices, ``[5, M]`` each, to ``[5, M]``; in the last place the entropy, ``log Z - sum(p x)``."""
    if len(slices) == 1:
        top, second, best, log_total, mean = slices[0]
        return torch.stack([top, second, best, log_total, log_total + (top - mean)])
    tops, seconds, bests, totals, means = torch.stack([*slices], dim=1)
    top, leading = tops.max(0)
    second = torch.cat([tops.scatter(0, leading[None], -torch.inf), seconds]).amax(0)
    ruled_out = tops == -torch.inf  # a slice without a token that can come
    totals, means = (totals + (tops - top)).masked_fill(ruled_out, -torch.inf), means.masked_fill(ruled_out, 0.0)
    log_total = totals.logsumexp(0)
    entropy = log_total + (top - ((totals - log_total).exp() * means).sum(0))
    return torch.stack([top, second, bests.gather(0, leading[None])[0], log_total, entropy])
