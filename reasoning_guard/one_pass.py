"""Trunks and branches in one pass, without a cache, for devices on which launching a pass is what it costs.

A GPU reads some thousand tokens of a small model in the time in which Python launches the kernels of one pass. Where
there are no more, a second pass takes as long as the first, however few tokens go through. Where there are more, one
pass costs what two do, as long as trunks need no mask (:mod:`reasoning_guard.trunk_attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from reasoning_guard.branch_pass import Pending, attention_heads, launch, mask_dtype, weights_of
from reasoning_guard.head import head_of, read
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import attending_by, attention_name, device_of, text_config
from reasoning_guard.packing import anchored, batch_rows, on_device, pad_right, whole
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Trie
from reasoning_guard.trunk_attention import WITH_TRUNKS

_A_LAYER = 7e-4
"""Seconds in which Python launches the kernels of one layer, beside an H200."""

_RATE, _MASKED_RATE, _FLOAT32_TAKES = 4.5e14, 1.5e14, 8
"""Operations a second of matrices, and of attention under a mask, on the same GPU in bfloat16; times as long else."""


def launch_at_once(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, apart: bool | None = None) -> Pending:
    """Launch the pass that scores trees; the caller has put the model in evaluation and knows that it fits.

    Args:
        model: A causal language model.
        trees: Trees to score together.
        plan: How the model takes its masks (see :mod:`reasoning_guard.selftest`).
        apart: Whether trunks attend without a mask; None where :func:`trunks_go_apart` is to say.

    Returns:
        What fetches a score a branch, for each tree.
    """
    apart = trunks_go_apart(model, trees) if apart is None else apart
    trees = [anchored(tree) for tree in trees]
    tries = [Trie.of(tree.branches) for tree in trees]
    trunks = pad_right([tree.trunk[: max((b.reach for b in tree.branches), default=1)] for tree in trees], 0)
    rows, device, length = [whole(trie) for trie in tries], device_of(model), trunks.shape[1]
    batch = batch_rows(rows, device)
    on_trunk = torch.arange(length, device=device).expand(len(trees), -1)
    with attending_by(model, WITH_TRUNKS) if apart else nullcontext():
        found = read(
            model,
            range(length, length + batch.n_wanted),
            input_ids=torch.cat([on_device(trunks, device), batch.ids], dim=1),
            attention_mask=plan.build_with_trunk(length, batch, mask_dtype(model), apart),
            position_ids=torch.cat([on_trunk, batch.positions], dim=1),
            use_cache=False,
        )
    return launch([tree.branches for tree in trees], tries, [(rows, found)])


def is_launched(model: nn.Module) -> bool:
    """Whether a device of its own computes what Python launches; a CPU has nothing to wait for."""
    return device_of(model).type != "cpu"


def may_go_apart(model: nn.Module) -> bool:
    """Whether there is an attention without a mask for trunks to take."""
    return attention_name(model) == "sdpa"


def trunks_go_apart(model: nn.Module, trees: Sequence[TraceTree]) -> bool:
    """Whether to launch more kernels a layer, so that trunks need no mask.

    Worth it where the GPU has more to do in a layer than Python to launch one: what it need not compute is then saved,
    and else waited for. Judged as if it were the one that was measured.
    """
    config = text_config(model)
    layers, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not (may_go_apart(model) and isinstance(layers, int) and isinstance(width, int)):
        return False
    tokens = sum(_padded(trees))
    matrices = 2 * weights_of(model) / layers * len(trees) * tokens / _RATE
    attention = 4 * width * len(trees) * tokens**2 / _MASKED_RATE
    return (_FLOAT32_TAKES if mask_dtype(model) == torch.float32 else 1) * (matrices + attention) > _A_LAYER


def fits(model: nn.Module, trees: Sequence[TraceTree], plan: MaskPlan, limit: int) -> bool:
    """Whether the masks of one pass, with what they are made from, and its logits keep within what two may take.

    Args:
        model: A causal language model.
        trees: Trees to score together.
        plan: How the model takes its masks.
        limit: Half of the elements that masks and logits may have together.
    """
    trunk, fed = _padded(trees)
    tokens, head = trunk + fed, head_of(model)
    masked = fed if trunks_go_apart(model, trees) and plan.reaches(trunk) else tokens
    masks = 2 * len(trees) * tokens * (plan.n_masks * masked + attention_heads(model) * tokens)
    if head.splits:  # what is compared is compared as logits
        rows = sum(_made(branch) for tree in trees for branch in tree.branches if branch.against)
    elif head.picks:
        rows = len(trees) * max(sum(map(_made, tree.branches)) for tree in trees)
    else:
        rows = len(trees) * tokens
    return masks <= limit // 2 and rows * text_config(model).vocab_size <= limit * 3 // 2


def _padded(trees: Sequence[TraceTree]) -> tuple[int, int]:
    """Tokens of each trunk in a pass and of each row behind it, padding included; of those that branches share, all."""
    return max(len(tree.trunk) for tree in trees), max(sum(map(_fed, tree.branches)) for tree in trees)


def _fed(branch: Branch) -> int:
    return len(branch.ids) + (len(branch.against.ids) if branch.against else 0)


def _made(branch: Branch) -> int:
    """Distributions of a branch, and of what it is compared with."""
    return (branch.scored[1] - branch.scored[0]) * (2 if branch.against else 1)
