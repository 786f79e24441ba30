"""How far apart two branches' next-token distributions are, over the whole vocabulary.

Only branches that ask to be compared (:attr:`~reasoning_guard.tree.Branch.against`) cost anything here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reasoning_guard.packing import PackedRow
from reasoning_guard.tree import BranchScore

_BLOCK = 2**22
"""Elements of logits compared at once."""


def with_divergences(
    scores: Sequence[Sequence[BranchScore]], logits: Tensor, rows: Sequence[PackedRow]
) -> list[list[BranchScore]]:
    """Scores with the divergences of those branches that are compared with another.

    Args:
        scores: A score a branch, for each row.
        logits: ``[R, P, V]`` logits at the places that the rows speak of.
        rows: Packed rows.

    Returns:
        The same scores, ``kl`` and ``js`` filled in where a branch has an ``against``.
    """
    width = logits.shape[1]
    pairs = [
        (r * width + other, r * width + query.place)
        for r, row in enumerate(rows)
        for queries, others in zip(row.queries, row.against, strict=True)
        for query, other in zip(queries, others, strict=False)
    ]
    found = iter(_in_blocks(logits.flatten(0, 1), pairs))
    filled: list[list[BranchScore]] = []
    for row, each in zip(rows, scores, strict=True):
        numbers = [[next(found) for _ in others] for others in row.against]
        filled.append([_filled(score, of) for score, of in zip(each, numbers, strict=True)])
    return filled


def divergences(teacher: Tensor, student: Tensor) -> Tensor:
    """KL and bounded Jensen-Shannon divergence of two tables of logits.

    Args:
        teacher: ``[M, V]`` logits of ``p``.
        student: ``[M, V]`` logits of ``q``.

    Returns:
        ``[2, M]``: ``KL(p || q)`` in nats, and ``JS(p, q) / ln 2``, between 0 and 1 (Lin, *IEEE Trans. Inf. Theory* 37,
        1991).

    Example:
        >>> apart = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> divergences(*apart)[:, 0]
        tensor([100.,   1.])
    """
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    js = (_kl(p, middle) + _kl(q, middle)) / 2 / math.log(2)
    return torch.stack([_kl(p, q), js]).clamp(min=0.0)  # equal distributions may come out a rounding below 0


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """``[M]`` from two tables of log-probabilities; a token of probability 0 under ``p`` adds 0."""
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1)


def _filled(score: BranchScore, numbers: Sequence[tuple[float, float]]) -> BranchScore:
    if not numbers:
        return score
    kl, js = zip(*numbers, strict=True)
    return replace(score, kl=kl, js=js)


def _in_blocks(table: Tensor, pairs: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Divergences of pairs of rows, in float32 and a block of rows at a time."""
    block = max(1, _BLOCK // table.shape[-1])
    found: list[tuple[float, float]] = []
    for start in range(0, len(pairs), block):
        teachers, students = zip(*pairs[start : start + block], strict=True)
        numbers = divergences(table[list(teachers)].float(), table[list(students)].float())
        found += [(kl, js) for kl, js in numbers.T.tolist()]
    return found
