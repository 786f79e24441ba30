"""Attention masks for packed branches over a cached trunk.

A branch token sees the trunk up to where its branch attaches, its own ancestors, and itself. The keys are first the
trunk's, then those of the pieces of the same branches that were read before, then the row's own. Sliding-window and
chunked layers restrict that further *by position distance*, because a packed token's index is not its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasoning_guard.packing import PackedBatch

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """How a model wants its 4D masks.

    Attributes:
        by_layer_type: Whether the model takes a mapping from layer type to mask, as models that mix layer types do.
        window: Sliding window in tokens, or None.
        chunk: Attention chunk in tokens, or None.
    """

    by_layer_type: bool = False
    window: int | None = None
    chunk: int | None = None

    @property
    def n_masks(self) -> int:
        """Number of masks that :meth:`build` makes."""
        return 1 + self.by_layer_type * ((self.window is not None) + (self.chunk is not None))

    def build(
        self, trunk_length: int, batch: PackedBatch, dtype: torch.dtype, before: Sequence[PackedBatch] = ()
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Build additive masks ``[R, 1, B, K]``: 0 where a token is seen, the dtype's minimum where it is not.

        Args:
            trunk_length: ``T``, how many tokens of the trunk are in the cache.
            batch: The rows that are read now, ``B`` tokens each.
            dtype: The dtype in which the model computes.
            before: The part of the same branches that is already in the cache behind the trunk, ``P`` tokens; ``K = T +
                P + B``.
        """
        keys = _key_positions(trunk_length, (*before, batch))
        return self._restricted(visible(trunk_length, batch, before), keys, batch.positions, dtype)

    def everywhere(self, mask: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """One mask for layers of every kind, as the model wants it."""
        return dict.fromkeys(self._reaches(), mask) if self.by_layer_type else mask

    def reaches(self, length: int) -> bool:
        """Say whether every layer sees back over ``length`` tokens."""
        return all(reach is None or reach >= length for reach in self._reaches().values())

    def _reaches(self) -> dict[str, int | None]:
        """Return how far back each kind of layer sees, in tokens; None: to the first token."""
        if not self.by_layer_type:
            return {FULL: self.window}
        restricted = {SLIDING: self.window, CHUNKED: self.chunk}
        return {FULL: None, **{name: reach for name, reach in restricted.items() if reach is not None}}

    def _restricted(
        self, seen: torch.Tensor, keys: torch.Tensor, queries: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Restrict what is seen to the layers' windows and chunks, in the form that the model wants."""
        if self.window is None and self.chunk is None:
            return {FULL: additive(seen, dtype)} if self.by_layer_type else additive(seen, dtype)
        if not self.by_layer_type:
            return additive(seen if self.window is None else seen & _near(keys, queries, self.window), dtype)
        masks = {FULL: additive(seen, dtype)}
        if self.window is not None:
            masks[SLIDING] = additive(seen & _near(keys, queries, self.window), dtype)
        if self.chunk is not None:
            masks[CHUNKED] = additive(seen & _same_chunk(keys, queries, self.chunk), dtype)
        return masks


def mask_plans(config: Any) -> tuple[MaskPlan, ...]:
    """List the mask plans that may fit a model of this configuration, the likelier first.

    Which one is exact is not guessed here: :mod:`reasoning_guard.selftest` tries them.

    Args:
        config: A Transformers configuration (or its text part).
    """
    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    mixed = MaskPlan(by_layer_type=True, window=window, chunk=chunk)
    plans = []
    if types & {SLIDING, CHUNKED}:
        plans.append(mixed)
    if window is not None:
        plans.append(MaskPlan(window=window))
    plans.append(MaskPlan())
    if not types & {SLIDING, CHUNKED} and (window is not None or chunk is not None):
        plans.append(mixed)
    return tuple(plans)


def visible(trunk_length: int, batch: PackedBatch, before: Sequence[PackedBatch] = ()) -> torch.Tensor:
    """Say which keys each packed token sees, ``[R, B, T + P + B]`` bool, before any window."""
    places = torch.arange(trunk_length, device=batch.at.device)
    on_trunk = places < batch.at[:, :, None]
    if batch.hides:
        on_trunk &= (places < batch.hide_start[:, :, None]) | (places >= batch.hide_stop[:, :, None])
    query = batch.enter[:, :, None]
    on_branch = [(each.enter[:, None, :] <= query) & (query < each.leave[:, None, :]) for each in (*before, batch)]
    return torch.cat([on_trunk, *on_branch], dim=-1)


def table_of(batch: PackedBatch) -> torch.Tensor:
    """Describe what branch tokens see of a trunk and of each other, ``[R, 1, B, 5]`` int32, in place of a mask.

    The five numbers are how much of the trunk the token sees, where the slice that it does not see begins and ends, one
    past its last descendant's number, and its own number. For :mod:`reasoning_guard.table_attention`.
    """
    columns = (batch.at, batch.hide_start, batch.hide_stop, batch.leave, batch.enter)
    return torch.stack(columns, dim=-1).clamp_(max=torch.iinfo(torch.int32).max).to(torch.int32)[:, None]


def visible_by(table: torch.Tensor, trunk_length: int) -> torch.Tensor:
    """Say what :func:`visible` says, ``[R, B, T + B]`` bool, from a table."""
    at, hide_start, hide_stop, leave, enter = table[:, 0].unbind(-1)
    return visible(trunk_length, PackedBatch(at, at, at, hide_start, hide_stop, leave, enter, n_wanted=0, hides=True))


def _key_positions(trunk_length: int, packed: Sequence[PackedBatch]) -> torch.Tensor:
    at = packed[0].positions
    trunk = torch.arange(trunk_length, device=at.device).expand(len(at), -1)
    return torch.cat([trunk, *(each.positions for each in packed)], dim=-1)


def _near(keys: torch.Tensor, queries: torch.Tensor, window: int) -> torch.Tensor:
    # Compared, not subtracted: a table of distances would take eight times the memory of the mask's own booleans.
    return keys[:, None, :] > (queries - window)[:, :, None]


def _same_chunk(keys: torch.Tensor, queries: torch.Tensor, chunk: int) -> torch.Tensor:
    return (keys // chunk)[:, None, :] == (queries // chunk)[:, :, None]


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn ``[R, B, K]`` bool into an additive ``[R, 1, B, K]`` mask; boolean ones are silently wrong under eager.

    On a GPU, its rows begin at multiples of eight elements, as the kernels want them. Otherwise every layer would copy
    it.
    """
    keys = seen.shape[-1]
    room = -(-keys // 8) * 8 if seen.is_cuda else keys
    mask = torch.zeros((*seen.shape[:-1], room), dtype=dtype, device=seen.device)[..., :keys]
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
