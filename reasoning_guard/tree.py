"""Branches on a trunk: every question that a probe can ask about a trace, as integers.

Nothing here knows a model. A :class:`Branch` says: "after the first ``at`` tokens of the trunk, read these ids and tell
me how likely the slice ``scored`` of them is". :mod:`reasoning_guard.scorer` answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """A continuation of the trunk whose tokens are to be scored.

    Attributes:
        at: Number of trunk tokens before the branch: at least 1, or 2 if the branch's first token is scored.
        ids: Token ids of the branch.
        scored: Half-open slice ``(start, stop)`` of ``ids`` whose log-probabilities are wanted.
        hide: Half-open slice of the trunk to which no token of the branch attends; by default nothing. Hiding the steps
            leaves what the prompt alone says to the answer; hiding the prompt leaves what goes through the steps
            ("attention knockout", Geva et al. 2023, https://arxiv.org/abs/2304.14767). The trunk itself is read as
            usual, so what its other tokens have taken over from the hidden ones stays. If the branch's first token is
            scored, the token before it, which predicts it, is read again as part of the branch: it is not hidden, and
            does not see what is hidden.
        against: A branch that asks for as many tokens. Its next-token distribution at each of them is compared with
            this branch's (see :attr:`BranchScore.kl`). Default: none.
    """

    at: int
    ids: tuple[int, ...]
    scored: tuple[int, int]
    hide: tuple[int, int] = (0, 0)
    against: Branch | None = None

    def __post_init__(self) -> None:
        """Refuse a branch that asks for nothing or stands on nothing."""
        start, stop = self.scored
        if not 0 <= self.hide[0] <= self.hide[1] <= self.at:
            raise ValueError(f"`hide` must be a slice of the {self.at} trunk tokens before the branch; got {self.hide}")
        if self.at < 1:
            raise ValueError(f"`at` must leave at least one trunk token before the branch; got {self.at}")
        if not 0 <= start < stop <= len(self.ids):
            raise ValueError(f"`scored` must be a non-empty slice of the {len(self.ids)} branch ids; got {self.scored}")
        if start == 0 and self.at < 2:
            raise ValueError(f"`at` must leave two trunk tokens before a first token that is scored; got {self.at}")
        if self.against is not None and self.against.scored[1] - self.against.scored[0] != stop - start:
            raise ValueError(f"`against` must ask for {stop - start} tokens too; got the slice {self.against.scored}")

    @property
    def reach(self) -> int:
        """Number of trunk tokens that must be read for this branch and for what it is compared with."""
        return self.at if self.against is None else max(self.at, self.against.reach)


@dataclass(frozen=True, slots=True)
class TraceTree:
    """A trunk with its branches.

    Attributes:
        trunk: Token ids shared by the branches.
        branches: The questions, in the order in which their scores are wanted. Repeated ones are scored once.
    """

    trunk: tuple[int, ...]
    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        """Refuse branches that attach behind the end of the trunk."""
        for branch in self.branches:
            if branch.reach > len(self.trunk):
                raise ValueError(f"a branch attaches at {branch.reach}, but the trunk has {len(self.trunk)} tokens")


def ask_once(trees: Sequence[TraceTree], shared: int) -> tuple[list[TraceTree], list[list[tuple[int, int]]]]:
    """Drop branches that several trees ask at the same place of their shared beginning.

    Args:
        trees: Trees whose trunks have their first ``shared`` tokens in common.
        shared: Number of those tokens.

    Returns:
        The trees with every such branch in the first tree only; and for each original branch, which (tree, branch) of
        the new trees stands for it.

    Example:
        >>> tree = TraceTree((1, 2, 3), (Branch(2, (7,), (0, 1)), Branch(3, (7,), (0, 1))))
        >>> once, sources = ask_once([tree, tree], 2)
        >>> [len(each.branches) for each in once], sources
        ([2, 1], [[(0, 0), (0, 1)], [(0, 0), (1, 0)]])
    """
    first: dict[Branch, tuple[int, int]] = {}
    kept: list[list[Branch]] = [[] for _ in trees]
    sources: list[list[tuple[int, int]]] = [[] for _ in trees]
    for i, tree in enumerate(trees):
        for branch in tree.branches:
            place = first.get(branch)
            if place is None:
                place = (i, len(kept[i]))
                kept[i].append(branch)
                if branch.reach <= shared:
                    first[branch] = place
            sources[i].append(place)
    return [TraceTree(tree.trunk, tuple(own)) for tree, own in zip(trees, kept, strict=True)], sources


def sees_all(branch: Branch) -> bool:
    """Say whether a branch hides nothing."""
    return branch.hide[0] == branch.hide[1]


def only(tree: TraceTree, keep: Callable[[Branch], bool]) -> TraceTree:
    """Return the tree with those of its branches that ``keep`` takes."""
    kept = tuple(filter(keep, tree.branches))
    return tree if len(kept) == len(tree.branches) else TraceTree(tree.trunk, kept)


def with_gaps(tree: TraceTree, kept: Callable[[Branch], bool], found: Sequence[BranchScore]) -> list[BranchScore]:
    """Return the scores in the order of the tree's own branches, NaN for those that were not kept (:func:`only`)."""
    if len(found) == len(tree.branches):
        return list(found)
    scored = iter(found)
    return [next(scored) if kept(branch) else _unscored(branch) for branch in tree.branches]


def _unscored(branch: Branch) -> BranchScore:
    n = branch.scored[1] - branch.scored[0]
    return BranchScore((math.nan,) * n, (False,) * n, (math.nan,) * n, (math.nan,) * n)


@dataclass(frozen=True, slots=True)
class BranchScore:
    """What the model says about the ``m`` scored tokens of a branch.

    Attributes:
        logprobs: ``m`` log-probabilities in nats, each given everything before it.
        greedy: ``m`` flags: whether the token is the most likely one, so that greedy decoding would have written it.
        entropies: ``m`` entropies of the full next-token distribution, in nats.
        margins: ``m`` differences in log-probability between the most and the second most likely token, in nats.
        kl: ``m`` divergences ``KL(against || own)`` over the whole vocabulary, in nats, if the branch is compared with
            another; empty otherwise, and if the model can't be given masks.
        js: ``m`` Jensen-Shannon divergences of the same two, as a share of their bound ``ln 2``, between 0 and 1.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    entropies: tuple[float, ...]
    margins: tuple[float, ...]
    kl: tuple[float, ...] = ()
    js: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """Sum of the log-probabilities, in nats: ``lp_k`` of the definitions."""
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        """Mean log-probability per token, in nats."""
        return self.total / len(self.logprobs)

    @property
    def all_greedy(self) -> bool:
        """Whether greedy decoding would have written exactly the scored tokens."""
        return all(self.greedy)
