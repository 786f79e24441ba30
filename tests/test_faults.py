"""What a live model can do to a guard: numbers that are none, endless repetition, an error at any of its calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from reasoning_guard.guard import Guard
from reasoning_guard.history import History


def _guard(folder: Path | None = None, problems: Any = None, **options: Any) -> Guard:
    problems = runs.problems(16) if problems is None else problems
    settings = {"format": runs.FORMAT, "max_new_tokens": 40, "progress": False, "directory": folder, **options}
    return Guard(problems, runs.tokenizer(), **settings)


@contextmanager
def _logits(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    handle = model.lm_head.register_forward_hook(lambda module, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _one_infinite(logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(-1, torch.tensor([5]), math.inf)


def _always_the_same(logits: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(logits).index_fill(-1, torch.tensor([7]), 30.0)


@pytest.mark.parametrize(
    "change",
    [lambda x: x * math.nan, lambda x: torch.full_like(x, math.inf), lambda x: -x.abs() * math.inf, _one_infinite],
    ids=["nan", "inf", "minus inf", "one inf"],
)
def test_logits_that_are_no_numbers_are_recorded_and_raise_no_alarm(change: Any, tmp_path: Path) -> None:
    guard, model = _guard(tmp_path), runs.writer()
    guard.begin(0)
    healthy = guard.evaluate(model, 0)
    with _logits(model, change):
        guard.evaluate(model, 1)
    after = guard.evaluate(model, 2)
    assert [e.step for e in History(tmp_path).load()] == [0, 1, 2]
    assert after is not None
    assert after.rows == healthy.rows
    assert not guard.should_stop
    for name in ("info_gain", "prior"):
        assert not any(math.isinf(row.values.get(name, 0.0)) for row in guard.evaluations[1].rows)


def test_a_model_that_only_repeats_is_read_as_such() -> None:
    guard, model = _guard(), runs.writer()
    with _logits(model, _always_the_same):
        evaluation = guard.evaluate(model, 0)
    assert evaluation.failure is None
    assert evaluation.mean("finished") == 0
    assert evaluation.mean("answered") == 0
    assert evaluation.mean("repetition") > 0.9
    assert evaluation.mean("tokens") == 40


def test_an_answer_longer_than_the_context_is_unscored_and_the_others_go_on() -> None:
    longer = {**runs.problems(1)[0], "id": "longer", "answer": " ".join(["1 2"] * 100)}
    format = replace(runs.FORMAT, answer=r"# (.*\S)")
    evaluation = _guard(problems=[*runs.problems(16), longer], format=format).evaluate(runs.writer(), 0)
    assert evaluation.failure is None
    row = evaluation.rows[-1]
    assert math.isnan(row.values["info_gain"])
    assert "context" in row.reasons["info_gain"]
    assert evaluation.unscored_fraction("info_gain") == pytest.approx(1 / 17)


def test_an_error_at_any_call_of_the_model_is_one_failed_evaluation() -> None:
    model, calls, breaks_at = runs.writer(), iter(()), None

    def maybe(*args: Any, **kwargs: Any) -> None:
        if next(calls) == breaks_at:
            raise RuntimeError("broken on purpose")

    model.model.register_forward_pre_hook(maybe)
    guard = _guard(reference=None, max_new_tokens=12)
    for step in range(2):  # the first one also tests how to score
        calls = iter(range(10**6))
        guard.evaluate(model, step)
    expected, made = guard.evaluations[-1].rows, next(calls)
    assert made > 10
    for breaks_at in range(made):
        calls = iter(range(10**6))
        guard.begin(0)
        model.train()
        failed = guard.evaluate(model, 1)
        assert "broken on purpose" in (failed.failure or ""), breaks_at
        assert all(module.training for module in model.modules())
    breaks_at = None
    assert guard.evaluate(model, 2).rows == expected
