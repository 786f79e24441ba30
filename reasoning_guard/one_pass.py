"""Read trunks and branches in one pass, without a cache, on devices where launching a pass is the main cost.

On a small model, a GPU reads some thousand tokens in the time that Python takes to launch the kernels of one pass. If
there are no more tokens than that, a second pass takes as long as the first, however few tokens go through. If there
are more, one pass costs no more than two, since no mask is made (:mod:`reasoning_guard.table_attention`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from reasoning_guard.branch_pass import Pending, launch, mask_dtype
from reasoning_guard.head import head_of, read
from reasoning_guard.masks import MaskPlan, table_of
from reasoning_guard.model_context import attending_by
from reasoning_guard.model_parts import attention_name, device_of, text_config
from reasoning_guard.packing import anchored, batch_rows, on_device, pad_right, whole
from reasoning_guard.table_attention import BY_TABLE, needs_no_mask
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Trie


def launch_at_once(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan) -> Pending:
    """Launch the pass that scores trees. The caller has put the model in evaluation mode and knows that it fits.

    Args:
        model: A causal language model.
        trees: Trees to score together.
        plan: How the model takes its masks (see :mod:`reasoning_guard.selftest`).

    Returns:
        A handle that fetches the scores: one for each branch, for each tree.
    """
    trees = [anchored(tree) for tree in trees]
    tries = [Trie.of(tree.branches) for tree in trees]
    trunks = pad_right([tree.trunk[: max((b.reach for b in tree.branches), default=1)] for tree in trees], 0)
    rows, device, length = [whole(trie) for trie in tries], device_of(model), trunks.shape[1]
    batch = batch_rows(rows, device)
    on_trunk = torch.arange(length, device=device).expand(len(trees), -1)
    with attending_by(model, BY_TABLE):
        found = read(
            model,
            range(length, length + batch.n_wanted),
            input_ids=torch.cat([on_device(trunks, device), batch.ids], dim=1),
            attention_mask=plan.everywhere(table_of(batch)),
            position_ids=torch.cat([on_trunk, batch.positions], dim=1),
            use_cache=False,
        )
    return launch([tree.branches for tree in trees], tries, [(rows, found)])


def is_launched(model: nn.Module) -> bool:
    """Say whether a device of its own computes what Python launches. A CPU has nothing to wait for."""
    return device_of(model).type != "cpu"


def fits(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, limit: int) -> bool:
    """Say whether a table describes these trees fully, and whether what has to be made for them fits.

    Where no kernel reads the table (on some GPUs, and for heads of odd sizes), a mask has to be made in its place.

    Args:
        model: A causal language model.
        trees: Trees to score together.
        plan: How the model takes its masks.
        limit: Half of the elements that logits, masks and what these are made from may have together.
    """
    trunk, fed = max(len(tree.trunk) for tree in trees), max(sum(map(_fed, tree.branches)) for tree in trees)
    if attention_name(model) != "sdpa" or not plan.reaches(trunk + fed):
        return False
    head, masks = head_of(model), 0 if _attends_by_kernel(model) else 2 * len(trees) * fed * (trunk + fed)
    if head.splits:  # what is compared is compared as logits
        rows = sum(_made(branch) for tree in trees for branch in tree.branches if branch.against)
    elif head.picks:
        rows = len(trees) * max(sum(map(_made, tree.branches)) for tree in trees)
    else:
        rows = len(trees) * (trunk + fed)
    return masks <= limit // 2 and rows * text_config(model).vocab_size <= limit * 3 // 2


def _attends_by_kernel(model: nn.Module) -> bool:
    """Judge by the settings. If the layers differ from these, they make masks, and memory may run out."""
    device, config = device_of(model), text_config(model)
    width, heads, size = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads", "head_dim"))
    if isinstance(width, int) and isinstance(heads, int) and heads and not size:
        size = width // heads
    if not isinstance(size, int):
        return False
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else mask_dtype(model)
    return needs_no_mask(device, dtype, size)


def _fed(branch: Branch) -> int:
    return len(branch.ids) + (len(branch.against.ids) if branch.against else 0)


def _made(branch: Branch) -> int:
    """Distributions of a branch, and of what it is compared with."""
    return (branch.scored[1] - branch.scored[0]) * (2 if branch.against else 1)
