"""Attention masks for packed branches over a cached trunk.

A branch token sees the trunk up to where its branch attaches, its own ancestors and itself. The keys are the trunk's,
then those of the pieces of the same branches that were read before, then the row's own. Sliding-window and chunked
layers restrict that further *by position distance*, because a packed token's index is not its position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasoning_guard.packing import PackedBatch

_Rows = tuple[torch.Tensor, torch.Tensor]
"""What tokens see, ``[R, N, K]``, and their positions, ``[R, N]``."""

_Restriction = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]

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
        """How many masks :meth:`build` makes."""
        return 1 + self.by_layer_type * ((self.window is not None) + (self.chunk is not None))

    def reaches(self, length: int) -> bool:
        """Whether every layer sees all of ``length`` tokens."""
        return all(reach is None or reach >= length for _, reach in self._kinds().values())

    def build(
        self, trunk_length: int, batch: PackedBatch, dtype: torch.dtype, before: Sequence[PackedBatch] = ()
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks ``[R, 1, B, K]``: 0 where a token is seen, the dtype's minimum where it is not.

        Args:
            trunk_length: ``T``, how many tokens of the trunk are in the cache.
            batch: The rows that are read now, ``B`` tokens each.
            dtype: The dtype in which the model computes.
            before: What of the same branches is in the cache already behind the trunk, ``P`` tokens; ``K = T + P + B``.
        """

        def rows(_: int | None) -> _Rows:
            return visible(trunk_length, batch, before), batch.positions

        return self._masks(rows, trunk_length, (*before, batch), dtype)

    def build_with_trunk(
        self, trunk_length: int, batch: PackedBatch, dtype: torch.dtype, apart: bool = False
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Additive masks for rows that are read together with their trunks before them.

        Args:
            trunk_length: ``T``, how many tokens of trunk stand before the ``B`` of each row.
            batch: The rows.
            dtype: The dtype in which the model computes.
            apart: Leave out the trunks' tokens where they see all that comes before them
                (:mod:`reasoning_guard.trunk_attention`).

        Returns:
            ``[R, 1, T + B, T + B]``, or ``[R, 1, B, T + B]`` for layers in which trunks are left out.
        """
        on_branch = visible(trunk_length, batch)

        def rows(reach: int | None) -> _Rows:
            if apart and (reach is None or reach >= trunk_length):
                return on_branch, batch.positions
            on_trunk = torch.ones(trunk_length, on_branch.shape[-1], dtype=torch.bool, device=on_branch.device).tril()
            seen = torch.cat([on_trunk.expand(len(on_branch), -1, -1), on_branch], dim=1)
            return seen, _key_positions(trunk_length, (batch,))

        return self._masks(rows, trunk_length, (batch,), dtype)

    def _masks(
        self, rows: Callable[[int | None], _Rows], trunk_length: int, packed: Sequence[PackedBatch], dtype: torch.dtype
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """What is seen, within what each kind of layer leaves of it, as the model wants it.

        Args:
            rows: For how far back a layer reaches, in tokens (None: to the first), what is seen and from where.
            trunk_length: How many trunk tokens are among the keys.
            packed: The other keys.
            dtype: The dtype in which the model computes.
        """
        masks = {}
        for name, (restrict, reach) in self._kinds().items():
            seen, queries = rows(reach)
            if restrict is not None and reach is not None:
                seen = seen & restrict(_key_positions(trunk_length, packed), queries, reach)
            masks[name] = additive(seen, dtype)
        return masks if self.by_layer_type else masks[FULL]

    def _kinds(self) -> dict[str, tuple[_Restriction | None, int | None]]:
        """For each kind of layer, what restricts it further and how far back it reaches."""
        sliding = (None, None) if self.window is None else (_near, self.window)
        if not self.by_layer_type:
            return {FULL: sliding}
        kinds: dict[str, tuple[_Restriction | None, int | None]] = {FULL: (None, None)}
        if self.window is not None:
            kinds[SLIDING] = sliding
        if self.chunk is not None:
            kinds[CHUNKED] = (_same_chunk, self.chunk)
        return kinds


def mask_plans(config: Any) -> tuple[MaskPlan, ...]:
    """Mask plans that may fit a model of this configuration, the likelier first.

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
    """Which keys each packed token sees, ``[R, B, T + P + B]`` bool, before any window."""
    places = torch.arange(trunk_length, device=batch.at.device)
    on_trunk = places < batch.at[:, :, None]
    if batch.hides:
        on_trunk &= (places < batch.hide_start[:, :, None]) | (places >= batch.hide_stop[:, :, None])
    query = batch.enter[:, :, None]
    on_branch = [(each.enter[:, None, :] <= query) & (query < each.leave[:, None, :]) for each in (*before, batch)]
    return torch.cat([on_trunk, *on_branch], dim=-1)


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
    """``[R, B, K]`` bool to an additive ``[R, 1, B, K]`` mask; boolean ones are silently wrong under eager.

    On a GPU its rows begin at multiples of eight elements, as the kernels want them: else every layer would copy it.
    """
    keys = seen.shape[-1]
    room = -(-keys // 8) * 8 if seen.is_cuda else keys
    mask = torch.zeros((*seen.shape[:-1], room), dtype=dtype, device=seen.device)[..., :keys]
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
