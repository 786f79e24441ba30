"""Running a model for scores.

There are four ways to the same numbers:

* :func:`score_shared`: the trunk once through plain causal attention into a cache, then all branches in masked passes
  over that cache (:mod:`reasoning_guard.branch_pass`). Costs one forward over the unique tokens. Trees whose trunks
  begin alike (completions of one prompt) can share that beginning too: :func:`read_prompt` reads it once.
* :mod:`reasoning_guard.one_pass`: trunk and branches in one pass, on a GPU.
* :mod:`reasoning_guard.forking`: the trunk once, from stop to stop, and the branches from copies of the cache there.
  For layers that no mask can steer. As many tokens, in more passes.
* :mod:`reasoning_guard.sequences`: every branch as a sequence of its own, padded on the right. Right for every causal
  model, and slow: it reads the trunk once for each branch.

All of them read what is asked through :func:`reasoning_guard.head.read`, so no ``[tokens, vocabulary]`` tensor of a
whole trunk ever exists.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache

from reasoning_guard.branch_pass import Pending, Scores, attention_heads, launch_branches
from reasoning_guard.head import head_of, read
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_parts import device_of, text_config
from reasoning_guard.packing import anchored, on_device, pad_right
from reasoning_guard.tree import TraceTree

LIMIT = 2**25
"""Elements in a table of attention weights or in copies of a cache, and half of those that a mask, with what it is made
from, and a block of logits have together: 256 MiB in float32."""


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
    """Read what trunks have in common. The caller has put the model in evaluation mode."""
    cache = DynamicCache()
    feed(model, cache, torch.tensor([list(ids)], device=device_of(model)), limit)
    return Prompt(len(ids), cache)


def score_shared(
    model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, *, prompt: Prompt | None = None, limit: int = LIMIT
) -> Scores:
    """Score trees over cached trunks. The caller has put the model in evaluation mode.

    Arguments and result are those of :func:`launch_shared`, whose scores it waits for.
    """
    return launch_shared(model, trees, plan, prompt=prompt, limit=limit)()


def launch_shared(
    model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, *, prompt: Prompt | None = None, limit: int = LIMIT
) -> Pending:
    """Launch the passes that score trees over cached trunks.

    The cache is made without the model's configuration on purpose. A cache made from it drops what has left a sliding
    window, which a branch that attaches early still needs.

    Args:
        model: A causal language model.
        trees: Trees to score together; the trunks are padded to the longest.
        plan: How the model takes its masks (see :mod:`reasoning_guard.selftest`).
        prompt: The beginning of all trunks, already read; it is left as it is.
        limit: Half of the elements that a mask and a block of logits may have together.

    Returns:
        A handle that fetches the scores: one for each branch, for each tree.
    """
    trees = [anchored(tree) for tree in trees]
    known = prompt.length if prompt else 0
    trunks = pad_right([tree.trunk[known : max((b.reach for b in tree.branches), default=0)] for tree in trees], 0)
    cache = DynamicCache()
    if prompt:
        cache = copy.deepcopy(prompt.cache)
        cache.batch_repeat_interleave(len(trees))
    feed(model, cache, on_device(trunks, device_of(model)), limit)
    return launch_branches(model, cache, known + trunks.shape[1], [tree.branches for tree in trees], plan, limit)


def feed(model: nn.Module, cache: DynamicCache, ids: torch.Tensor, limit: int) -> None:
    """Read ``[R, T]`` ids into the cache, in pieces if a mask, weights or logits would be one large table."""
    head = head_of(model)
    rows, length = ids.shape
    a_token = _table_width(model, cache, length)
    if not (head.splits or head.picks):
        a_token = max(a_token, text_config(model).vocab_size)
    piece = max(1, limit // (rows * a_token)) if a_token else max(1, length)
    for start in range(0, length, piece):
        read(model, (), input_ids=ids[:, start : start + piece], past_key_values=cache, use_cache=True)


def _table_width(model: nn.Module, cache: DynamicCache, length: int) -> int:
    """Elements that one of ``length`` more tokens takes in a mask or in attention's weights.

    It is 0 if nothing was read before and nothing is out of reach. Attention is then causal without a mask, and only
    eager attention keeps its weights in memory.
    """
    try:
        before = cache.get_seq_length()
    except ValueError:  # a cache of states alone has no keys, and knows no length
        return 0
    config, keys = text_config(model), before + length
    reach = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    masked = before > 0 or any(isinstance(tokens, int) and tokens <= keys for tokens in reach)
    return max(attention_heads(model), int(masked)) * keys
