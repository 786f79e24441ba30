"""Decide where reading should stop to go on in several directions: a tree of the prefixes that sequences share.

Pure integers. A model whose layers keep a state that no mask can rewind must read every sequence in order. But what
sequences have in common need not be read twice, since the state after it can be copied. Each stop costs a pass, however
few tokens go through, so not every shared token is worth one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reasoning_guard.tokens import common_prefix

FEWEST = 2
"""Tokens between two stops, at least: a single one is read by other code, made for decoding, in many models."""


@dataclass(slots=True, eq=False)
class Stop:
    """A prefix after which reading goes on in more than one direction.

    Attributes:
        depth: Its length in tokens.
        begin: The first of the sequences that begin with it, in their order.
        end: One past the last.
        together: Ranges of sequences that are read to their ends from here, in one batch.
        further: Further stops; what begins with them is read from there.
        cost: Number of tokens to be read from here on; a pass counts as ``a_pass`` tokens.
    """

    depth: int
    begin: int
    end: int = 0
    together: list[tuple[int, int]] = field(default_factory=list)
    further: list[Stop] = field(default_factory=list)
    cost: int = 0


def stops(sequences: Sequence[Sequence[int]], shared: Sequence[int], a_pass: int) -> Stop:
    """Plan a cheap way to read sequences that share beginnings: stop at a prefix if that is cheaper.

    Args:
        sequences: Token ids, sorted by what may be shared of them.
        shared: For each sequence, how many of its tokens may be read together with others'; less than its length.
        a_pass: What a pass costs beside its tokens, in tokens.

    Returns:
        The empty prefix with all stops that are worth it.

    Example:
        >>> root = stops([(1, 2, 3, 4, 9), (1, 2, 3, 5, 9), (7, 8)], [4, 4, 1], a_pass=0)
        >>> root.together, [(stop.depth, stop.together) for stop in root.further]
        ([(2, 3)], [(3, [(0, 2)])])
    """
    ends = [0]  # of the tokens before a sequence, so that any range's tokens are one difference
    for ids in sequences:
        ends.append(ends[-1] + len(ids))
    path = [Stop(0, 0)]  # the stops that the latest sequence goes through
    found: list[list[Stop]] = [[]]  # and what lies directly below each

    def close(end: int) -> Stop:
        stop, children = path.pop(), found.pop()
        stop.end = end
        _settle(stop, children, ends, a_pass)
        return stop

    for i, ids in enumerate(sequences):
        alike = common_prefix(ids[: shared[i]], sequences[i - 1][: shared[i - 1]]) if i else 0
        closed = None
        while path[-1].depth > alike:
            if closed:
                found[-1].append(closed)
            closed = close(i)
        if closed and path[-1].depth < alike:
            path.append(Stop(alike, closed.begin))
            found.append([])
        if closed:
            found[-1].append(closed)
        if path[-1].depth < shared[i]:
            path.append(Stop(shared[i], i))
            found.append([])
    while len(path) > 1:
        closed = close(len(sequences))
        found[-1].append(closed)
    return close(len(sequences))


def _settle(stop: Stop, children: Sequence[Stop], ends: Sequence[int], a_pass: int) -> None:
    """Decide which of the prefixes below a stop are stops themselves, and what it all costs."""

    def tokens(begin: int, end: int) -> int:
        return ends[end] - ends[begin] - (end - begin) * stop.depth

    at = stop.begin
    for child in _far_enough(stop, children):
        apart, deeper = tokens(child.begin, child.end), a_pass + child.depth - stop.depth + child.cost
        if (child.begin, child.end) == (stop.begin, stop.end):
            # The batch that reads everything from here is a pass too; it is saved if everything goes on from there.
            apart += a_pass
        if apart > deeper:
            if at < child.begin:
                stop.together.append((at, child.begin))
            stop.further.append(child)
            at = child.end
    if at < stop.end:
        stop.together.append((at, stop.end))
    stop.cost = sum(tokens(*each) for each in stop.together) + (a_pass if stop.together else 0)
    stop.cost += sum(a_pass + child.depth - stop.depth + child.cost for child in stop.further)


def _far_enough(stop: Stop, children: Sequence[Stop]) -> Iterator[Stop]:
    """Return the prefixes below a stop that are long enough for a pass, and in place of the others what is below."""
    for child in children:
        yield from [child] if child.depth - stop.depth >= FEWEST else child.further
