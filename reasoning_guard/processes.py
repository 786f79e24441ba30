"""One decision for all processes of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this process is the one that writes and speaks: rank 0, or the only one."""
    return not _distributed() or dist.get_rank() == 0


def from_main_process(make: Callable[[], T]) -> T:
    """Call ``make`` on the main process and give every process what it returned, or raise what it raised.

    Every process of the run must make this call. Kernels and hardware may differ in the last bit between ranks;
    a decision that rests on such bits must be taken once.

    Args:
        make: Called on the main process only. Its result must pickle.

    Returns:
        The main process's result.
    """
    if not _distributed():
        return make()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = make()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
