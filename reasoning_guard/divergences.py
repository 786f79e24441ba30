"""How far apart two branches' next-token distributions are, over the whole vocabulary.

Only branches that ask to be compared (:attr:`~reasoning_guard.tree.Branch.against`) cost anything here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reasoning_guard.logits import Distributions
from reasoning_guard.packing import PackedRow
from reasoning_guard.tree import BranchScore
from reasoning_guard.trie import Pair, Trie

_BLOCK = 2**22
"""Elements of logits compared at once."""


class Compared:
    """Computes the divergences of compared branches as the passes bring their distributions.

    A distribution is as long as the vocabulary, so it is kept only until those that it is compared with have come.

    Args:
        tries: Packed branches, one trie for each tree.

    Attributes:
        found: For each tree, the divergences of its compared branches so far, ``(kl, js)`` by the branch's number.
    """

    def __init__(self, tries: Sequence[Trie]) -> None:
        self.found: list[dict[int, tuple[tuple[float, ...], tuple[float, ...]]]] = [{} for _ in tries]
        self._open = [trie.pairs for trie in tries]
        self._rows: list[dict[int, Tensor]] = [{} for _ in tries]

    @property
    def n_kept(self) -> int:
        """Number of distributions that are kept for comparisons that are still open."""
        return sum(map(len, self._rows))

    def note(self, rows: Sequence[PackedRow], brought: Distributions) -> None:
        """Take what is needed from the distributions that a pass has brought."""
        wanted = {tree: _nodes(pairs) for tree, pairs in enumerate(self._open) if pairs}
        nodes = {tree: rows[tree].nodes for tree in wanted}
        places = [
            (tree, place)
            for tree, needed in wanted.items()
            for place, node in enumerate(nodes[tree][: rows[tree].n_wanted])
            if node in needed
        ]
        if not places:
            return
        # At once for all trees: a head that is not read yet costs its weights each time.
        for (tree, place), logits in zip(places, brought.logits(places), strict=True):
            self._rows[tree][nodes[tree][place]] = logits.clone()  # or one that is kept would keep all others
        for tree in {tree for tree, _ in places}:
            self._compare(tree)

    def _compare(self, tree: int) -> None:
        """Close the comparisons whose distributions have all come, and keep what the others need."""
        kept, still_open = self._rows[tree], []
        for pair in self._open[tree]:
            branch, own, others = pair
            if _nodes([pair]) <= kept.keys():
                both = (torch.stack([kept[node] for node in nodes]) for nodes in (others, own))
                self.found[tree][branch] = _in_blocks(*both)
            else:
                still_open.append(pair)
        self._open[tree], needed = tuple(still_open), _nodes(still_open)
        self._rows[tree] = {node: row for node, row in kept.items() if node in needed}


def _nodes(pairs: Iterable[Pair]) -> set[int]:
    return {node for _, own, others in pairs for node in (*own, *others)}


def with_divergences(scores: Sequence[Sequence[BranchScore]], compared: Compared) -> list[list[BranchScore]]:
    """Add the divergences of compared branches to their scores.

    Args:
        scores: One score for each branch, for each tree.
        compared: What all passes have brought.

    Returns:
        The same scores, with ``kl`` and ``js`` where a branch has an ``against``.
    """
    filled = [list(each) for each in scores]
    for tree, found in enumerate(compared.found):
        for branch, (kl, js) in found.items():
            filled[tree][branch] = replace(filled[tree][branch], kl=kl, js=js)
    return filled


def divergences(teacher: Tensor, student: Tensor) -> Tensor:
    """Compute KL and bounded Jensen-Shannon divergence of two tables of logits.

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


def _in_blocks(teacher: Tensor, student: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Divergences of two tables' rows, in float32 and a block of rows at a time."""
    block = max(1, _BLOCK // teacher.shape[-1])
    found = [divergences(p.float(), q.float()) for p, q in zip(teacher.split(block), student.split(block), strict=True)]
    kl, js = torch.cat(found, dim=1).tolist()
    return tuple(kl), tuple(js)
