"""Trunks and branches in one masked pass, without a cache, for devices on which launching a pass is what it costs.

A GPU reads some thousand tokens of a small model in the time in which Python launches the kernels of one pass. Where
there are no more, a second pass takes as long as the first, however few tokens go through. In one pass, attention
computes all pairs of tokens, also those that the mask rules out; for short traces that is little beside the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from reasoning_guard.branch_pass import Pending, attention_heads, launch, mask_dtype, weights_of
from reasoning_guard.head import head_of, read
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import device_of, text_config
from reasoning_guard.packing import anchored, batch_rows, on_device, pad_right, whole
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Trie

_TWO_LAUNCHES = 2e-3
"""Seconds in which Python launches the kernels of one layer twice: beside an H200, once took .6 to 1.2 ms."""

_RATE, _MASKED_RATE = 4.5e14, 1.5e14
"""Operations a second of matrices, and of attention under a mask, on the same GPU in bfloat16."""

_FLOAT32_TAKES = 8
"""Times as long."""


def launch_at_once(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan) -> Pending:
    """Launch the pass that scores trees; the caller has put the model in evaluation and knows that it fits.

    Args:
        model: A causal language model.
        trees: Trees to score together.
        plan: How the model takes its masks (see :mod:`reasoning_guard.selftest`).

    Returns:
        What fetches a score a branch, for each tree.
    """
    trees = [anchored(tree) for tree in trees]
    tries = [Trie.of(tree.branches) for tree in trees]
    trunks = pad_right([tree.trunk[: max((b.reach for b in tree.branches), default=1)] for tree in trees], 0)
    rows, device, length = [whole(trie) for trie in tries], device_of(model), trunks.shape[1]
    batch = batch_rows(rows, device)
    found = read(
        model,
        range(length, length + batch.n_wanted),
        input_ids=torch.cat([on_device(trunks, device), batch.ids], dim=1),
        attention_mask=plan.build_with_trunk(length, batch, mask_dtype(model)),
        position_ids=torch.cat([torch.arange(length, device=device).expand(len(trees), -1), batch.positions], dim=1),
        use_cache=False,
    )
    return launch([tree.branches for tree in trees], tries, [(rows, found)])


def is_launched(model: nn.Module) -> bool:
    """Whether a device of its own computes what Python launches; a CPU has nothing to wait for."""
    return device_of(model).type != "cpu"


def worth_it(model: nn.Module, trees: Sequence[TraceTree]) -> bool:
    """Whether a GPU is through with one pass before Python would have launched two; on a CPU two are as quick.

    Judged as if it were the one that was measured. A slower one may find more in one pass than two launches take, and
    loses what attention to hidden pairs costs.
    """
    config = text_config(model)
    layers, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not is_launched(model) or not isinstance(layers, int) or not isinstance(width, int):
        return False
    tokens = _padded(trees)
    matrices = 2 * weights_of(model) / layers * len(trees) * tokens / _RATE
    attention = 4 * width * len(trees) * tokens**2 / _MASKED_RATE
    slower = _FLOAT32_TAKES if mask_dtype(model) == torch.float32 else 1
    return slower * (matrices + attention) <= _TWO_LAUNCHES


def fits(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, limit: int) -> bool:
    """Whether the masks of one pass, with what they are made from, and its logits keep within what two may take.

    Args:
        model: A causal language model.
        trees: Trees to score together.
        plan: How the model takes its masks.
        limit: Half of the elements that masks and logits may have together.
    """
    tokens, head = _padded(trees), head_of(model)
    masks = 2 * (plan.n_masks + attention_heads(model)) * len(trees) * tokens**2
    if head.splits:  # what is compared is compared as logits
        rows = sum(_made(branch) for tree in trees for branch in tree.branches if branch.against)
    elif head.picks:
        rows = len(trees) * max(sum(map(_made, tree.branches)) for tree in trees)
    else:
        rows = len(trees) * tokens
    return masks <= limit // 2 and rows * text_config(model).vocab_size <= limit * 3 // 2


def _padded(trees: Sequence[TraceTree]) -> int:
    """Tokens of each tree in a pass, padding included, those that branches share counted for each."""
    return max(len(tree.trunk) for tree in trees) + max(sum(map(_fed, tree.branches)) for tree in trees)


def _fed(branch: Branch) -> int:
    return len(branch.ids) + (len(branch.against.ids) if branch.against else 0)


def _made(branch: Branch) -> int:
    """Distributions of a branch, and of what it is compared with."""
    return (branch.scored[1] - branch.scored[0]) * (2 if branch.against else 1)
