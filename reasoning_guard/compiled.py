"""Kernels that are compiled on the spot, if the device can do that and the results are right.

Each is tried once for each device. It may fail later all the same, because Triton compiles another variant for other
sizes and formats, and loads it when it is first called. So every caller has another way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

from reasoning_guard.device_memory import out_of_memory

logger = logging.getLogger(__name__)

_LEAST = (8, 0)
"""Compute capability of the oldest cards of NVIDIA for which Triton compiles products of matrices in 16 bits."""

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class KernelFailedError(RuntimeError):
    """A kernel that was right when it was tried has failed since. It isn't called again."""


class CompiledKernel(Generic[Inputs, Output]):
    """A kernel that is used until a call of it fails.

    Args:
        kernel: What to call.
        otherwise: What is done without, for the log.

    Attributes:
        works: Whether no call has failed yet.
    """

    def __init__(self, kernel: Callable[Inputs, Output], otherwise: str) -> None:
        self._kernel, self._otherwise = kernel, otherwise
        self.works = True

    def __call__(self, *inputs: Inputs.args, **settings: Inputs.kwargs) -> Output:
        """Call the kernel.

        Raises:
            KernelFailedError: It has failed, now or before.
            torch.OutOfMemoryError: Memory ran out, which says nothing about the kernel.
        """
        if self.works:
            try:
                return self._kernel(*inputs, **settings)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self.works = False
                logger.warning("%s from now on, since the kernel for it failed: %s", self._otherwise, error)
        raise KernelFailedError(self._otherwise)


def compiled_kernel(
    device: torch.device,
    load: Callable[[], Callable[Inputs, Output]],
    check: Callable[[Callable[Inputs, Output]], None],
    otherwise: str,
) -> CompiledKernel[Inputs, Output] | None:
    """Compile a Triton kernel and try it.

    Args:
        device: Where it is to run.
        load: Imports the kernel.
        check: Runs the kernel and raises if it is wrong.
        otherwise: What is done without, for the log.

    Returns:
        The kernel, or None if there is no GPU, no Triton, no C compiler for it, if Triton does not know the card, or if
        the numbers are wrong. Once a call of the kernel fails, that call and all later ones raise
        :class:`KernelFailedError`.

    Raises:
        torch.OutOfMemoryError: Memory ran out, which says nothing about the kernel.
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
    return CompiledKernel(kernel, otherwise)
