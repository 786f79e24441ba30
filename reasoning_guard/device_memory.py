"""A device's memory: recognising that it ran out, and giving it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out. Each kind of device has its own words for it.

    >>> out_of_memory(torch.OutOfMemoryError("full")), out_of_memory(RuntimeError("MPS backend out of memory."))
    (True, True)
    >>> out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory"))
    True
    >>> out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")), out_of_memory(ValueError())
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return bool(should_reduce_batch_size(error)) or "ALLOC_FAILED" in said or "out of memory" in said.lower()


@contextmanager
def memory_given_back(device: torch.device) -> Iterator[None]:
    """Give the memory that PyTorch reserved for the block back to the device, for whoever shares it.

    Meant for blocks of some seconds: what is given back must be reserved anew, which takes longer than a pass or two.
    """
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
