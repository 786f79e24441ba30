"""An evaluation leaves nothing behind: memory is back to where it was, and no tensor of ours is alive."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch

import runs
from reasoning_guard.guard import Guard


def _guard(**options: Any) -> Guard:
    settings = {"format": runs.FORMAT, "max_new_tokens": 40, "progress": False, **options}
    return Guard(runs.problems(16), runs.tokenizer(), **settings)


def _alive() -> list[tuple[int, ...]]:
    """Shapes of all tensors that anything holds."""
    gc.collect()
    return sorted(tuple(each.shape) for each in gc.get_objects() if issubclass(type(each), torch.Tensor))


@pytest.mark.parametrize("reference", [None, "copy"])
def test_no_tensor_outlives_an_evaluation(reference: str | None) -> None:
    guard, model = _guard(reference=reference), runs.writer()
    guard.evaluate(model, 0)  # makes what is kept: the reference, the test's verdict, caches of the frameworks
    before = _alive()
    for step in (1, 2):
        assert guard.evaluate(model, step).failure is None
        assert _alive() == before


def test_no_tensor_outlives_an_evaluation_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("reasoning_guard"), "disabled", True)  # pytest keeps logged tracebacks
    monkeypatch.setattr(logging.getLogger("reasoning_guard.guard"), "disabled", True)
    guard, model = _guard(reference=None), runs.writer()
    guard.evaluate(model, 0)
    before = _alive()
    layer = model.model.layers[1]
    layer.forward, whole = lambda *_, **__: 1 / 0, layer.forward
    assert "ZeroDivisionError" in guard.evaluate(model, 1).failure
    layer.forward = whole
    assert _alive() == before


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_memory_is_back_to_where_it_was(dtype: torch.dtype) -> None:
    """In use to the byte; what the allocator keeps for itself does not grow from one evaluation to the next."""
    device = torch.device("cuda")
    guard, model = _guard(reference="copy"), runs.writer().to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train() -> None:
        model.train()
        ids = torch.randint(len(runs.WORDS), (runs.BATCH, 32), device=device)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def in_use() -> int:
        gc.collect()
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)

    train()
    guard.evaluate(model, 0)
    train()
    before, kept = in_use(), []
    for step in (1, 2, 3):
        assert guard.evaluate(model, step).failure is None
        assert in_use() == before
        kept.append(torch.cuda.memory_reserved(device))
    assert kept[2] <= kept[0]
