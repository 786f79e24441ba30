"""The kernels, run by Triton's interpreter; on a GPU, as Triton compiles them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reasoning_guard.hidden import _read_slice, fused_reading
from reasoning_guard.table_attention import Kernel, _compare, _tried_kernel, attend_by_table


def test_kernels_say_what_they_stand_for() -> None:
    pytest.importorskip("triton", reason="needs Triton")
    script = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("compared\n"), done.stderr


def test_a_cpu_reads_in_steps() -> None:
    assert fused_reading(torch.device("cpu")) is None


def test_what_a_kernel_gets_wrong_is_found() -> None:
    """By what decides whether it is taken: attention that takes branches for chains, that sees what is hidden."""
    cpu = torch.device("cpu")

    def by_mask(change: Callable[[torch.Tensor], torch.Tensor]) -> Kernel:
        def attend(*inputs: torch.Tensor | float) -> torch.Tensor:
            query, key, value, table, scale = inputs
            layer = torch.nn.Module()
            layer.num_key_value_groups = 2
            found = attend_by_table(layer, query, key, value, change(table), scaling=scale)
            return found[0]

        return attend

    def see_all(table: torch.Tensor) -> torch.Tensor:
        table = table.clone()
        table[..., 2] = table[..., 1]
        return table

    def one_more(table: torch.Tensor) -> torch.Tensor:
        return table + torch.tensor([1, 0, 0, 0, 0], dtype=torch.int32)

    def later(table: torch.Tensor) -> torch.Tensor:
        return table + torch.tensor([0, 0, 0, 1, 0], dtype=torch.int32)

    _compare(by_mask(torch.Tensor.clone), cpu, torch.float32, 16)
    for wrong in see_all, one_more, later:
        with pytest.raises(AssertionError):
            _compare(by_mask(wrong), cpu, torch.float32, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_a_gpu_attends_with_the_kernel(dtype: torch.dtype, size: int) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    assert _tried_kernel(device, dtype, size) is not None
    assert _tried_kernel(device, dtype, 24) is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_reads_with_the_kernel(dtype: torch.dtype) -> None:
    read = fused_reading(torch.device("cuda", torch.cuda.current_device()))
    assert read is not None
    for width in (64, 9000, 100_000):
        logits = torch.randn(300, width, device="cuda").mul_(8).to(dtype)
        torch.testing.assert_close(read(logits, 300), _read_slice(logits.float(), 300), rtol=1e-5, atol=1e-4)
