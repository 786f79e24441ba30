"""The kernel that reads a slice of logits, run by Triton's interpreter; on a GPU, as Triton compiles it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reasoning_guard.hidden import _read_slice, fused_reading


def test_one_pass_over_a_slice_reads_what_several_do() -> None:
    pytest.importorskip("triton", reason="needs Triton")
    script = Path(__file__).with_name("interpreted_kernel.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("compared\n"), done.stderr


def test_a_cpu_reads_in_steps() -> None:
    assert fused_reading(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_reads_with_the_kernel(dtype: torch.dtype) -> None:
    read = fused_reading(torch.device("cuda", torch.cuda.current_device()))
    assert read is not None
    for width in (64, 9000, 100_000):
        logits = torch.randn(300, width, device="cuda").mul_(8).to(dtype)
        torch.testing.assert_close(read(logits, 300), _read_slice(logits.float(), 300), rtol=1e-5, atol=1e-4)
