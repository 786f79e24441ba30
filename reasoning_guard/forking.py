"""Score branches from copies of a cache, for models in which no mask can say what a token sees.

Recurrent and convolutional layers carry a state from token to token. Sparse attention, alibi biases and local windows
count tokens in ways of their own. What such a model has read cannot be hidden from a branch, but it can be copied. The
trunk is read once, from stop to stop (:mod:`reasoning_guard.prefixes`), and at each stop the branches go on from
copies.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from reasoning_guard.branch_pass import Scores, attention_heads
from reasoning_guard.forward import LIMIT, feed
from reasoning_guard.head import head_of
from reasoning_guard.model_parts import device_of, text_config
from reasoning_guard.prefixes import FEWEST, Stop, stops
from reasoning_guard.sequences import TokenSequence, batches, read_to_the_end, sequences_of
from reasoning_guard.tree import BranchScore, TraceTree

_CPU_PASS, _GPU_PASS = 32, 4096
"""Number of tokens that take as long as the pass itself: its weights, its launches, the copy of a cache. On a CPU as
measured once on a hybrid of 34 M parameters; on a GPU a guess, on the side of fewer passes."""

_GPU_COPIES = 16
"""How many times the limit of everything else copies of a cache may take on a GPU: 2 GiB in 16 bits, also a guess.
States are large, and a pass for each branch would cost far more than the memory."""


def score_forked(
    model: nn.Module, trees: Sequence[TraceTree], token_budget: int, *, a_pass: int | None = None, limit: int = LIMIT
) -> Scores:
    """Score every branch from a copy of what was read before it. Only for branches that hide nothing.

    Args:
        model: A causal language model in evaluation mode, whose cache may be copied (see
            :mod:`reasoning_guard.selftest`).
        trees: Trees to score. What any of them have in common is read once, if a stop is worth it.
        token_budget: Most tokens, padding included, that are read at once from copies; 1 for a branch at a time.
        a_pass: What a pass costs beside its tokens, in tokens; the default depends on the device.
        limit: Most elements in a block of logits, in eager attention's weights and, on a CPU, in copies of a cache.

    Returns:
        One score for each branch, for each tree.
    """
    asked = sequences_of(trees)
    distinct = sorted({each for every in asked for each in every}, key=lambda each: (_shared(each), each.ids))
    if a_pass is None:
        a_pass = _CPU_PASS if device_of(model).type == "cpu" else _GPU_PASS
    root = stops([each.ids for each in distinct], [len(_shared(each)) for each in distinct], a_pass)
    found: dict[TokenSequence, BranchScore] = {}
    for stop, cache in _visits(model, root, distinct, limit):
        waiting = [each for begin, end in stop.together for each in distinct[begin:end]]
        for batch in batches(waiting, _Room(model, stop.depth, cache, token_budget, a_pass, limit).holds):
            # No name for the copies: one would keep them alive beside the next.
            found |= read_to_the_end(model, batch, stop.depth, _copies(cache, len(batch)) if stop.depth else None)
    return [[found[each] for each in every] for every in asked]


def _shared(sequence: TokenSequence) -> tuple[int, ...]:
    """Return what may be read without logits; at least two fed tokens are left (see :data:`prefixes.FEWEST`)."""
    return sequence.ids[: max(0, sequence.wanted[0] + 1 - FEWEST)]


def _visits(
    model: nn.Module, root: Stop, sequences: Sequence[TokenSequence], limit: int
) -> Iterator[tuple[Stop, DynamicCache]]:
    """Yield every stop with what the model remembers there, deepest first, so that few caches exist at once."""
    pending: list[tuple[Stop, int, DynamicCache, bool]] = []
    stop, cache = root, DynamicCache(config=text_config(model))
    while True:
        yield stop, cache
        pending += [(each, stop.depth, cache, i == 0) for i, each in enumerate(stop.further)]
        if not pending:
            return
        stop, read, cache, is_last = pending.pop()
        cache = cache if is_last else copy.deepcopy(cache)
        ids = sequences[stop.begin].ids[read : stop.depth]
        feed(model, cache, torch.tensor([ids], device=device_of(model)), limit)


def _copies(cache: DynamicCache, rows: int) -> DynamicCache:
    """A copy with so many equal rows."""
    copied: Any = copy.deepcopy(cache)
    if rows > 1:
        copied.reorder_cache(torch.zeros(rows, dtype=torch.long, device="cpu"))
    return copied


class _Room:
    """How many branches may go on at once from one stop."""

    def __init__(
        self, model: nn.Module, read: int, cache: DynamicCache, token_budget: int, a_pass: int, limit: int
    ) -> None:
        self._read, self._budget, self._a_pass, self._limit = read, token_budget, a_pass, limit
        head = head_of(model)
        self._picks = head.splits or head.picks
        self._a_column = 0 if head.splits else text_config(model).vocab_size  # elements that a wanted place takes
        self._heads = attention_heads(model)
        self._copies = limit * (1 if device_of(model).type == "cpu" else _GPU_COPIES)
        self._a_row = sum(state.numel() for layer in cache.layers for state in _states(vars(layer))) if read else 0

    def holds(self, batch: Sequence[TokenSequence]) -> bool:
        """Say whether a batch, sorted by length, is within the budgets, and its padding no dearer than another pass."""
        tokens, rows = len(batch[-1].ids) - self._read, len(batch)
        padding = rows * len(batch[-1].ids) - sum(len(each.ids) for each in batch)
        columns = len({place for each in batch for place in each.wanted}) if self._picks else tokens
        weights = self._heads * tokens * len(batch[-1].ids)
        fits = rows * max(columns * self._a_column, weights) <= self._limit and rows * self._a_row <= self._copies
        return fits and rows * tokens <= self._budget and padding <= self._a_pass


def _states(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a layer of a cache, in whatever it keeps them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (state for each in value.values() for state in _states(each))
    elif isinstance(value, list | tuple):
        yield from (state for each in value for state in _states(each))
