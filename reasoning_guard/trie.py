"""The branches of one tree as a trie: tokens that branches share are fed once and serve them all.

Pure integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reasoning_guard.tree import Branch


@dataclass(slots=True, eq=False)
class Node:
    """A fed token.

    Attributes:
        token: Its id.
        at: Number of trunk tokens before its branch.
        hide: Slice of the trunk that it does not see.
        position: Its position, counted from the first trunk token.
        children: Nodes that follow it, by token id.
        wanted: Whether anybody wants its next-token distribution.
        asked: What is to be read off it: for which branch, which of its scored tokens, and that token's id.
        enter: Number of the node in a depth-first walk.
        leave: One past the number of its last descendant.
    """

    token: int
    at: int
    hide: tuple[int, int]
    position: int
    children: dict[int, Node] = field(default_factory=dict)
    wanted: bool = False
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    enter: int = 0
    leave: int = 0

    @property
    def reach(self) -> int:
        """How much of the trunk it can see any of, in tokens; at least 1, so that no softmax is empty."""
        start, stop = self.hide
        return max(1, start if start < stop == self.at else self.at)


Pair = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Trie:
    """The nodes of one tree's branches.

    Attributes:
        stems: For each first token, the nodes that begin with it, depth-first. Those that see most of the trunk come
            first, short ones before long ones.
        pairs: For each branch that is compared with another, its number, the ``enter`` of the nodes whose distributions
            are compared, and of those that they are compared with.
    """

    stems: tuple[tuple[Node, ...], ...]
    pairs: tuple[Pair, ...]

    @staticmethod
    def of(branches: Sequence[Branch]) -> Trie:
        """Build the trie of anchored branches; the last token of each is never fed."""
        roots: dict[_Root, Node] = {}
        own = [_insert(roots, branch, number) for number, branch in enumerate(branches)]
        other = [_insert(roots, branch.against) if branch.against else [] for branch in branches]
        stems = tuple(sorted(_numbered(roots.values()), key=lambda stem: (-stem[0].reach, len(stem))))
        pairs = [
            (number, tuple(node.enter for node in nodes), tuple(node.enter for node in others))
            for number, (nodes, others) in enumerate(zip(own, other, strict=True))
            if others
        ]
        return Trie(stems, tuple(pairs))


_Root = tuple[int, tuple[int, int], int]


def _insert(roots: dict[_Root, Node], branch: Branch, number: int | None = None) -> list[Node]:
    """Add a branch, with its questions if it has a number; return the nodes whose distributions it asks for."""
    start, stop = branch.scored
    path: list[Node] = []
    for depth, token in enumerate(branch.ids[: stop - 1]):
        node = path[-1].children.get(token) if path else roots.get((branch.at, branch.hide, token))
        if node is None:
            node = Node(token, branch.at, branch.hide, branch.at + depth)
            if path:
                path[-1].children[token] = node
            else:
                roots[branch.at, branch.hide, token] = node
        path.append(node)
    nodes = path[start - 1 : stop - 1]
    for index, node in enumerate(nodes):
        node.wanted = True
        if number is not None:
            node.asked.append((number, index, branch.ids[start + index]))
    return nodes


def _numbered(roots: Iterable[Node]) -> Iterator[tuple[Node, ...]]:
    """The nodes below each root, numbered by one walk through all of them."""
    clock = 0
    for root in roots:
        found: list[Node] = []
        stack = [(root, False)]  # no recursion: branches can be thousands of tokens long
        while stack:
            node, seen = stack.pop()
            if seen:
                node.leave = clock
                continue
            node.enter = clock
            clock += 1
            found.append(node)
            stack.append((node, True))
            stack.extend((child, False) for child in node.children.values())
        yield tuple(found)
