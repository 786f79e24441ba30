"""The kernels, run by Triton's interpreter; on a GPU, as Triton compiles them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from reasoning_guard import hidden, table_attention
from reasoning_guard.compiled import CompiledKernel, KernelFailedError
from reasoning_guard.hidden import Hidden, _read_slice, fused_reading
from reasoning_guard.table_attention import Kernel, _compare, _tried_kernel, attend_by_table, needs_no_mask


def run(script: str, *options: str, interpret: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Triton settles whether to interpret when it is imported."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *options]
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_kernels_say_what_they_stand_for() -> None:
    pytest.importorskip("triton", reason="needs Triton")
    done = run("interpreted_kernels.py", interpret="1")
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


def test_a_kernel_that_fails_is_not_called_again(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def kernel(number: int) -> int:
        calls.append(number)
        if number == 2:
            raise torch.OutOfMemoryError("full")
        if number == 3:
            raise ValueError("no room for so many registers")
        return number

    guarded = CompiledKernel(kernel, "numbers are read in several steps")
    assert guarded(1) == 1
    with pytest.raises(torch.OutOfMemoryError):
        guarded(2)
    assert guarded(1) == 1, "memory that runs out is not the kernel's fault"
    for _ in range(2):
        with pytest.raises(KernelFailedError):
            guarded(3)
    with pytest.raises(KernelFailedError):
        guarded(1)
    assert calls == [1, 2, 1, 3]
    assert len(caplog.records) == 1


def test_numbers_are_read_in_steps_where_the_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise KernelFailedError("gone")

    asked = Hidden(torch.randn(1, 3, 16), torch.nn.Linear(16, 50), torch.float32)
    places = np.array([0, 0]), np.array([1, 2]), np.array([7, 49])
    with torch.no_grad():
        expected = asked.numbers(*places)
        monkeypatch.setattr(hidden, "fused_reading", lambda _: fail)
        assert torch.equal(asked.numbers(*places), expected)


def test_branches_attend_under_a_mask_where_the_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise KernelFailedError("gone")

    query = torch.randn(1, 2, 9, 4)
    table = torch.tensor([[[[3, 0, 0, 2, 0], [3, 0, 0, 2, 1]]]], dtype=torch.int32)
    expected, _ = attend_by_table(torch.nn.Module(), query, query, query, table)
    monkeypatch.setattr(table_attention, "_by_kernel", fail)
    found, _ = attend_by_table(torch.nn.Module(), query, query, query, table)
    assert torch.equal(found, expected)


def test_no_mask_is_made_where_a_kernel_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("full")

    kernel, asked = CompiledKernel(fail, "branches attend under a mask"), (torch.device("cuda", 0), torch.float32, 64)
    for found, expected in ((kernel, True), (None, False)):
        monkeypatch.setattr(table_attention, "_tried_kernel", lambda *_, found=found: found)
        assert needs_no_mask(*asked) is expected
        assert not needs_no_mask(torch.device("cpu"), *asked[1:])
    monkeypatch.setattr(table_attention, "_tried_kernel", full)
    assert not needs_no_mask(*asked), "not tried yet"
    monkeypatch.setattr(table_attention, "_tried_kernel", lambda *_: kernel)
    with pytest.raises(KernelFailedError):
        kernel()
    assert not needs_no_mask(*asked)
    kernel.works = True
    assert needs_no_mask(*asked)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", lambda *_: None)
    assert not needs_no_mask(*asked), "a host has its own"


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


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_kernels_compile_for_gpus_that_are_not_here(dtype: str) -> None:
    """Down to the machine code of an H100: what its compiler refuses would be found on a GPU alone."""
    pytest.importorskip("triton", reason="needs Triton")
    done = run("compiled_kernels.py", dtype, interpret="0")
    assert done.stdout.endswith("compiled\n"), done.stderr
