"""Branches as separate sequences: the trunk up to the branch, then the branch. Right for every causal model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from reasoning_guard.branch_pass import Scores, branch_scores
from reasoning_guard.forward import LIMIT
from reasoning_guard.head import head_of, read
from reasoning_guard.model_parts import device_of, text_config
from reasoning_guard.packing import anchored, pad_right
from reasoning_guard.tree import BranchScore, TraceTree


class TokenSequence(NamedTuple):
    """A branch with everything before it.

    Attributes:
        ids: Token ids. The last one is scored and never fed.
        first: Index of the first scored token.
    """

    ids: tuple[int, ...]
    first: int

    @property
    def wanted(self) -> range:
        """The tokens whose next-token distributions are wanted."""
        return range(self.first - 1, len(self.ids) - 1)


def sequences_of(trees: Sequence[TraceTree]) -> list[list[TokenSequence]]:
    """Turn every branch of every tree into a sequence of its own."""
    return [
        [TokenSequence(tree.trunk[: b.at] + b.ids, b.at + b.scored[0]) for b in tree.branches]
        for tree in map(anchored, trees)
    ]


def score_independent(
    model: nn.Module, trees: Sequence[TraceTree], token_budget: int, *, split: bool = True, limit: int = LIMIT
) -> Scores:
    """Score every branch as a sequence of its own: the path that is always right. For branches that hide nothing.

    Args:
        model: A causal language model in evaluation mode.
        trees: Trees to score.
        token_budget: Most tokens, padding included, in one forward; 1 for one forward for each sequence, without
            padding.
        split: False has the model make its logits in any case (see :mod:`reasoning_guard.head`).
        limit: Most elements in the logits of a batch.

    Returns:
        One score for each branch, for each tree.
    """
    asked = sequences_of(trees)
    distinct = {each for every in asked for each in every}
    found: dict[TokenSequence, BranchScore] = {}
    head = head_of(model)
    a_column = 0 if split and head.splits else text_config(model).vocab_size

    def fits(batch: Sequence[TokenSequence]) -> bool:
        length = len(batch[-1].ids)
        if len(batch) * length > token_budget or not a_column:
            return len(batch) * length <= token_budget
        columns = len({place for each in batch for place in each.wanted}) if head.picks else length
        return len(batch) * columns * a_column <= limit

    for batch in batches(distinct, fits):
        found.update(read_to_the_end(model, batch, split=split))
    return [[found[each] for each in every] for every in asked]


def batches(
    sequences: Iterable[TokenSequence], fits: Callable[[Sequence[TokenSequence]], bool]
) -> Iterator[list[TokenSequence]]:
    """Yield sequences sorted by length, in batches that fit. A sequence that does not fit comes alone."""
    batch: list[TokenSequence] = []
    for each in sorted(sequences, key=lambda each: (len(each.ids), each)):
        if batch and not fits([*batch, each]):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def read_to_the_end(
    model: nn.Module, batch: Sequence[TokenSequence], start: int = 0, cache: Any = None, *, split: bool = True
) -> dict[TokenSequence, BranchScore]:
    """Run one forward over a batch, padded on the right. The caller has put the model in evaluation mode.

    Args:
        model: A causal language model.
        batch: Sequences.
        start: How many tokens of each sequence have been read already; at least one is left.
        cache: What the model remembers of them, one row each; None if nothing was read.
        split: False has the model make its logits in any case.

    Returns:
        One score for each sequence.
    """
    device = device_of(model)
    fed = [each.ids[start:-1] for each in batch]
    past: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if cache is None:  # behind a cache, a mask would have to cover what is in it; nobody sees what comes later anyway
        past = {"attention_mask": pad_right([[1] * len(row) for row in fed], 0).to(device), "use_cache": False}
    places = sorted({place for each in batch for place in each.wanted})
    columns = [place - start for place in places]
    found = read(model, columns, split=split, input_ids=pad_right(fed, 0).to(device), **past)
    sizes = [len(each.wanted) for each in batch]
    rows, wanted = np.repeat(np.arange(len(batch)), sizes), np.concatenate([each.wanted for each in batch])
    targets = np.array([token for each in batch for token in each.ids[each.first :]])
    numbers = found.numbers(rows, np.searchsorted(places, wanted), targets)
    return dict(zip(batch, branch_scores(numbers, sizes), strict=True))
