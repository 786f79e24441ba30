"""How much to ask of the device at once, learnt by trying: large until memory runs out, then smaller for good."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from reasoning_guard.forward import LIMIT

logger = logging.getLogger(__name__)

_SMALLEST_PART = 2**19


@dataclass(slots=True)
class Effort:
    """What one forward may cost; every out-of-memory error makes it cheaper.

    Attributes:
        tokens: Most tokens, padding included, in one batch of traces.
        elements: Most elements in one mask or one block of logits.
        alone_from: Traces of this size in tokens and longer are scored branch by branch, without a cache.
    """

    tokens: int
    elements: int = LIMIT
    alone_from: float = float("inf")

    def shrink(self, sizes: list[int], shared: bool) -> None:
        """Ask for less after memory ran out: fewer traces, then smaller parts of one trace, then no cache.

        Args:
            sizes: Tokens of each trace in the batch that failed.
            shared: Whether it went through the shared pass.

        Raises:
            torch.OutOfMemoryError: If there is nothing smaller left to try.
        """
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
            raise torch.OutOfMemoryError(
                f"out of memory on a single trace of {sizes[0]} tokens with its branches: free memory on the device or "
                "cut the traces shorter"
            )
