"""What a live model, a tokenizer and a sink can do to a guard: numbers that are none, repetition, errors at calls."""

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
from reasoning_guard.alerts import Alert
from reasoning_guard.announce import tell
from reasoning_guard.errors import ReasoningGuardWarning
from reasoning_guard.evaluation import Evaluation, Row
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


class Breaks:
    """Counts calls, and is broken at one of them."""

    def __init__(self) -> None:
        self.calls, self.at = 0, -1

    def call(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise RuntimeError("broken on purpose")


ASKED = ("__call__", "decode", "apply_chat_template", "convert_tokens_to_ids", "convert_ids_to_tokens")


def _breakable_tokenizer() -> tuple[Any, Breaks]:
    tokenizer, breaks = runs.tokenizer(), Breaks()
    kind: Any = type(tokenizer)

    def telling(name: str) -> Callable[..., Any]:
        def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
            breaks.call()
            return getattr(kind, name)(self, *args, **kwargs)

        return ask

    def backend(self: Any) -> Any:
        breaks.call()
        return kind.backend_tokenizer.fget(self)

    tokenizer.__class__ = type(
        "Breakable", (kind,), {name: telling(name) for name in ASKED} | {"backend_tokenizer": property(backend)}
    )
    return tokenizer, breaks


def _with_tokenizer(tokenizer: Any, model: Any, **options: Any) -> Guard:
    settings = {"format": runs.FORMAT, "max_new_tokens": 40, "progress": False, "reference": None, **options}
    guard = Guard(runs.problems(2), tokenizer, **settings)
    guard.prepare(model)
    guard.begin(0)
    return guard


def _lost_for_a_reason(evaluation: Evaluation) -> bool:
    """Whether the error cost values of some trace, and these are NaN and say why."""
    costs = [(row, name) for row in evaluation.rows for name, why in row.reasons.items() if "broken on purpose" in why]
    assert all(math.isnan(row.values[name]) for row, name in costs)
    return bool(costs)


def _outcome(evaluation: Evaluation, expected: tuple[Row, ...], logged: str) -> str:
    if evaluation.failure is not None:
        assert "broken on purpose" in evaluation.failure
        assert evaluation.rows == ()
        return "failed"
    if _lost_for_a_reason(evaluation):
        return "reasons"
    assert evaluation.rows == expected
    assert "broken on purpose" in logged
    return "logged"


@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_an_error_at_any_call_of_the_tokenizer_is_told(stride: int, caplog: pytest.LogCaptureFixture) -> None:
    """It fails the evaluation, or costs a probe its values on a trace, or is logged where all has been measured.

    Neighbours serve the same purpose, so every fifth call stands for all where time is short.
    """
    (tokenizer, breaks), model = _breakable_tokenizer(), runs.writer()
    guard, outcomes = _with_tokenizer(tokenizer, model), set[str]()
    before = breaks.calls
    expected = guard.evaluate(model, 0).rows
    made = breaks.calls - before
    assert made > 100
    for at in range(0, made, stride):
        guard = _with_tokenizer(tokenizer, model)
        caplog.clear()
        breaks.calls, breaks.at = 0, at
        evaluation = guard.evaluate(model, 0)
        breaks.at = -1
        outcomes.add(_outcome(evaluation, expected, caplog.text))
        assert guard.evaluate(model, 1).rows == expected, at
    assert outcomes == {"failed", "reasons", "logged"}


@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
def test_an_error_at_a_call_of_the_tokenizer_can_be_raised() -> None:
    """Whatever happens outside of a probe; a probe's own mistake costs its values there too."""
    (tokenizer, breaks), model = _breakable_tokenizer(), runs.writer()
    guard, raised = _with_tokenizer(tokenizer, model), 0
    before = breaks.calls
    guard.evaluate(model, 0)
    made = breaks.calls - before
    assert made > 100
    for at in range(0, made, made // 10):
        guard = _with_tokenizer(tokenizer, model, on_error="raise")
        breaks.calls, breaks.at = 0, at
        try:
            assert _lost_for_a_reason(guard.evaluate(model, 0)), at
        except RuntimeError as error:
            if "broken on purpose" not in str(error):
                raise
            raised += 1
        breaks.at = -1
    assert raised > 2


class Listener:
    """A sink, broken at one kind of message or at none."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.heard = broken, list[tuple[str, int]]()

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        self._hear("evaluation", current.step)

    def alert(self, alert: Alert) -> None:
        self._hear("alert", alert.step)

    def _hear(self, what: str, step: int) -> None:
        if what == self.broken:
            raise RuntimeError("broken on purpose")
        self.heard.append((what, step))


@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
@pytest.mark.parametrize("broken", ["evaluation", "alert"])
def test_a_broken_sink_takes_nothing_from_the_others(broken: str, tmp_path: Path) -> None:
    guard, model = _guard(tmp_path, reference=None, rules=[runs.FromStep()], patience=1), runs.writer()
    guard.sinks = [Listener(broken), sound := Listener()]
    guard.begin(0)
    for step in range(3):
        assert guard.evaluate(model, step).failure is None
    assert sorted(sound.heard) == [("alert", 1), ("evaluation", 0), ("evaluation", 1), ("evaluation", 2)]
    assert len(guard.sinks[0].heard) == (1 if broken == "evaluation" else 3)
    assert [e.step for e in History(tmp_path).load()] == [0, 1, 2]


def test_a_broken_sink_is_named_once_by_each_guard_whatever_stood_at_its_address() -> None:
    class Speaker:
        pass

    made, sink = Evaluation(step=0), Listener("evaluation")
    for speaker in (Speaker(), Speaker()):
        with pytest.warns(ReasoningGuardWarning) as said:
            _ = [tell(made, made, (), [sink], None, "record", speaker=speaker) for _ in range(2)]
        assert [str(each.message) for each in said] == ["Listener.evaluation failed and is skipped: broken on purpose"]


@pytest.mark.parametrize(("broken", "at"), [("evaluation", 0), ("alert", 1)])
def test_an_error_of_a_sink_can_be_raised_and_the_record_stands(broken: str, at: int, tmp_path: Path) -> None:
    guard = _guard(tmp_path, reference=None, rules=[runs.FromStep()], patience=1, on_error="raise")
    guard.sinks, model = [Listener(broken)], runs.writer()
    guard.begin(0)
    for step in range(at):
        guard.evaluate(model, step)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        guard.evaluate(model, at)
    assert [e.step for e in History(tmp_path).load()] == list(range(at + 1))
