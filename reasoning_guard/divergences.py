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
from reasoning_guard.trie import Trie

_BLOCK = 2**22
"""Elements of logits compared at once."""


class Compared:
    """The distributions that are compared, kept from the passes in which they come until all are there.

    Args:
        tries: Packed branches, a trie a tree.
    """

    def __init__(self, tries: Sequence[Trie]) -> None:
        self.pairs = [trie.pairs for trie in tries]
        self._wanted = [{node for _, own, others in pairs for node in (*own, *others)} for pairs in self.pairs]
        self._rows: list[dict[int, Tensor]] = [{} for _ in tries]

    def note(self, rows: Sequence[PackedRow], logits: Tensor) -> None:
        """Keep what is wanted of the logits ``[R, P, V]`` of a pass."""
        for row, wanted, kept, table in zip(rows, self._wanted, self._rows, logits, strict=True):
            places = [place for place, node in enumerate(row.enter[: row.n_wanted]) if node in wanted]
            if places:
                kept |= zip((row.enter[place] for place in places), table[places], strict=True)

    def tables(self, tree: int, own: Sequence[int], others: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Logits ``[M, V]`` of the nodes that are compared with, and of those that are compared."""
        kept = self._rows[tree]
        return torch.stack([kept[node] for node in others]), torch.stack([kept[node] for node in own])


def with_divergences(scores: Sequence[Sequence[BranchScore]], compared: Compared) -> list[list[BranchScore]]:
    """Scores with the divergences of those branches that are compared with another.

    Args:
        scores: A score a branch, for each tree.
        compared: The distributions, as all passes have left them.

    Returns:
        The same scores, ``kl`` and ``js`` filled in where a branch has an ``against``.
    """
    filled = [list(each) for each in scores]
    for tree, pairs in enumerate(compared.pairs):
        for branch, own, others in pairs:
            kl, js = _in_blocks(*compared.tables(tree, own, others))
            filled[tree][branch] = replace(filled[tree][branch], kl=kl, js=js)
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


def _in_blocks(teacher: Tensor, student: Tensor) -> tuple[tuple[float, ...], ...]:
    """Divergences of two tables' rows, in float32 and a block of rows at a time."""
    block = max(1, _BLOCK // teacher.shape[-1])
    found = [divergences(p.float(), q.float()) for p, q in zip(teacher.split(block), student.split(block), strict=True)]
    return tuple(map(tuple, torch.cat(found, dim=1).tolist()))
