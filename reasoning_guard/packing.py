"""Pack the branches of a tree into rows of tokens.

Branches that begin alike at the same place of the trunk share their tokens (:mod:`reasoning_guard.trie`), so passes
over the packed rows cost as many tokens as the tree has unique ones. The order inside a row is free, because visibility
and positions are explicit. Tokens whose next-token distribution is wanted come first, so the model's head runs over a
prefix of the row and over nothing else.

In a single row, each token would attend to all of the trunk and to all other branches, only to have most of that masked
away. So long rows are divided (:func:`parts`), and attention stays linear in the number of branches.

Pure integers in, tensors out; no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from reasoning_guard.tokens import common_prefix
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Integers, Stem, Trie

_NOBODY = torch.iinfo(torch.int64).max
_PADDING = np.array([0, 1, 1, 0, 0, 0, _NOBODY], dtype=np.int64)
"""One trunk token is seen, so that no softmax is empty; what leaves before it enters is seen by nobody."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Branches of one tree, or a piece of them, as a row of ``B`` tokens.

    Attributes:
        columns: ``[7, B]``, for each token the seven numbers of :class:`PackedBatch`, in its order. The ``n_wanted``
            tokens whose next-token distribution is wanted come first.
        n_wanted: How many leading tokens the head must run over.
        asked: ``[3, Q]``, for each scored token the place in the row where it is asked for, its id, and its place among
            all scored tokens of the tree's branches.
    """

    columns: Integers = field(default_factory=lambda: np.empty((7, 0), dtype=np.int64))
    n_wanted: int = 0
    asked: Integers = field(default_factory=lambda: np.empty((3, 0), dtype=np.int64))

    @property
    def ids(self) -> list[int]:
        """``[B]`` token ids."""
        return self.columns[0].tolist()

    @property
    def nodes(self) -> list[int]:
        """``[B]`` numbers of the tokens in their trie."""
        return self.columns[6].tolist()


@dataclass(frozen=True, slots=True)
class Part:
    """Branches of one tree that are read together, behind the part of the trunk that they see.

    Attributes:
        reach: How much of the trunk they see, in tokens.
        pieces: Rows to be read one after the other; tokens of a later piece may see those of the earlier ones.
    """

    reach: int = 1
    pieces: tuple[PackedRow, ...] = ()


def anchored(tree: TraceTree) -> TraceTree:
    """Rewrite branches so that every scored token has a fed token of its own branch before it.

    The questions stay the same. What a branch repeats of the trunk is read on the trunk: a trace spliced into itself is
    the same question, so its score is the same number and not merely a close one. A branch that scores its very first
    token needs the distribution after the trunk token before it, so that token is fed again as part of the branch. What
    follows the last scored token has no influence and is dropped.
    """
    return TraceTree(tree.trunk, tuple(_anchor(tree.trunk, branch) for branch in tree.branches))


def _on_trunk(trunk: Sequence[int], branch: Branch) -> Branch:
    """Return the branch attached where it leaves the trunk; one that hides tokens is read as it came."""
    start, stop = branch.scored
    if trunk[branch.at : branch.at + 1] != branch.ids[:1] or branch.hide[0] < branch.hide[1]:
        return branch
    n = common_prefix(trunk[branch.at : branch.at + start], branch.ids[:start])
    return Branch(branch.at + n, branch.ids[n:], (start - n, stop - n), against=branch.against)


def _anchor(trunk: Sequence[int], branch: Branch) -> Branch:
    branch = _on_trunk(trunk, branch)
    start, stop = branch.scored
    if start and stop == len(branch.ids) and branch.against is None:
        return branch
    ids = branch.ids[:stop]
    against = None if branch.against is None else _anchor(trunk, branch.against)
    if start > 0:
        return Branch(branch.at, ids, (start, stop), branch.hide, against)
    hide = (min(branch.hide[0], branch.at - 1), min(branch.hide[1], branch.at - 1))
    return Branch(branch.at - 1, (trunk[branch.at - 1], *ids), (1, stop + 1), hide, against)


def whole(trie: Trie) -> PackedRow:
    """Pack all branches of a tree into a single row.

    Args:
        trie: Anchored branches of one trunk. The last token of each is never fed.

    Returns:
        The row. Its number of tokens is the number of distinct (place on the trunk, prefix) pairs among the branches.

    Example:
        >>> row = whole(Trie.of([Branch(3, (7, 8, 9), (1, 3)), Branch(3, (7, 8, 5), (2, 3))]))
        >>> row.ids, row.columns[1].tolist(), row.n_wanted   # 7 and 8 are fed once and serve both branches
        ([7, 8], [3, 4], 2)
    """
    return _row(trie, np.arange(len(trie.wanted)))


def parts(trie: Trie, width: int, wanted: int, only_compared: bool = False) -> list[Part]:
    """Divide a tree's branches into parts; those that see most of the trunk come first.

    Branches that begin with the same token stay in one part. A part that is too large is cut into pieces.

    Args:
        trie: Anchored branches of one trunk.
        width: Most tokens of a piece.
        wanted: Most tokens of a piece whose distribution is made.
        only_compared: Whether distributions are made only for tokens that are compared with others, and not for all
            that are asked for.

    Returns:
        The parts. Together they hold every token once.
    """
    made = trie.wanted
    if only_compared:
        made = np.zeros_like(made)
        made[[node for _, own, others in trie.pairs for node in (*own, *others)]] = True
    before = np.concatenate([[0], made.cumsum()]).tolist()

    def divided(stems: Sequence[Stem]) -> Iterator[tuple[int, int]]:
        return _cut([stem.size for stem in stems], [before[s.stop] - before[s.start] for s in stems], width, wanted)

    found = []
    for begin, end in divided(trie.stems):
        stems = trie.stems[begin:end]
        nodes = np.concatenate([np.arange(stem.start, stem.stop) for stem in stems])
        pieces = [(0, len(nodes))]
        if len(nodes) > width or sum(before[stem.stop] - before[stem.start] for stem in stems) > wanted:
            pieces = list(_cut([1] * len(nodes), made[nodes].astype(int).tolist(), width, wanted))
        rows = tuple(_row(trie, nodes[first:last]) for first, last in pieces)
        found.append(Part(max(stem.reach for stem in stems), rows))
    return found


def _cut(sizes: Sequence[int], asked: Sequence[int], width: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Cut items into runs of like size, up to ``width``; larger if an item would leave a small run behind."""
    even = -(-sum(sizes) // max(1, -(-sum(sizes) // width), -(-sum(asked) // wanted)))
    begin = size = made = 0
    for i, (more, more_made) in enumerate(zip(sizes, asked, strict=True)):
        full = size >= even or 2 * size >= width < size + more
        if size and (full or made + more_made > wanted):
            yield begin, i
            begin, size, made = i, 0, 0
        size += more
        made += more_made
    if size:
        yield begin, len(sizes)


def _row(trie: Trie, nodes: Integers) -> PackedRow:
    """Pack some nodes in a row: those that are wanted first, the others in their order."""
    nodes = np.sort(nodes)
    wanted = trie.wanted[nodes]
    nodes = np.concatenate([nodes[wanted], nodes[~wanted]])
    place = np.full(len(trie.wanted), -1)
    place[nodes] = np.arange(len(nodes))
    at = place[trie.asked[0]]
    asked = np.stack([at, *trie.asked[1:]])[:, at >= 0]
    return PackedRow(np.concatenate([trie.columns[:, nodes], nodes[None]]), int(wanted.sum()), asked)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Packed rows of several trees, padded to ``B`` tokens on the right.

    Attributes:
        ids: ``[R, B]`` token ids.
        positions: ``[R, B]`` positions, counted from the first trunk token.
        at: ``[R, B]`` number of trunk tokens that stand before each token's branch.
        hide_start: ``[R, B]`` where the slice of the trunk begins that a token does not see, though it comes before it.
        hide_stop: ``[R, B]`` where that slice ends.
        leave: ``[R, B]`` one past the number of its last descendant in the tree's trie.
        enter: ``[R, B]`` its own number: token ``j`` stands before token ``i`` on the same branch (or is ``i``) exactly
            if ``enter[j] <= enter[i] < leave[j]``.
        n_wanted: How many leading tokens of every row the head must run over.
        hides: Whether any branch hides anything; known without asking the device.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    at: torch.Tensor
    hide_start: torch.Tensor
    hide_stop: torch.Tensor
    leave: torch.Tensor
    enter: torch.Tensor
    n_wanted: int
    hides: bool


def batch_rows(rows: Sequence[PackedRow], device: torch.device | str = "cpu") -> PackedBatch:
    """Pad rows to the longest one and move them to ``device``."""
    longest = max(row.columns.shape[1] for row in rows)
    table = np.empty((len(_PADDING), len(rows), longest), dtype=np.int64)
    table[:] = _PADDING[:, None, None]
    for r, row in enumerate(rows):
        table[:, r, : row.columns.shape[1]] = row.columns
    n_wanted = max(row.n_wanted for row in rows)
    return PackedBatch(*on_device(torch.from_numpy(table), device), n_wanted=n_wanted, hides=bool(table[4].any()))


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Stack integer rows into one ``[R, longest]`` tensor, padded on the right with ``fill``."""
    table = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for r, row in enumerate(rows):
        table[r, : len(row)] = row
    return torch.from_numpy(table)


def on_device(table: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Send a CPU tensor to a device, to arrive when its turn comes, without waiting for what still runs there."""
    if torch.device(device).type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)
