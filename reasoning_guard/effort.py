"""How much to ask of the device at once, learnt by trying: more while it pays, less when memory runs out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reasoning_guard.branch_pass import mask_dtype
from reasoning_guard.forward import LIMIT
from reasoning_guard.model_parts import device_of

logger = logging.getLogger(__name__)

_CPU_BUDGET, _FIRST_TRY, _WITHOUT_TRYING, _LARGEST = 2_048, 8_192, 16_384, 16_384
"""Tokens. At the largest, an H200 already has more to do than Python in a model of .5 B parameters. In larger batches,
less could be prepared while it computes, and what a pass holds would grow with them."""
SMALLEST_PART = 2**19
"""Least ``elements`` of a pass before a trace is read branch by branch instead."""
_PAYS = 0.95
"""A budget twice as large is kept if tokens pass at least this many times as fast. While batches are timed, the device
and Python wait for each other. Later, one batch is prepared while another is computed, and larger ones hide more of
that. On an H200, a model of 1.5 B was timed as hardly faster at twice the budget, and took 2 to 8 % longer than one
with a larger head that was read at that budget."""
_ALIKE, _MISSES = 0.5, 3
"""Share of their length by which traces that are timed against each other may differ, and how often they may differ by
more before the search ends."""


@dataclass(slots=True)
class Effort:
    """What one forward may cost. Every out-of-memory error lowers it.

    Attributes:
        tokens: Most tokens, padding included, in one batch of traces; while trying, a number that may prove too large.
        trying: Whether larger budgets are still to be tried.
        elements: The ``limit`` of a pass (see :data:`~reasoning_guard.forward.LIMIT`).
        alone_from: Traces of this size in tokens and longer are scored branch by branch, without a cache.
        held_behind: Most tokens, padding included, that traces behind one shared beginning hold together, the beginning
            counted in each.
        proven: While trying, the largest budget that is known to pay.
        at_once: Whether trunk and branches may go through in one pass.
    """

    tokens: int
    trying: bool = False
    elements: int = LIMIT
    alone_from: float = float("inf")
    held_behind: float = float("inf")
    proven: int = field(init=False)
    at_once: bool = True
    _at_proven: tuple[int, float] = field(default=(0, 0.0), repr=False)  # longest trace, and tokens a second
    _warm: int = field(default=0, repr=False)  # the budget of the last batch that filled it
    _misses: int = field(default=0, repr=False)
    _whole: tuple[int, int] = field(default=(0, 0), repr=False)  # a trace's size, and `elements` before it was too much

    def __post_init__(self) -> None:
        """Begin with a budget against which larger ones are measured."""
        self.proven = self.tokens

    def learn(self, sizes: list[int], seconds: float) -> None:
        """While trying, double the budget after batches that filled it, until that is slower.

        The first batch of a size is not timed, because a device prepares what it does for the first time.

        Traces come sorted by length, so neighbouring batches are alike, and the work that is to be done anyway can be
        timed. Where they are far from alike, the smaller budget is timed again, since a token takes longer in long
        traces. After a few such times, the smaller budget is kept.

        Args:
            sizes: Tokens of each trace in the batch.
            seconds: Wall time that the batch took.
        """
        if not self.trying or len(sizes) * max(sizes) < self.tokens / 2:
            return
        if self._warm != self.tokens:
            self._warm = self.tokens
            return
        length, speed = max(sizes), sum(sizes) / seconds
        length_before, speed_before = self._at_proven
        if self.tokens > self.proven and abs(length - length_before) > _ALIKE * length_before:
            self._misses += 1
            self._warm = self.tokens = self.proven
            self.trying = self._misses < _MISSES
            return
        pays = self.tokens == self.proven or speed > _PAYS * speed_before
        if pays:
            self.proven, self._at_proven = self.tokens, (length, speed)
        if pays and self.tokens < _LARGEST:
            self.tokens *= 2
            return
        self.trying, self.tokens = False, self.proven
        logger.info("token budget found: %d tokens a batch", self.tokens)

    def shrink(
        self, sizes: list[int], shared: bool, together: bool = False, at_once: bool = False, behind: bool = False
    ) -> None:
        """Ask for less after memory ran out: fewer traces, then smaller parts of a trace, then one branch at a time.

        Args:
            sizes: Tokens of each trace in the batch that failed.
            shared: Whether its branches shared what was read of the trunk.
            together: If not shared, whether several branches may have been padded to one batch.
            at_once: Whether trunk and branches went through in one pass.
            behind: Whether the traces stood behind one beginning that was read before; it is counted in each of their
                sizes.

        Raises:
            torch.OutOfMemoryError: If there is nothing smaller left to try.
        """
        self.trying = False
        size = max(sizes)
        if len(sizes) > 1 and behind:  # which says nothing of what others may take
            self.held_behind = len(sizes) * size // 2
            logger.warning("out of memory on %d traces behind one beginning: half as many from now on", len(sizes))
        elif len(sizes) > 1:
            self.tokens = min(self.tokens, len(sizes) * size) // 2
            logger.warning("out of memory on %d traces: token budget halved to %d", len(sizes), self.tokens)
        elif at_once:
            self.at_once = False
            logger.warning(
                "out of memory on one trace of %d tokens in one pass: trunks are read first from now on", size
            )
        elif not (shared or together):
            raise nothing_smaller(size)
        elif shared and self.elements > SMALLEST_PART:
            if self._whole[0] != size:
                self._whole = size, self.elements
            self.elements //= 8
            logger.warning("out of memory on one trace of %d tokens: it is read in smaller parts", size)
        elif not shared and self.tokens > size:
            self.tokens //= 2
            logger.warning("out of memory on branches of one trace: token budget halved to %d", self.tokens)
        else:
            self.alone_from = size
            if self._whole[0] == size:  # smaller parts were no help: it is the cache that is too large
                self.elements = self._whole[1]
            logger.warning("out of memory on one trace of %d tokens: its branches are read one by one", size)


def nothing_smaller(tokens: int) -> torch.OutOfMemoryError:
    """Return the error for a single trace that is too large."""
    return torch.OutOfMemoryError(
        f"out of memory on a single trace of {tokens} tokens with its branches: free memory on the device or cut the "
        "traces shorter"
    )


_efforts: WeakKeyDictionary[nn.Module, dict[tuple[str, bool], Effort]] = WeakKeyDictionary()


def effort_of(model: nn.Module) -> Effort:
    """Return what was learnt about a model on its current device, remembered as long as the model lives.

    A clock decides nothing on a CPU, in runs that must repeat bit by bit, or in runs of several processes, which must
    stay in step.
    """
    device, in_step = device_of(model).type, torch.are_deterministic_algorithms_enabled() or _several_processes()
    known = _efforts.setdefault(model, {})
    if (device, in_step) not in known:
        trying = device != "cpu" and not in_step
        known[device, in_step] = untried(
            model, _CPU_BUDGET if device == "cpu" else _FIRST_TRY if trying else _WITHOUT_TRYING, trying
        )
    return known[device, in_step]


def untried(model: nn.Module, tokens: int, trying: bool = False) -> Effort:
    """Return where to begin with a model. Its number format says how many elements are 256 MiB."""
    return Effort(tokens, trying, elements=LIMIT * torch.float32.itemsize // mask_dtype(model).itemsize)


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
