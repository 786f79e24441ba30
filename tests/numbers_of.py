"""What is read off distributions, a tuple a scored token instead of a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reasoning_guard.logits import Distributions, Place, token_numbers

Numbers = tuple[float, bool, float, float]
"""Log-probability, greedy flag, entropy and margin."""


def numbers_at(found: Distributions, places: Sequence[Place], targets: Sequence[int]) -> list[Numbers]:
    """The numbers of each of ``targets`` at its place."""
    rows, columns = np.array(places).T
    return _tuples(found.numbers(rows, columns, np.array(targets)))


def numbers_in(logits: torch.Tensor, flat: Sequence[int], targets: Sequence[int]) -> list[Numbers]:
    """The numbers of each of ``targets`` in its row of ``logits``."""
    return _tuples(token_numbers(logits, np.array(flat), np.array(targets)))


def _tuples(numbers: torch.Tensor) -> list[Numbers]:
    return [(a, bool(b), c, d) for a, b, c, d in numbers.T.tolist()]
