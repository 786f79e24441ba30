"""Running a model for scores.

Two ways to the same numbers:

* :func:`score_shared`: the trunk once through plain causal attention into a cache, then all branches in masked passes
  over that cache (:mod:`reasoning_guard.branch_pass`). Costs one forward over the unique tokens. Trees whose trunks
  begin alike (completions of one prompt) can share that beginning too: :func:`read_prompt` reads it once.
* :func:`score_independent`: every branch as a sequence of its own, padded on the right. Right for every causal model,
  and slow: it reads the trunk once a branch.

Both keep logits for the scored positions only, through the model's own head (``logits_to_keep``), so that soft caps and
logit scaling apply and no ``[tokens, vocabulary]`` tensor of the whole trunk ever exists.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from reasoning_guard.branch_pass import Scores, attention_heads, branch_score, score_branches
from reasoning_guard.logits import head_of, token_numbers
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import device_of, text_config
from reasoning_guard.packing import anchored, pad_right
from reasoning_guard.tree import BranchScore, TraceTree

LIMIT = 2**25
"""Elements in a mask with what it is made from, in a block of logits, in a table of attention weights: 128 MiB each in
float32, so that mask and logits together take no more than 256."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A beginning that several trunks share, read once.

    Attributes:
        length: Its number of tokens.
        cache: Keys and values, one row.
    """

    length: int
    cache: DynamicCache


def read_prompt(model: nn.Module, ids: Sequence[int], limit: int = LIMIT) -> Prompt:
    """Read what trunks have in common; the caller has put the model in evaluation."""
    cache = DynamicCache()
    _feed(model, cache, torch.tensor([list(ids)], device=device_of(model)), limit)
    return Prompt(len(ids), cache)


def score_shared(
    model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, *, prompt: Prompt | None = None, limit: int = LIMIT
) -> Scores:
    """Score trees over cached trunks; the caller has put the model in evaluation.

    The cache is made without the model's configuration on purpose: a cache made from it drops what has left a sliding
    window, and a branch that attaches early still needs it.

    Args:
        model: A causal language model.
        trees: Trees to score together; the trunks are padded to the longest.
        plan: How the model takes its masks (see :mod:`reasoning_guard.selftest`).
        prompt: What all trunks begin with, already read; it is left as it is.
        limit: Most elements in one mask or one block of logits.

    Returns:
        A score a branch, for each tree.
    """
    trees = [anchored(tree) for tree in trees]
    read = prompt.length if prompt else 0
    trunks = pad_right([tree.trunk[read : max((b.reach for b in tree.branches), default=0)] for tree in trees], 0)
    cache = DynamicCache()
    if prompt:
        cache = copy.deepcopy(prompt.cache)
        cache.batch_repeat_interleave(len(trees))
    _feed(model, cache, trunks.to(device_of(model)), limit)
    return score_branches(model, cache, read + trunks.shape[1], [tree.branches for tree in trees], plan, limit)


def _feed(model: nn.Module, cache: DynamicCache, ids: torch.Tensor, limit: int) -> None:
    """Read ``[R, T]`` ids into the cache, in pieces where attention weights or logits would be one large table."""
    head = head_of(model)
    rows, length = ids.shape
    a_token = attention_heads(model) * (cache.get_seq_length() + length)
    if not head.picks:
        a_token = max(a_token, text_config(model).vocab_size)
    piece = max(1, limit // (rows * a_token)) if a_token else max(1, length)
    for start in range(0, length, piece):
        kept = head.keep_none(ids.device)
        model(input_ids=ids[:, start : start + piece], past_key_values=cache, use_cache=True, **kept)


def score_independent(model: nn.Module, trees: Sequence[TraceTree], token_budget: int) -> Scores:
    """Score every branch as a sequence of its own: the always-right path. Branches that hide nothing only.

    Args:
        model: A causal language model in evaluation.
        trees: Trees to score.
        token_budget: Most tokens, padding included, in one forward; 1 for a forward a sequence, without padding.

    Returns:
        A score a branch, for each tree.
    """
    questions = [(tree, branch) for tree in map(anchored, trees) for branch in tree.branches]
    distinct = list(dict.fromkeys((tree.trunk[: b.at] + b.ids, b.scored, b.at) for tree, b in questions))
    by_length = sorted(distinct, key=lambda question: len(question[0]))
    found: dict[Any, BranchScore] = {}
    for batch in _within_budget(by_length, token_budget):
        found.update(zip(batch, _score_sequences(model, batch), strict=True))
    each = iter([found[tree.trunk[: b.at] + b.ids, b.scored, b.at] for tree, b in questions])
    return [[next(each) for _ in tree.branches] for tree in trees]


_Sequence = tuple[tuple[int, ...], tuple[int, int], int]


def _within_budget(sequences: Sequence[_Sequence], token_budget: int) -> Iterator[list[_Sequence]]:
    batch: list[_Sequence] = []
    for sequence in sequences:
        if batch and (len(batch) + 1) * len(sequence[0]) > token_budget:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _score_sequences(model: nn.Module, batch: Sequence[_Sequence]) -> list[BranchScore]:
    device = device_of(model)
    fed = [ids[:-1] for ids, _, _ in batch]
    ids = pad_right(fed, 0).to(device)
    mask = pad_right([[1] * len(row) for row in fed], 0).to(device)
    wanted = [range(at + start - 1, at + stop - 1) for _, (start, stop), at in batch]
    places = sorted(set().union(*wanted))
    keep = head_of(model).keep(places, device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
    index = {place: i for i, place in enumerate(places)} if keep else {place: place for place in places}
    flat, targets = [], []
    for row, ((tokens, _, _), positions) in enumerate(zip(batch, wanted, strict=True)):
        flat += [row * logits.shape[1] + index[p] for p in positions]
        targets += [tokens[p + 1] for p in positions]
    numbers = iter(token_numbers(logits, flat, targets))
    return [branch_score([next(numbers) for _ in positions]) for positions in wanted]
