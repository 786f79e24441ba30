"""Logits of the positions that are asked about, and the numbers read off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from reasoning_guard.packing import on_device
from reasoning_guard.trie import Integers

_CPU_BLOCK, _GPU_BLOCK = 2**20, 2**23
"""Elements of logits that are turned into numbers at once: what stays in a CPU's cache, what keeps a GPU busy."""

CHUNK = 64
"""Tokens among whose maxima the largest logit is looked for first."""

Place = tuple[int, int]
"""A row and a column of what was asked of a forward pass."""


class Distributions(Protocol):
    """Next-token distributions at the places asked about: ``R`` rows of ``P`` columns, however they are kept."""

    def numbers(self, rows: Integers, columns: Integers, targets: Integers) -> torch.Tensor:
        """Return ``[4, M]`` in float32, still on the device, for ``M`` scored tokens; places may repeat.

        The four numbers are the token's log-probability, whether it is the best (1 or 0), the entropy of its
        distribution, and the margin of the best two.
        """
        ...

    def logits(self, places: Sequence[Place]) -> torch.Tensor:
        """``[M, V]`` logits at some places."""
        ...


@dataclass(frozen=True, slots=True)
class Logits:
    """Distributions as a model's own head makes them.

    Attributes:
        table: ``[R, T, V]``.
        columns: Where in ``T`` the requested columns are.
    """

    table: torch.Tensor
    columns: Sequence[int]

    def numbers(self, rows: Integers, columns: Integers, targets: Integers) -> torch.Tensor:
        """The numbers of each asked token (see :class:`Distributions`)."""
        return token_numbers(self.table, rows * self.table.shape[1] + np.array(self.columns)[columns], targets)

    def logits(self, places: Sequence[Place]) -> torch.Tensor:
        """``[M, V]`` logits at some places."""
        return self.table[[row for row, _ in places], [self.columns[i] for _, i in places]]


def token_numbers(logits: torch.Tensor, flat: Integers, targets: Integers) -> torch.Tensor:
    """The numbers of each asked token, in float32.

    Args:
        logits: ``[R, P, V]``.
        flat: For each token, which of the ``R * P`` rows holds its distribution; rows may repeat.
        targets: For each token, its id.

    Returns:
        ``[4, M]`` (see :meth:`Distributions.numbers`).
    """
    table, device = logits.flatten(0, 1), logits.device
    distinct, which = torch.from_numpy(flat).unique(return_inverse=True)
    wanted, which = on_device(torch.from_numpy(targets), device), on_device(which, device)
    block = max(1, (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) // table.shape[-1])
    room = torch.empty(2, min(block, len(distinct)), table.shape[-1], dtype=torch.float32, device=device)
    parts = [_describe(_rows(table, some, room[0]), room[1, : len(some)]) for some in distinct.split(block)]
    top, log_total, entropy, margin, best = torch.cat(parts, dim=1)[:, which]
    own = (table[on_device(distinct, device)[which], wanted].float() - top) - log_total
    return torch.stack([own, (best == wanted).float(), entropy, margin])


def _rows(table: torch.Tensor, rows: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Sorted ``rows`` of ``table`` in float32: as they stand where they are neighbours, else copied into ``room``."""
    first, last, room = int(rows[0]), int(rows[-1]), room[: len(rows)]
    if last - first + 1 == len(rows):
        some = table[first : last + 1]
        return some if some.dtype == room.dtype else room.copy_(some)
    rows = on_device(rows, table.device)
    return torch.index_select(table, 0, rows, out=room) if table.dtype == room.dtype else room.copy_(table[rows])


def _describe(logits: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """``[M, V]`` logits ``x`` to ``[5, M]``: maximum ``m``, ``log Z``, entropy, margin and the best token.

    At 150,000 tokens of vocabulary, memory is what this costs: so there are few passes, and what they write goes into
    ``p``, ``[M, V]``. Fresh memory for each block would take three times as long as the arithmetic. With ``Z`` the sum
    of ``exp(x - m)``, the best token's probability is ``1 / Z`` and the entropy ``log Z + m - sum(p x)``.
    """
    top, second, best = best_two(logits)
    torch.softmax(logits, -1, out=p)
    log_total = -p.gather(-1, best[:, None])[:, 0].log()
    mass = top * p.sum(-1)  # not quite 1 in float32, which shows where logits are large
    entropy = log_total + (mass - p.mul_(logits).nansum(-1))  # 0 x -inf: a token that is ruled out adds nothing
    return torch.stack([top, log_total, entropy, top - second, best.to(top.dtype)])


def best_two(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the largest and second largest of each row of ``[M, V]``, and where the largest first is, as ``argmax``.

    This takes a sixth to a third of ``topk(2)``'s time on a CPU, where only maxima without places are quick. The
    largest is in the first chunk whose maximum is largest. The second largest is the best of the rest of that chunk and
    of the other chunks.
    """
    length = table.shape[1]
    whole = length // CHUNK * CHUNK
    if whole < 2 * CHUNK:
        top, best = table.max(-1)
        return top, _without(table, best).amax(-1), best
    chunks = table[:, :whole].unflatten(1, (-1, CHUNK))
    maxima = chunks.amax(-1)
    top, chunk = maxima.max(-1)
    near = chunks[torch.arange(len(table), device=table.device), chunk]
    inside = near.argmax(-1)
    best = chunk * CHUNK + inside
    second = torch.maximum(_without(maxima, chunk).amax(-1), _without(near, inside).amax(-1))
    if whole == length:
        return top, second, best
    last, last_second, last_best = best_two(table[:, whole:])
    second = torch.maximum(torch.maximum(second, last_second), torch.minimum(top, last))
    return torch.maximum(top, last), second, torch.where(last > top, last_best + whole, best)


def _without(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """A copy of ``[M, C]`` whose places, one a row, cannot be a maximum."""
    return table.scatter(1, places[:, None], -torch.inf)
