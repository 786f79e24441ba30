"""Branches read over a cached trunk, in passes that are large enough to be quick and small enough to waste nothing.

A row attends to as many keys as it has tokens, whether they are its own branch's or not; a pass costs its weights and
its launches, however few tokens go through. Between the two lie some hundred tokens on a CPU and some thousand on a
GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import nn
from transformers import DynamicCache

from reasoning_guard.divergences import Compared, with_divergences
from reasoning_guard.logits import Numbers, head_of, token_numbers
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import attention_name, device_of, text_config
from reasoning_guard.packing import PackedBatch, PackedRow, Part, batch_rows, parts
from reasoning_guard.tree import Branch, BranchScore
from reasoning_guard.trie import Trie

_CPU_TOKENS, _GPU_TOKENS, _NARROWEST = 512, 4096, 256
"""Tokens in one pass over all its rows, and the least that each row has of them."""

Scores = list[list[BranchScore]]


def score_branches(
    model: nn.Module,
    cache: DynamicCache,
    trunk_length: int,
    branches: Sequence[Sequence[Branch]],
    plan: MaskPlan,
    limit: int,
) -> Scores:
    """Score the branches of several trees; the caller has put the model in evaluation.

    Args:
        model: A causal language model.
        cache: The trunks, a row each; it is cut shorter on the way.
        trunk_length: How many tokens the cache holds of each trunk, padding included.
        branches: Anchored branches, for each trunk.
        plan: How the model takes its masks.
        limit: Most elements in a mask with what it is made from, and in a block of logits.

    Returns:
        A score a branch, for each tree.
    """
    tries = [Trie.of(each) for each in branches]
    width, wanted = _room(model, trunk_length, tries, plan, limit)
    numbers: list[list[dict[int, Numbers]]] = [[{} for _ in each] for each in branches]
    compared = Compared(tries)
    for together in zip_longest(*(parts(trie, width, wanted) for trie in tries), fillvalue=Part()):
        for rows, logits in _passes(model, cache, together, plan):
            _note(numbers, rows, logits)
            compared.note(rows, logits)
            del logits  # the next pass needs the room
    return with_divergences(
        [[branch_score([found[i] for i in range(len(found))]) for found in each] for each in numbers], compared
    )


def _room(model: nn.Module, trunk_length: int, tries: Sequence[Trie], plan: MaskPlan, limit: int) -> tuple[int, int]:
    """Most tokens in a row, and most of them whose logits are wanted."""
    tokens = _CPU_TOKENS if device_of(model).type == "cpu" else _GPU_TOKENS
    width = max(_NARROWEST, tokens // len(tries))
    longest = max((len(stem) for trie in tries for stem in trie.stems), default=0)
    keys = trunk_length + max(width, longest + width // 2)  # half a row of short stems may stand before a long one
    # A mask counts twice: the tables that it is made from are as large.
    a_token = 2 * plan.n_masks * len(tries) * keys * max(1, attention_heads(model))
    logits = limit // (len(tries) * text_config(model).vocab_size)
    width = min(width, limit // a_token, width if head_of(model).picks else logits)
    return max(1, width), max(1, logits)


def attention_heads(model: nn.Module) -> int:
    """Number of heads whose ``[tokens, keys]`` weights exist at once: all under eager attention, none otherwise."""
    if attention_name(model) != "eager":
        return 0
    settings = text_config(model).to_dict()  # not by attribute: some configurations keep the number per layer
    return int(settings.get("num_attention_heads") or settings.get("n_head") or 1)


def _passes(
    model: nn.Module, cache: DynamicCache, together: Sequence[Part], plan: MaskPlan
) -> Iterator[tuple[tuple[PackedRow, ...], torch.Tensor]]:
    """The pieces of one part of each tree, with the logits ``[R, P, V]`` that are wanted of them."""
    reach = max(part.reach for part in together)
    if cache.get_seq_length() > reach:
        cache.crop(reach - cache.get_seq_length())
    before: list[PackedBatch] = []
    for rows in zip_longest(*(part.pieces for part in together), fillvalue=PackedRow()):
        batch = batch_rows(rows, device_of(model))
        head = head_of(model)
        before.append(batch)
        yield (
            rows,
            model(
                input_ids=batch.ids,
                attention_mask=plan.build(reach, batch, mask_dtype(model), before[:-1]),
                position_ids=batch.positions,
                past_key_values=cache,
                use_cache=True,
                **(
                    head.keep(range(batch.n_wanted), batch.ids.device)
                    if batch.n_wanted
                    else head.keep_none(batch.ids.device)
                ),
            ).logits,
        )


def _note(numbers: Sequence[Sequence[dict[int, Numbers]]], rows: Sequence[PackedRow], logits: torch.Tensor) -> None:
    """Read what is asked off the logits of a pass."""
    queries = [(r, query) for r, row in enumerate(rows) for query in row.queries]
    if not queries:
        return
    flat = [r * logits.shape[1] + query.place for r, query in queries]
    found = token_numbers(logits, flat, [query.target for _, query in queries])
    for (r, query), each in zip(queries, found, strict=True):
        numbers[r][query.branch][query.index] = each


def branch_score(numbers: Sequence[Numbers]) -> BranchScore:
    """The score of a branch from what was read of each of its scored tokens, in order."""
    logprobs, greedy, entropies, margins = zip(*numbers, strict=True)
    return BranchScore(logprobs, greedy, entropies, margins)


def mask_dtype(model: nn.Module) -> torch.dtype:
    """The dtype in which the model computes: additive masks must be in it. Quantised weights are no guide to it."""
    computes = (p.dtype for p in model.parameters() if p.dtype.is_floating_point and p.dtype.itemsize > 1)
    return next(computes, torch.float32)
