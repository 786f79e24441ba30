"""Run by test_kernels.py: the kernels under Triton's interpreter (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import pytest
import torch

from reasoning_guard.attention_kernel import attend
from reasoning_guard.hidden import _read_slice
from reasoning_guard.slice_kernel import read_slice
from reasoning_guard.table_attention import _compare


def slices(dtype: torch.dtype, width: int, device: str = "cpu") -> torch.Tensor:
    """Ordinary rows, one with a tie for the best, one with a token that is ruled out, one that all but one are."""
    logits = torch.randn(5, width, generator=torch.Generator().manual_seed(width)).mul_(8).to(dtype)
    logits[1, 7] = -torch.inf
    logits[2] = -torch.inf
    logits[2, 5] = 1.0
    logits[3, 3] = logits[3, width - 10] = 60.0
    return logits.to(device)


def main() -> None:
    """Compare the kernels with what they stand for; look at what one makes of rows that say nothing."""
    for dtype in torch.float32, torch.bfloat16, torch.float16:
        for width in 64, 4096, 9000:
            logits = slices(dtype, width)
            found, steps = read_slice(logits, 300), _read_slice(logits.float(), 300)
            torch.testing.assert_close(found, steps, rtol=1e-5, atol=2e-5, msg=f"{dtype}, {width} wide")
            assert found[2, 3] == 303, "the first of two that are best"
    logits = torch.zeros(2, 100)
    logits[0], logits[1, 3] = -torch.inf, torch.nan
    ruled_out, unknown = read_slice(logits, 0).unbind(1)
    assert ruled_out[0] == ruled_out[1] == ruled_out[3] == -torch.inf
    assert unknown[[0, 3, 4]].isnan().all()
    for dtype, size in (torch.float32, 16), (torch.float32, 64), (torch.float16, 32), (torch.float16, 128):
        _compare(attend, torch.device("cpu"), dtype, size)
    for shape in (1, 1, 4, 4), (1, 1, 9, 5), (2, 1, 4, 5):
        with pytest.raises(ValueError, match="expected a contiguous table of 5 numbers"):
            attend(*[torch.zeros(1, 2, 8, 16)] * 3, torch.zeros(shape, dtype=torch.int32), 1.0)
    print("compared")


if __name__ == "__main__":
    main()
