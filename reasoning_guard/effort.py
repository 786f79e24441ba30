"""How much to ask of the device at once, learnt by trying: more while it pays, less for good when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reasoning_guard.forward import LIMIT
from reasoning_guard.model_context import device_of

logger = logging.getLogger(__name__)

_CPU_BUDGET, _FIRST_TRY, _WITHOUT_TRYING, _LARGEST = 2_048, 8_192, 16_384, 131_072
_SMALLEST_PART = 2**19
_PAYS = 1.05
"""A budget twice as large is kept if tokens pass this many times as fast."""


@dataclass(slots=True)
class Effort:
    """What one forward may cost; every out-of-memory error makes it cheaper.

    Attributes:
        tokens: Most tokens, padding included, in one batch of traces.
        trying: Whether larger budgets are still to be tried.
        elements: The ``limit`` of a pass (see :data:`~reasoning_guard.forward.LIMIT`).
        alone_from: Traces of this size in tokens and longer are scored branch by branch, without a cache.
        speed: Tokens a second, padding not counted, at the budget before.
    """

    tokens: int
    trying: bool = False
    elements: int = LIMIT
    alone_from: float = float("inf")
    speed: float = 0.0

    def learn(self, sizes: list[int], seconds: float) -> None:
        """While trying: double the budget after a batch that filled it, until that no longer pays.

        Traces come sorted by length, so neighbouring batches are alike and the work that is to be done anyway tells.

        Args:
            sizes: Tokens of each trace in the batch.
            seconds: Wall time that the batch took.
        """
        if not self.trying or len(sizes) * max(sizes) < self.tokens / 2:
            return
        speed = sum(sizes) / seconds
        if speed > _PAYS * self.speed and self.tokens < _LARGEST:
            self.speed, self.tokens = speed, 2 * self.tokens
            return
        self.trying = False
        self.tokens = self.tokens // 2 if speed <= _PAYS * self.speed else self.tokens
        logger.info("token budget found: %d tokens a batch", self.tokens)

    def shrink(self, sizes: list[int], shared: bool) -> None:
        """Ask for less after memory ran out: fewer traces, then smaller parts of one trace, then no cache.

        Args:
            sizes: Tokens of each trace in the batch that failed.
            shared: Whether it went through the shared pass.

        Raises:
            torch.OutOfMemoryError: If there is nothing smaller left to try.
        """
        self.trying = False
        if len(sizes) > 1:
            self.tokens = min(self.tokens, len(sizes) * max(sizes)) // 2
            logger.warning("out of memory on %d traces: token budget halved to %d", len(sizes), self.tokens)
        elif shared and self.elements > _SMALLEST_PART:
            self.elements //= 8
            logger.warning("out of memory on one trace of %d tokens: it is read in smaller parts", sizes[0])
        elif shared:
            self.alone_from = min(self.alone_from, sizes[0])
            logger.warning("out of memory on one trace of %d tokens: its branches are read one by one", sizes[0])
        else:
            raise nothing_smaller(sizes[0])


def nothing_smaller(tokens: int) -> torch.OutOfMemoryError:
    """The error when a single trace is too much."""
    return torch.OutOfMemoryError(
        f"out of memory on a single trace of {tokens} tokens with its branches: free memory on the device or cut the "
        "traces shorter"
    )


_efforts: WeakKeyDictionary[nn.Module, Effort] = WeakKeyDictionary()


def effort_of(model: nn.Module) -> Effort:
    """What was learnt about a model, remembered as long as it lives.

    On a CPU, and where runs must repeat bit by bit or several processes must stay in step, a clock decides nothing.
    """
    if model not in _efforts:
        if device_of(model).type == "cpu":
            _efforts[model] = Effort(_CPU_BUDGET)
        elif torch.are_deterministic_algorithms_enabled() or _several_processes():
            _efforts[model] = Effort(_WITHOUT_TRYING)
        else:
            _efforts[model] = Effort(_FIRST_TRY, trying=True)
    return _efforts[model]


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def memory_given_back(device: torch.device) -> Iterator[None]:
    """Give memory that the block made PyTorch reserve back to the device, for whoever shares it."""
    before = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
    try:
        yield
    finally:
        if device.type == "cuda" and torch.cuda.memory_reserved(device) > before:
            empty_cache(device)


def empty_cache(device: torch.device) -> None:
    """Give memory that PyTorch holds without using it back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
