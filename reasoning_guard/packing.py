"""Packing: the branches of a tree as rows of tokens that no two branches share or see of each other.

Branches that begin alike at the same place of the trunk share their tokens (:mod:`reasoning_guard.trie`), so passes
over the packed rows cost as many tokens as the tree has unique ones. The order inside a row is free, because
visibility and positions are explicit: tokens whose next-token distribution is wanted come first, so that the model's
head runs over a prefix of the row and over nothing else.

One row for everything would let each token attend to all of the trunk and to all other branches only to mask most of
that away. So long rows are divided (:func:`parts`), and attention stays linear in the number of branches.

Pure integers in, tensors out; no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from reasoning_guard.tokens import common_prefix
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Node, Trie

_NOBODY = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True)
class Query:
    """One scored token: read the log-probability of ``target`` at place ``place`` of the packed row.

    Attributes:
        place: Place in the row.
        target: Token id.
        branch: Number of the branch that asks.
        index: Which of the branch's scored tokens this is.
    """

    place: int
    target: int
    branch: int
    index: int


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Branches of one tree, or a piece of them, as a row of ``B`` tokens.

    Attributes:
        ids: ``[B]`` token ids, the ``n_wanted`` tokens whose next-token distribution is wanted first.
        positions: ``[B]`` positions, counted from the first trunk token.
        at: ``[B]`` number of trunk tokens that stand before each token's branch.
        hide_start: ``[B]`` where the slice of the trunk begins that a token does not see, though it stands before it.
        hide_stop: ``[B]`` where that slice ends.
        enter: ``[B]`` depth-first number of each token in the tree's trie.
        leave: ``[B]`` one past the depth-first number of its last descendant: token ``j`` stands before token ``i`` on
            the same branch (or is ``i``) exactly if ``enter[j] <= enter[i] < leave[j]``.
        n_wanted: How many leading tokens the head must run over.
        queries: One a scored token.
    """

    ids: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    hide_start: tuple[int, ...] = ()
    hide_stop: tuple[int, ...] = ()
    enter: tuple[int, ...] = ()
    leave: tuple[int, ...] = ()
    n_wanted: int = 0
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Branches of one tree that are read together, behind as much of the trunk as they see.

    Attributes:
        reach: How much of the trunk they see, in tokens.
        pieces: Rows to be read one after the other; tokens of a later piece may see those of the earlier ones.
    """

    reach: int = 1
    pieces: tuple[PackedRow, ...] = ()


def anchored(tree: TraceTree) -> TraceTree:
    """The same questions, asked so that every scored token has a fed token of its own branch before it.

    What a branch repeats of the trunk is read on the trunk: a trace spliced into itself is the same question, so its
    score is the same number and not merely a near one. A branch that scores its very first token needs the distribution
    after the trunk token before it; that token is fed again as part of the branch. What follows the last scored token
    has no influence and is dropped.
    """
    return TraceTree(tree.trunk, tuple(_anchor(tree.trunk, branch) for branch in tree.branches))


def _on_trunk(trunk: Sequence[int], branch: Branch) -> Branch:
    """The same branch, attached where it leaves the trunk; one that hides tokens is read as it came."""
    start, stop = branch.scored
    n = common_prefix(trunk[branch.at : branch.at + start], branch.ids[:start])
    if not n or branch.hide[0] < branch.hide[1]:
        return branch
    return Branch(branch.at + n, branch.ids[n:], (start - n, stop - n), against=branch.against)


def _anchor(trunk: Sequence[int], branch: Branch) -> Branch:
    branch = _on_trunk(trunk, branch)
    start, stop = branch.scored
    ids = branch.ids[:stop]
    against = None if branch.against is None else _anchor(trunk, branch.against)
    if start > 0:
        return Branch(branch.at, ids, (start, stop), branch.hide, against)
    if branch.at < 2:
        raise ValueError("a branch that scores its first token needs at least two trunk tokens before it; got 1")
    hide = (min(branch.hide[0], branch.at - 1), min(branch.hide[1], branch.at - 1))
    return Branch(branch.at - 1, (trunk[branch.at - 1], *ids), (1, stop + 1), hide, against)


def pack(branches: Sequence[Branch]) -> PackedRow:
    """Pack anchored branches of one trunk into a single row.

    Args:
        branches: Branches as :func:`anchored` leaves them. The last token of each is never fed.

    Returns:
        The row. Its number of tokens is the number of distinct (place on the trunk, prefix) pairs among the branches.

    Example:
        >>> row = pack([Branch(3, (7, 8, 9), (1, 3)), Branch(3, (7, 8, 5), (2, 3))])
        >>> row.ids, row.positions, row.n_wanted   # 7 and 8 are fed once and serve both branches
        ((7, 8), (3, 4), 2)
    """
    return _row([node for stem in Trie.of(branches).stems for node in stem])


def parts(trie: Trie, width: int, wanted: int, only_compared: bool = False) -> list[Part]:
    """Divide a tree's branches into parts, those that see most of the trunk first.

    What begins with the same token stays in one part. A part that is larger than it may be is cut into pieces.

    Args:
        trie: Anchored branches of one trunk.
        width: Most tokens of a piece.
        wanted: Most tokens of a piece whose distribution is made.
        only_compared: Whether that is so only for those that are compared with others, and not for all that are asked.

    Returns:
        The parts. Together they hold every token once.
    """
    compared = {node for _, own, others in trie.pairs for node in (*own, *others)}

    def made(node: Node) -> bool:
        return node.enter in compared if only_compared else node.wanted

    return [
        Part(max(node.reach for node in nodes), tuple(map(_row, _cut([[node] for node in nodes], width, wanted, made))))
        for nodes in _cut(trie.stems, width, wanted, made)
    ]


def _cut(
    stems: Sequence[Sequence[Node]], width: int, wanted: int, made: Callable[[Node], bool]
) -> Iterator[list[Node]]:
    """Runs of stems, of like lengths up to ``width`` tokens; longer where a stem would leave a short run behind."""
    total, all_asked = sum(map(len, stems)), sum(made(node) for stem in stems for node in stem)
    even = -(-total // max(1, -(-total // width), -(-all_asked // wanted)))
    run: list[Node] = []
    asked = 0
    for stem in stems:
        more = sum(map(made, stem))
        full = len(run) >= even or 2 * len(run) >= width < len(run) + len(stem)
        if run and (full or asked + more > wanted):
            yield run
            run, asked = [], 0
        run.extend(stem)
        asked += more
    if run:
        yield run


def _row(nodes: Sequence[Node]) -> PackedRow:
    nodes = sorted(nodes, key=lambda node: (not node.wanted, node.enter))
    return PackedRow(
        ids=tuple(node.token for node in nodes),
        positions=tuple(node.position for node in nodes),
        at=tuple(node.at for node in nodes),
        hide_start=tuple(node.hide[0] for node in nodes),
        hide_stop=tuple(node.hide[1] for node in nodes),
        enter=tuple(node.enter for node in nodes),
        leave=tuple(node.leave for node in nodes),
        n_wanted=sum(node.wanted for node in nodes),
        queries=tuple(
            Query(place, target, branch, index)
            for place, node in enumerate(nodes)
            for branch, index, target in node.asked
        ),
    )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Packed rows of several trees, padded to ``B`` tokens on the right.

    Attributes:
        ids: ``[R, B]`` token ids.
        positions: ``[R, B]`` positions.
        at: ``[R, B]`` number of trunk tokens before the branch; padding sees one, so that no softmax is empty.
        hide_start: ``[R, B]`` begin of the hidden slice of the trunk.
        hide_stop: ``[R, B]`` end of the hidden slice of the trunk.
        enter: ``[R, B]`` depth-first numbers.
        leave: ``[R, B]``; padding leaves before it enters, so nobody sees it.
        n_wanted: How many leading tokens of every row the head must run over.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    at: torch.Tensor
    hide_start: torch.Tensor
    hide_stop: torch.Tensor
    enter: torch.Tensor
    leave: torch.Tensor
    n_wanted: int


def batch_rows(rows: Sequence[PackedRow], device: torch.device | str = "cpu") -> PackedBatch:
    """Pad rows to the longest one and move them to ``device``."""
    columns = {
        "ids": 0,
        "positions": 1,
        "at": 1,
        "hide_start": 0,
        "hide_stop": 0,
        "enter": _NOBODY,
        "leave": 0,
    }
    padded = {name: pad_right([getattr(row, name) for row in rows], fill).to(device) for name, fill in columns.items()}
    return PackedBatch(**padded, n_wanted=max(row.n_wanted for row in rows))


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Integer rows as one ``[R, longest]`` tensor, padded on the right with ``fill``."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *([fill] * (longest - len(row)))] for row in rows], dtype=torch.long)
