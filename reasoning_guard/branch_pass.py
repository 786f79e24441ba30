"""Read branches over a cached trunk, in passes large enough to be quick and small enough to waste little.

A row attends to as many keys as it has tokens, whether they belong to its own branch or not. A pass costs a reading of
the weights and its launches, however few tokens go through. The best size lies between the two: some hundred tokens on
a CPU, more for a model that has many weights for what its attention costs, and some thousand on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise, zip_longest
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from reasoning_guard.divergences import Compared, with_divergences
from reasoning_guard.head import head_of, read
from reasoning_guard.logits import Distributions
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_parts import attention_name, device_of, inner_model, text_config
from reasoning_guard.packing import PackedBatch, PackedRow, Part, batch_rows, parts
from reasoning_guard.tree import Branch, BranchScore
from reasoning_guard.trie import Trie

_CPU_TOKENS, _GPU_TOKENS, _NARROWEST = 512, 4096, 256
"""Tokens in one pass over all its rows, and the least that each row has of them."""

_A_PASS = 40
"""A pass on a CPU costs as much as this many more tokens would, because every weight is brought into the order that the
multiplication wants, once in each pass."""

Scores = list[list[BranchScore]]
Pending = Callable[[], Scores]
"""Scores that a device is still computing; calling waits for them."""


def launch_branches(
    model: nn.Module,
    cache: DynamicCache,
    trunk_length: int,
    branches: Sequence[Sequence[Branch]],
    plan: MaskPlan,
    limit: int,
) -> Pending:
    """Launch the passes that score the branches of several trees. The caller has put the model in evaluation mode.

    Args:
        model: A causal language model.
        cache: The trunks, one row each; it is cut shorter on the way.
        trunk_length: How many tokens the cache holds of each trunk, padding included.
        branches: Anchored branches, for each trunk.
        plan: How the model takes its masks.
        limit: Half of the elements that logits, a mask and what it is made from may have together.

    Returns:
        A handle that fetches the scores: one for each branch, for each tree.
    """
    tries = [Trie.of(each) for each in branches]
    width, wanted = _room(model, trunk_length, tries, plan, limit)
    divided = (parts(trie, width, wanted, only_compared=head_of(model).splits) for trie in tries)

    def passes() -> Iterator[Pass]:
        for together in zip_longest(*divided, fillvalue=Part()):
            yield from _passes(model, cache, together, plan)  # holding none, since the next pass needs the room

    return launch(branches, tries, passes())


Pass = tuple[Sequence[PackedRow], Distributions]


def launch(branches: Sequence[Sequence[Branch]], tries: Sequence[Trie], passes: Iterable[Pass]) -> Pending:
    """Launch passes, with one row for each tree, and what reads the scores off them.

    Only comparisons are fetched from the device, so the next batch can be prepared while it computes.
    """
    places, numbers, compared = [], [], Compared(tries)
    before = np.cumsum([0, *(trie.asked.shape[1] for trie in tries)])
    for rows, found in passes:
        asked = np.concatenate([row.asked for row in rows], axis=1)
        if asked.shape[1]:
            sizes = [row.asked.shape[1] for row in rows]
            numbers.append(found.numbers(np.repeat(np.arange(len(rows)), sizes), asked[0], asked[1]))
            places.append(asked[2] + np.repeat(before[:-1], sizes))
        compared.note(rows, found)
        del found  # the next pass needs the room
    if not numbers:
        return lambda: [[] for _ in branches]
    found, order = torch.cat(numbers, dim=1), torch.from_numpy(np.argsort(np.concatenate(places)))

    def fetch() -> Scores:
        sizes = [[b.scored[1] - b.scored[0] for b in each] for each in branches]
        scores = iter(branch_scores(found.cpu()[:, order], [size for each in sizes for size in each]))
        return with_divergences([[next(scores) for _ in each] for each in sizes], compared)

    return fetch


def _room(model: nn.Module, trunk_length: int, tries: Sequence[Trie], plan: MaskPlan, limit: int) -> tuple[int, int]:
    """Most tokens in a row, and most of them whose logits are made."""
    most = max((len(trie.wanted) for trie in tries), default=0)
    width = max(1, min(most, max(_NARROWEST, _tokens_in_a_pass(model) // len(tries))))
    longest = max((stem.size for trie in tries for stem in trie.stems), default=0)
    keys = trunk_length + max(width, longest + width // 2)  # half a row of short stems may stand before a long one
    # A mask counts twice: the tables that it is made from are as large. So do weights, with what they are made from.
    a_token = 2 * (plan.n_masks + attention_heads(model)) * len(tries) * keys
    # Of what both may take together, logits get three quarters: few passes are worth most where the head is large.
    logits = max(1, limit * 3 // 2 // (len(tries) * text_config(model).vocab_size))
    head = head_of(model)
    width = max(1, min(width, limit // 2 // a_token, width if head.splits or head.picks else logits))
    return width, logits  # what is compared is compared as logits, even where the head is left to do later


def _tokens_in_a_pass(model: nn.Module) -> int:
    """Find the row length at which passes and attention to other branches' keys cost least together.

    A token's weights cost as much as its attention to ``W = weights / (2 x layers x width)`` keys. Read ``b`` at a
    time, ``T`` branch tokens behind a trunk of the same length take ``T / b`` passes, each at the price of ``_A_PASS x
    W`` keys, and each token attends to about ``3 b / 2`` keys that it need not. The sum is least at ``b = sqrt(2 / 3 x
    _A_PASS x W)``.
    """
    if device_of(model).type != "cpu":
        return _GPU_TOKENS
    config = text_config(model)
    layers, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not isinstance(layers, int) or not isinstance(width, int):
        return _CPU_TOKENS
    keys = weights_of(model) / (2 * layers * width)
    return max(_CPU_TOKENS, min(_GPU_TOKENS, int((2 / 3 * _A_PASS * keys) ** 0.5)))


_weights: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def weights_of(model: nn.Module) -> int:
    """Count the elements of all matrices that a pass multiplies with. Counted once: later adapters are small."""
    if model not in _weights:
        matrices = {id(p): p.numel() for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name}
        head = getattr(getattr(inner_model(model), "get_output_embeddings", lambda: None)(), "weight", None)
        if isinstance(head, nn.Parameter):
            matrices[id(head)] = head.numel()  # tied, it goes by the embedding's name
        _weights[model] = sum(matrices.values())
    return _weights[model]


def attention_heads(model: nn.Module) -> int:
    """Count the heads whose ``[tokens, keys]`` weights exist at once: all under eager attention, none otherwise."""
    if attention_name(model) != "eager":
        return 0
    settings = text_config(model).to_dict()  # not by attribute: some configurations keep the number per layer
    return int(settings.get("num_attention_heads") or settings.get("n_head") or 1)


def _passes(
    model: nn.Module, cache: DynamicCache, together: Sequence[Part], plan: MaskPlan
) -> Iterator[tuple[tuple[PackedRow, ...], Distributions]]:
    """The pieces of one part of each tree, with the distributions that are wanted of them."""
    reach = max(part.reach for part in together)
    if cache.get_seq_length() > reach:
        cache.crop(reach - cache.get_seq_length())
    before: list[PackedBatch] = []
    for rows in zip_longest(*(part.pieces for part in together), fillvalue=PackedRow()):
        batch = batch_rows(rows, device_of(model))
        mask = plan.build(reach, batch, mask_dtype(model), before)
        before.append(batch)
        yield (
            rows,
            read(
                model,
                range(batch.n_wanted),
                input_ids=batch.ids,
                attention_mask=mask,
                position_ids=batch.positions,
                past_key_values=cache,
                use_cache=True,
            ),
        )


def branch_scores(numbers: torch.Tensor, sizes: Sequence[int]) -> list[BranchScore]:
    """Make the scores of branches from ``[4, M]`` numbers; the branches' tokens follow one another."""
    columns = numbers.tolist()
    ends = list(accumulate(sizes, initial=0))
    slices = [slice(*each) for each in pairwise(ends)]
    logprobs, greedy, entropies, margins = ([tuple(column[each]) for each in slices] for column in columns)
    return [
        BranchScore(a, tuple(map(bool, b)), c, d)
        for a, b, c, d in zip(logprobs, greedy, entropies, margins, strict=True)
    ]


def mask_dtype(model: nn.Module) -> torch.dtype:
    """Find the dtype in which the model computes, which masks must have. Quantised weights are no guide to it."""
    computes = (p.dtype for p in model.parameters() if p.dtype.is_floating_point and p.dtype.itemsize > 1)
    return next(computes, torch.float32)
