"""The branches of one tree as a trie: tokens that branches share are fed once and serve all of them.

Pure integers. A tree has thousands of tokens, and a GPU reads them in the time that Python takes for one loop over
them. So they are kept in arrays, and Python loops only over branches and over tokens that branches share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reasoning_guard.tokens import common_prefix
from reasoning_guard.tree import Branch

Integers = NDArray[np.int64]

Pair = tuple[int, tuple[int, ...], tuple[int, ...]]


class Stem(NamedTuple):
    """All tokens below one first token: neighbours in the depth-first order.

    Attributes:
        start: Number of the first token.
        stop: One past the number of the last token.
        reach: How much of the trunk they can see any of, in tokens; at least 1, so that no softmax is empty.
    """

    start: int
    stop: int
    reach: int

    @property
    def size(self) -> int:
        """Its number of tokens."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Trie:
    """The fed tokens ("nodes") of one tree's branches, numbered by a depth-first walk.

    Attributes:
        columns: ``[6, N]`` for each node its token id, its position (counted from the first trunk token), the number of
            trunk tokens before its branch, where the slice of the trunk begins and ends that it does not see, and one
            past the number of its last descendant.
        wanted: ``[N]`` whether its next-token distribution is wanted.
        asked: ``[3, Q]`` for each scored token the node before it, its id, and its place among all scored tokens of the
            branches, one branch after the other.
        stems: The stems. Those that see most of the trunk come first, short ones before long ones.
        pairs: For each branch that is compared with another, its number, the nodes whose distributions are compared,
            and those that they are compared with.
    """

    columns: Integers
    wanted: NDArray[np.bool_]
    asked: Integers
    stems: tuple[Stem, ...]
    pairs: tuple[Pair, ...]

    @staticmethod
    def of(branches: Sequence[Branch]) -> Trie:
        """Build the trie of anchored branches. The last token of each is never fed."""
        growing = _Growing()
        own = [(branch, number) for number, branch in enumerate(branches)]
        others = [(branch.against, number) for branch, number in own if branch.against is not None]
        roots: dict[tuple[int, tuple[int, int], int], list[tuple[tuple[int, ...], Branch, int, bool]]] = {}
        for some, is_own in ((own, True), (others, False)):
            for branch, number in some:
                root = branch.at, branch.hide, branch.ids[0]
                roots.setdefault(root, []).append((branch.ids[: branch.scored[1] - 1], branch, number, is_own))
        for (at, hide, _), alike in roots.items():
            growing.add_stem(at, hide, alike)
        return growing.done(branches)


@dataclass(slots=True)
class _Growing:
    """A trie while it is built."""

    token: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    leave: list[int] = field(default_factory=list)
    stems: list[Stem] = field(default_factory=list)
    roots: list[tuple[int, int, int]] = field(default_factory=list)  # of each stem: where it attaches, what it hides
    own: dict[int, Sequence[int]] = field(default_factory=dict)
    others: dict[int, Sequence[int]] = field(default_factory=dict)

    def add_stem(
        self, at: int, hide: tuple[int, int], alike: Sequence[tuple[tuple[int, ...], Branch, int, bool]]
    ) -> None:
        """Add what begins with the same token at the same place of the trunk."""
        start = len(self.token)
        if len(alike) == 1:
            self._add_chain(at, *alike[0])
        else:
            self._add_forking(at, alike)
        self.roots.append((at, *hide))
        self.stems.append(Stem(start, len(self.token), max(1, hide[0] if hide[0] < hide[1] == at else at)))

    def _add_chain(self, at: int, ids: tuple[int, ...], branch: Branch, number: int, is_own: bool) -> None:
        """Add a sequence that shares nothing: each token is a descendant of all before it."""
        start, size = len(self.token), len(ids)
        first, stop = branch.scored
        self.token += ids
        self.position += range(at, at + size)
        self.leave += [start + size] * size
        (self.own if is_own else self.others)[number] = range(start + first - 1, start + stop - 1)

    def _add_forking(self, at: int, alike: Sequence[tuple[tuple[int, ...], Branch, int, bool]]) -> None:
        """Add sequences that fork somewhere.

        In sorted order, whatever a branch shares with any branch before it, it shares with the one just before; and
        what that one has beyond gets no more descendants. The order is by when a token was first seen, the latest
        first, and not by its id. So branches that ask the same as others, under other ids, are in the same order and
        round alike.
        """
        before, path = (), range(0)
        ranks = _first_seen(ids for ids, *_ in alike)
        for ids, branch, number, is_own in sorted(alike, key=lambda each: [-ranks[token] for token in each[0]]):
            shared, size, clock = common_prefix(before, ids) if before else 0, len(ids), len(self.token)
            for node in path[shared:]:
                self.leave[node] = clock
            more = size - shared
            path = [*path[:shared], *range(clock, clock + more)]
            self.token += ids[shared:]
            self.position += range(at + shared, at + size)
            self.leave += [0] * more
            first, stop = branch.scored
            (self.own if is_own else self.others)[number] = path[first - 1 : stop - 1]
            before = ids
        for node in path:
            self.leave[node] = len(self.token)

    def done(self, branches: Sequence[Branch]) -> Trie:
        """The trie, with what the branches ask."""
        nodes = [node for number in range(len(branches)) for node in self.own[number]]
        targets = [token for branch in branches for token in branch.ids[slice(*branch.scored)]]
        wanted = np.zeros(len(self.token), dtype=bool)
        wanted[nodes] = True
        for other in self.others.values():
            wanted[list(other)] = True
        columns = np.empty((6, len(self.token)), dtype=np.int64)
        columns[0], columns[1], columns[5] = self.token, self.position, self.leave
        roots = np.array(self.roots, dtype=np.int64).reshape(-1, 3)
        columns[2:5] = roots.repeat([stop - start for start, stop, _ in self.stems], axis=0).T
        return Trie(
            columns=columns,
            wanted=wanted,
            asked=np.array([nodes, targets, range(len(nodes))], dtype=np.int64),
            stems=tuple(sorted(self.stems, key=lambda stem: (-stem.reach, stem.size))),
            pairs=tuple((number, tuple(self.own[number]), tuple(other)) for number, other in self.others.items()),
        )


def _first_seen(sequences: Iterable[Sequence[int]]) -> dict[int, int]:
    """For each token its rank in the order of first appearance."""
    return {token: rank for rank, token in enumerate(dict.fromkeys(chain.from_iterable(sequences)))}
