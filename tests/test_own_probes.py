"""Probes of a user's own, and broken ones: nothing of one probe may touch another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluating import READER, Continued, Scores, ask
from memorised import FORMAT, PROBLEMS, TOKENIZER, memorised
from reasoning_guard.errors import ReasoningGuardWarning
from reasoning_guard.evaluate import write_traces
from reasoning_guard.evaluation import Row
from reasoning_guard.generation import Generator
from reasoning_guard.guard import Guard
from reasoning_guard.history import History
from reasoning_guard.probes import InfoGainProbe, Probe, ProbeContext, Reading, default_probes
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch
from runs import FromStep


class SurpriseProbe(Probe):
    """A user's own: how unlikely the last step is after the others, in nats per token."""

    names = ("surprise",)

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        if trace.n_steps < 2:
            return []
        step = trace.ids[trace.cuts[-2] : trace.cuts[-1]]
        return [Branch(trace.cuts[-2], step, (0, len(step)))]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"surprise": -scores[0].mean}) if scores else Reading().unscored(self.names, "one step")


def test_a_probe_of_ones_own() -> None:
    model = memorised()
    found = ask(model, probes=[*default_probes(), SurpriseProbe()])
    traces = write_traces(PROBLEMS, READER, Generator(model, TOKENIZER, max_new_tokens=40, progress=False))
    model.eval()
    for row, trace in zip(found.rows, traces, strict=True):
        if trace.n_steps < 2:
            assert row.reasons["surprise"] == "one step"
            continue
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([trace.ids])).logits[0].log_softmax(-1)
        places = range(trace.cuts[-2], trace.cuts[-1])
        plain = -sum(logprobs[p - 1, trace.ids[p]].item() for p in places) / len(places)
        assert row.values["surprise"] == pytest.approx(plain, abs=1e-4)


class Broken(Probe):
    """A probe with a mistake somewhere."""

    names = ("broken",)

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"broken": 1.0})


class BreaksInBranches(Broken):
    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        raise KeyError("a user's mistake")


class BreaksInPrefixes(Broken):
    def prefixes(self, trace: Trace, context: ProbeContext) -> list[tuple[int, ...]]:
        raise ZeroDivisionError


class BreaksInRead(Broken):
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        raise RuntimeError("a user's mistake")


class BreaksNowAndThen(Broken):
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"broken": 1 / (trace.n_steps - 3)})


class ReturnsNothing(Broken):
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return None  # type: ignore[return-value]


class AsksBehindTheTrunk(Broken):
    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        return [Branch(len(trace.ids) + 1, (5,), (0, 1))]


class AsksBeforeTheTrunk(Broken):
    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        return [Branch(1, (5,), (0, 1))]


def without(row: Row, name: str) -> dict[str, float]:
    return {key: value for key, value in row.values.items() if key != name}


@pytest.mark.parametrize(
    "broken",
    [
        BreaksInBranches, BreaksInPrefixes, BreaksInRead, BreaksNowAndThen, ReturnsNothing,
        AsksBehindTheTrunk, AsksBeforeTheTrunk,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
def test_a_broken_probe_costs_its_own_values_only(broken: type[Probe]) -> None:
    sound = ask(memorised(), PROBLEMS)
    found = ask(memorised(), PROBLEMS, [broken(), *default_probes()])
    assert found.failure is None
    lost = 0
    for row, other in zip(found.rows, sound.rows, strict=True):
        assert without(row, "broken") == pytest.approx(other.values, abs=1e-5, nan_ok=True)
        if math.isnan(row.values["broken"]):
            lost += 1
            assert row.reasons["broken"]
    assert lost > 0
    assert (lost < len(found.rows)) == (broken is BreaksNowAndThen)


def test_a_broken_probe_is_said_once() -> None:
    with pytest.warns(ReasoningGuardWarning, match="BreaksInRead failed: RuntimeError: a user's mistake") as said:
        ask(memorised(), PROBLEMS, [BreaksInRead()])
    assert len([w for w in said if issubclass(w.category, ReasoningGuardWarning)]) == 1


class YieldsItsBranches(SurpriseProbe):
    """Written with ``yield``, as many would."""

    names = ("yielded",)

    def branches(self, trace: Trace, context: ProbeContext) -> Iterator[Branch]:  # type: ignore[override]
        yield from super().branches(trace, context)

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        value = super().read(trace, context, scores, continued).values.get("surprise", math.nan)
        return Reading({"yielded": value}) if value == value else Reading().unscored(self.names, "one step")


def test_a_probe_may_yield_its_questions() -> None:
    """At least it must not shift the scores of the probes behind it."""
    found = ask(memorised(), PROBLEMS, [YieldsItsBranches(), SurpriseProbe(), InfoGainProbe()])
    for row, other in zip(found.rows, ask(memorised(), PROBLEMS).rows, strict=True):
        assert row.values["info_gain"] == pytest.approx(other.values["info_gain"], abs=1e-5)
        assert row.values["yielded"] == pytest.approx(row.values["surprise"], abs=1e-6, nan_ok=True)


NUMBERS = (np.float32(0.5), np.int64(2), np.bool_(True), True, 3, torch.tensor(0.5), torch.tensor([2]), np.array(1.5))
NO_NUMBERS = {
    "None": None, "str 'x'": "x", "complex 1j": 1j, "list [1.0]": [1.0],
    "Tensor of shape (2,)": torch.ones(2), "ndarray of shape (0,)": np.ones(0),
}  # fmt: skip


class Gives(Probe):
    """A probe that gives one value, of whatever kind."""

    names = ("given",)

    def __init__(self, value: object) -> None:
        self.value = value

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"given": self.value}, curve=(np.float32(-1.0),), same=(np.bool_(True),))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_a_number_of_any_kind_is_a_float(value: Any) -> None:
    [row] = ask(memorised(), PROBLEMS[:1], [Gives(value)]).rows
    assert type(row.values["given"]) is float
    assert row.values["given"] == float(value)
    assert "given" not in row.reasons
    assert [type(each) for each in (*row.curve, *row.same)] == [float, bool]


@pytest.mark.parametrize("came", NO_NUMBERS)
def test_what_is_no_number_is_unscored_with_what_came(came: str) -> None:
    with pytest.warns(ReasoningGuardWarning, match="Gives.read gave"):
        [row] = ask(memorised(), PROBLEMS[:1], [Gives(NO_NUMBERS[came])]).rows
    assert math.isnan(row.values["given"])
    assert row.reasons["given"] == f"Gives.read gave {came}, not one number"


@pytest.mark.parametrize("value", [np.float32(1.0), torch.tensor(1.0), None, "x"], ids=repr)
@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
def test_no_value_of_ones_own_costs_a_record_or_an_alarm(value: object, tmp_path: Path) -> None:
    guard = Guard(
        PROBLEMS[:2], TOKENIZER, format=FORMAT, probes=[Gives(value)], rules=[FromStep(step=1)], patience=1,
        reference=None, directory=tmp_path, max_new_tokens=4, progress=False,
    )  # fmt: skip
    model = memorised()
    for step in (0, 1):
        guard.evaluate(model, step)
    assert [e.step for e in History(tmp_path).load()] == [0, 1]
    assert [alert.step for alert in guard.alarms] == [1]
