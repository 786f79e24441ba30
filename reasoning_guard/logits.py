"""Logits for the positions that are asked about and for no others, and the numbers that are read off them.

A model's own head makes the logits, through ``logits_to_keep``, so that soft caps and logit scaling apply and no
``[tokens, vocabulary]`` tensor of a whole trunk exists. Hosts patch forwards, so a signature proves nothing: whether a
model really keeps what it is told to keep is tried once, on four tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.model_context import device_of, forward_identity, inner_model, text_config

_CPU_BLOCK, _GPU_BLOCK = 2**20, 2**25
"""Elements of logits that are turned into numbers at once: what stays in a CPU's cache, what fills a GPU."""

_CHUNK = 128

_TRIAL, _PICKED = (1, 2, 1, 2), (0, 2)

Numbers = tuple[float, bool, float, float]
"""Of one scored token: log-probability, greedy flag, entropy of its distribution, margin of the best two."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a model's forward lets one choose about logits.

    Attributes:
        picks: It takes the positions whose logits are wanted, as a tensor.
        skips: It takes none at all, which saves reading a large head for nothing.
    """

    picks: bool
    skips: bool

    def keep(self, places: Sequence[int] | range, device: torch.device) -> dict[str, Any]:
        """Arguments of a forward that wants logits at ``places``; where it can't pick, it makes them all."""
        return {"logits_to_keep": torch.tensor(places, dtype=torch.long, device=device)} if self.picks else {}

    def keep_none(self, device: torch.device) -> dict[str, Any]:
        """Arguments of a forward whose logits nobody wants."""
        return self.keep((), device) if self.skips else self.keep((0,), device)


_heads: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Head]] = WeakKeyDictionary()


def head_of(model: nn.Module) -> Head:
    """What ``model`` lets one choose, tried once for each forward that it has; the caller put it in evaluation.

    Raises:
        ConfigurationError: Its forward returns hidden states in place of logits.
    """
    inner = inner_model(model)
    forward = forward_identity(inner)
    known = _heads.get(model)
    if known is None or known[0] != forward:
        known = forward, _try_head(model, inner)
        _heads[model] = known
    return known[1]


def _try_head(model: nn.Module, inner: nn.Module) -> Head:
    names = inspect.signature(inner.forward).parameters
    named = "logits_to_keep" in names or any(p.kind is p.VAR_KEYWORD for p in names.values())
    ids = torch.tensor([_TRIAL], device=device_of(model))
    whole = model(input_ids=ids, use_cache=False).logits
    _refuse_hidden_states(model, whole)
    picks = named and _keeps(model, ids, whole, _PICKED)
    return Head(picks, skips=picks and _keeps(model, ids, whole, ()))


def _keeps(model: nn.Module, ids: torch.Tensor, whole: torch.Tensor, places: Sequence[int]) -> bool:
    try:
        kept = model(input_ids=ids, use_cache=False, **Head(True, True).keep(places, ids.device)).logits
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a patched forward may refuse a tensor in its own way: then all logits are made
        return False
    expected = whole[:, list(places)]
    return kept.shape == expected.shape and torch.allclose(kept.float(), expected.float(), rtol=0.05, atol=0.05)


def _refuse_hidden_states(model: nn.Module, logits: torch.Tensor) -> None:
    config = text_config(model)
    width, hidden = logits.shape[-1], getattr(config, "hidden_size", None)
    if width == hidden and width != config.vocab_size:
        raise ConfigurationError(
            f"{type(model).__name__}'s forward returned {width} numbers a token, as many as its hidden states have; "
            f"expected logits over {config.vocab_size} tokens. Turn off what makes it return hidden states (with "
            "Unsloth: the environment variable UNSLOTH_RETURN_HIDDEN_STATES)"
        )


def token_numbers(logits: torch.Tensor, flat: Sequence[int], targets: Sequence[int]) -> list[Numbers]:
    """The numbers of each asked token, in float32.

    Args:
        logits: ``[R, P, V]``.
        flat: For each token, which of the ``R * P`` rows holds its distribution; rows may repeat.
        targets: For each token, its id.

    Returns:
        A tuple a token.
    """
    table, device = logits.flatten(0, 1), logits.device
    distinct, which = torch.tensor(flat).unique(return_inverse=True)
    wanted, which = torch.tensor(targets, device=device), which.to(device)
    block = max(1, (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) // table.shape[-1])
    room = torch.empty(2, min(block, len(distinct)), table.shape[-1], dtype=torch.float32, device=device)
    parts = [_describe(_rows(table, some, room[0]), room[1, : len(some)]) for some in distinct.split(block)]
    top, log_total, entropy, margin, best = torch.cat(parts, dim=1)[:, which]
    own = (table[distinct.to(device)[which], wanted].float() - top) - log_total
    numbers = torch.stack([own, best == wanted, entropy, margin]).tolist()
    return [(a, bool(b), c, d) for a, b, c, d in zip(*numbers, strict=True)]


def _rows(table: torch.Tensor, rows: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Sorted ``rows`` of ``table`` in float32: as they stand where they are neighbours, else copied into ``room``."""
    first, last, room = int(rows[0]), int(rows[-1]), room[: len(rows)]
    if last - first + 1 == len(rows):
        some = table[first : last + 1]
        return some if some.dtype == room.dtype else room.copy_(some)
    rows = rows.to(table.device)
    return torch.index_select(table, 0, rows, out=room) if table.dtype == room.dtype else room.copy_(table[rows])


def _describe(logits: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """``[M, V]`` logits ``x`` to ``[5, M]``: maximum ``m``, ``log Z``, entropy, margin and the best token.

    At 150,000 tokens of vocabulary, memory is what this costs: so there are few passes, and what they write goes into
    ``p``, ``[M, V]``. Fresh memory for each block would take three times as long as the arithmetic. With ``Z`` the sum
    of ``exp(x - m)``, the best token's probability is ``1 / Z`` and the entropy ``log Z + m - sum(p x)``.
    """
    top, second, best = best_two(logits)
    torch.softmax(logits, -1, out=p)
    log_total = -p.gather(-1, best[:, None])[:, 0].log()
    entropy = log_total + (top - p.mul_(logits).nansum(-1))  # 0 x -inf: a token that is ruled out adds nothing
    return torch.stack([top, log_total, entropy, top - second, best.to(top.dtype)])


def best_two(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest and the second largest of each row of ``[M, V]``, and where the largest stands.

    What ``topk(2)`` says in a tenth of its time on a CPU: the two stand in the two chunks whose maxima are largest.
    """
    chunks = table[:, : table.shape[1] // _CHUNK * _CHUNK].unflatten(1, (-1, _CHUNK))
    if chunks.shape[1] < 2:
        values, places = table.topk(2, dim=-1)
        return values[:, 0], values[:, 1], places[:, 0]
    nearest = chunks.amax(-1).topk(2, dim=-1).indices[..., None]
    inside = torch.arange(_CHUNK, device=table.device)
    rest = torch.arange(chunks.shape[1] * _CHUNK, table.shape[1], device=table.device).expand(len(table), -1)
    places = torch.cat([(nearest * _CHUNK + inside).flatten(1), rest], dim=1)
    values, found = table.gather(1, places).topk(2, dim=-1)
    return values[:, 0], values[:, 1], places.gather(1, found[:, :1])[:, 0]
