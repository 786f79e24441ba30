"""Kernels that are compiled on the spot, where a device has what that takes and they turn out right."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from reasoning_guard.device_memory import out_of_memory

logger = logging.getLogger(__name__)

_LEAST = (8, 0)
"""Compute capability of the oldest cards of NVIDIA for which Triton compiles products of matrices in 16 bits."""

Kernel = TypeVar("Kernel")


def compiled_kernel(
    device: torch.device, load: Callable[[], Kernel], check: Callable[[Kernel], None], otherwise: str
) -> Kernel | None:
    """A kernel in Triton, compiled and tried.

    Args:
        device: Where it is to run.
        load: Imports it.
        check: Runs it and raises if it is wrong.
        otherwise: What is done without, for the log.

    Returns:
        The kernel, or None: no GPU, no Triton, no C compiler for it, a card that it does not know, wrong numbers.

    Raises:
        torch.OutOfMemoryError: Memory ran out meanwhile, which says nothing about the kernel.
    """
    if device.type != "cuda" or (torch.version.hip is None and torch.cuda.get_device_capability(device) < _LEAST):
        return None
    try:
        kernel = load()
        check(kernel)
    except Exception as error:  # of many kinds, down to a compiler's
        if out_of_memory(error):
            raise
        logger.info("%s, since a kernel for it could not be had: %s", otherwise, error)
        return None
    return kernel
