"""Packing: the branches of a tree as one row of tokens that no two branches share or see of each other.

Branches that begin alike at the same place of the trunk share their tokens (a trie), so a pass over the packed row
costs as many tokens as the tree has unique ones. The order inside a row is free, because visibility and positions are
explicit: tokens whose next-token distribution is wanted come first, so that the model's head runs over a prefix of
the row and over nothing else.

Pure integers in, tensors out; no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from reasoning_guard.tokens import common_prefix
from reasoning_guard.tree import Branch, TraceTree

_NOBODY = torch.iinfo(torch.int64).max


@dataclass(slots=True)
class _Node:
    """A fed token: its children by token id, and whether its next-token distribution is wanted."""

    token: int
    at: int
    hide: tuple[int, int]
    position: int
    children: dict[int, int] = field(default_factory=dict)
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """One scored token: read the log-probability of ``target`` at place ``place`` of the packed row."""

    place: int
    target: int


@dataclass(frozen=True, slots=True)
class PackedRow:
    """The branches of one tree as a row of ``B`` tokens.

    Attributes:
        ids: ``[B]`` token ids, the ``n_wanted`` tokens whose next-token distribution is wanted first.
        positions: ``[B]`` positions, counted from the first trunk token.
        at: ``[B]`` number of trunk tokens that stand before each token's branch.
        hide_start: ``[B]`` where the slice of the trunk begins that a token does not see, though it stands before it.
        hide_stop: ``[B]`` where that slice ends.
        enter: ``[B]`` depth-first number of each token in its trie.
        leave: ``[B]`` one past the depth-first number of its last descendant: token ``j`` stands before token ``i`` on
            the same branch (or is ``i``) exactly if ``enter[j] <= enter[i] < leave[j]``.
        n_wanted: How many leading tokens the head must run over.
        queries: For each branch, one query a scored token.
        against: For each branch, the places of the distributions that its own are compared with; empty without.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    at: tuple[int, ...]
    hide_start: tuple[int, ...]
    hide_stop: tuple[int, ...]
    enter: tuple[int, ...]
    leave: tuple[int, ...]
    n_wanted: int
    queries: tuple[tuple[Query, ...], ...]
    against: tuple[tuple[int, ...], ...]


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
    """Pack anchored branches of one trunk into a row.

    Args:
        branches: Branches as :func:`anchored` leaves them. The last token of each is never fed.

    Returns:
        The row. Its number of tokens is the number of distinct (place on the trunk, prefix) pairs among the branches.

    Example:
        >>> row = pack([Branch(3, (7, 8, 9), (1, 3)), Branch(3, (7, 8, 5), (2, 3))])
        >>> row.ids, row.positions, row.n_wanted   # 7 and 8 are fed once and serve both branches
        ((7, 8), (3, 4), 2)
    """
    nodes: list[_Node] = []
    roots: dict[_Root, int] = {}
    asked = [_insert(branch, nodes, roots) for branch in branches]
    others = [_insert(branch.against, nodes, roots) if branch.against else [] for branch in branches]
    enter, leave = _depth_first(nodes, roots.values())
    order = sorted(range(len(nodes)), key=lambda i: (not nodes[i].wanted, enter[i]))
    place = {node: i for i, node in enumerate(order)}
    return PackedRow(
        ids=tuple(nodes[i].token for i in order),
        positions=tuple(nodes[i].position for i in order),
        at=tuple(nodes[i].at for i in order),
        hide_start=tuple(nodes[i].hide[0] for i in order),
        hide_stop=tuple(nodes[i].hide[1] for i in order),
        enter=tuple(enter[i] for i in order),
        leave=tuple(leave[i] for i in order),
        n_wanted=sum(node.wanted for node in nodes),
        queries=tuple(tuple(Query(place[node], target) for node, target in branch) for branch in asked),
        against=tuple(tuple(place[node] for node, _ in other) for other in others),
    )


_Root = tuple[int, tuple[int, int], int]


def _insert(branch: Branch, nodes: list[_Node], roots: dict[_Root, int]) -> list[tuple[int, int]]:
    """Add a branch to the trie; return its (node, target) pairs."""
    start, stop = branch.scored
    path: list[int] = []
    for depth, token in enumerate(branch.ids[: stop - 1]):
        siblings, key = (nodes[path[-1]].children, token) if path else (roots, (branch.at, branch.hide, token))
        if key not in siblings:
            siblings[key] = len(nodes)  # type: ignore[index]
            nodes.append(_Node(token, branch.at, branch.hide, branch.at + depth))
        path.append(siblings[key])  # type: ignore[index]
    pairs = [(path[i - 1], branch.ids[i]) for i in range(start, stop)]
    for node, _ in pairs:
        nodes[node].wanted = True
    return pairs


def _depth_first(nodes: Sequence[_Node], roots: Iterable[int]) -> tuple[list[int], list[int]]:
    """Enter and leave numbers of a depth-first walk, without recursion (branches can be thousands of tokens long)."""
    enter, leave = [0] * len(nodes), [0] * len(nodes)
    clock = 0
    stack = [(root, False) for root in roots]
    while stack:
        node, seen = stack.pop()
        if seen:
            leave[node] = clock
            continue
        enter[node] = clock
        clock += 1
        stack.append((node, True))
        stack.extend((child, False) for child in nodes[node].children.values())
    return enter, leave


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
