"""Branches as sequences of their own: the trunk up to the branch, then the branch. Right for every causal model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from reasoning_guard.branch_pass import Scores, branch_score
from reasoning_guard.logits import head_of, token_numbers
from reasoning_guard.model_context import device_of
from reasoning_guard.packing import anchored, pad_right
from reasoning_guard.tree import BranchScore, TraceTree


class TokenSequence(NamedTuple):
    """A branch with all that stands before it.

    Attributes:
        ids: Token ids; the last one is scored and never fed.
        first: The first scored one.
    """

    ids: tuple[int, ...]
    first: int

    @property
    def wanted(self) -> range:
        """The tokens whose next-token distributions are wanted."""
        return range(self.first - 1, len(self.ids) - 1)


def sequences_of(trees: Sequence[TraceTree]) -> list[list[TokenSequence]]:
    """Every branch of every tree as a sequence of its own."""
    return [
        [TokenSequence(tree.trunk[: b.at] + b.ids, b.at + b.scored[0]) for b in tree.branches]
        for tree in map(anchored, trees)
    ]


def score_independent(model: nn.Module, trees: Sequence[TraceTree], token_budget: int) -> Scores:
    """Score every branch as a sequence of its own: the always-right path. Branches that hide nothing only.

    Args:
        model: A causal language model in evaluation.
        trees: Trees to score.
        token_budget: Most tokens, padding included, in one forward; 1 for a forward a sequence, without padding.

    Returns:
        A score a branch, for each tree.
    """
    asked = sequences_of(trees)
    distinct = {each for every in asked for each in every}
    found: dict[TokenSequence, BranchScore] = {}
    for batch in batches(distinct, lambda rows: len(rows) * len(rows[-1].ids) <= token_budget):
        found.update(read_to_the_end(model, batch))
    return [[found[each] for each in every] for every in asked]


def batches(
    sequences: Iterable[TokenSequence], fits: Callable[[Sequence[TokenSequence]], bool]
) -> Iterator[list[TokenSequence]]:
    """Sequences sorted by length, in batches that fit; a sequence that does not fit comes alone."""
    batch: list[TokenSequence] = []
    for each in sorted(sequences, key=lambda each: (len(each.ids), each)):
        if batch and not fits([*batch, each]):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def read_to_the_end(
    model: nn.Module, batch: Sequence[TokenSequence], read: int = 0, cache: Any = None
) -> dict[TokenSequence, BranchScore]:
    """One forward over a batch, padded on the right; the caller has put the model in evaluation.

    Args:
        model: A causal language model.
        batch: Sequences.
        read: How many tokens of each have been read already; at least one is left.
        cache: What the model remembers of them, a row each; None with nothing read.

    Returns:
        A score a sequence.
    """
    device = device_of(model)
    fed = [each.ids[read:-1] for each in batch]
    past: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if cache is None:  # behind a cache, a mask would have to cover what is in it; nobody sees what comes later anyway
        past = {"attention_mask": pad_right([[1] * len(row) for row in fed], 0).to(device), "use_cache": False}
    places = sorted({place - read for each in batch for place in each.wanted})
    keep = head_of(model).keep(places, device)
    logits = model(input_ids=pad_right(fed, 0).to(device), **past, **keep).logits
    column = {place: i for i, place in enumerate(places)} if keep else {place: place for place in places}
    flat = [row * logits.shape[1] + column[p - read] for row, each in enumerate(batch) for p in each.wanted]
    targets = [each.ids[p + 1] for each in batch for p in each.wanted]
    numbers = iter(token_numbers(logits, flat, targets))
    return {each: branch_score([next(numbers) for _ in each.wanted]) for each in batch}
