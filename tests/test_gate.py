"""The accuracy gate: which sets, which values, for which reason."""

from __future__ import annotations

import math

import pytest

from reasoning_guard.evaluation import Row
from reasoning_guard.gate import floors, gate, gated_sets
from reasoning_guard.probes import InfoGainProbe, MistakeProbe, PlaceboProbe
from reasoning_guard.problems import Problem

PROBES = (InfoGainProbe(), PlaceboProbe(), MistakeProbe())
VALUES = {"info_gain": 1.0, "placebo_gain": 2.0, "placebo_changed": 1.0, "reference/placebo_changed": 1.0}


def rows(right: int, wrong: int, set: str = "id") -> list[Row]:
    correct = [1.0] * right + [0.0] * wrong
    return [Row(id=f"{set}{i}", set=set, values={**VALUES, "accuracy": c}) for i, c in enumerate(correct)]


def test_the_floor_is_chance_plus_a_margin() -> None:
    problems = [
        Problem(prompt="a", answer="1"),
        Problem(prompt="b", answer="A", options=("x", "y"), set="choice"),
        Problem(prompt="c", answer="A", options=("w", "x", "y", "z"), set="choice"),
    ]
    assert floors(problems) == pytest.approx({"id": 0.05, "choice": 0.375 + 0.05})


@pytest.mark.parametrize(("right", "gated"), [(0, True), (1, True), (2, False), (40, False)])
def test_a_set_is_gated_below_its_floor(right: int, gated: bool) -> None:
    assert gated_sets(rows(right, 40 - right), {"id": 0.05}) == (("id",) if gated else ())


def test_sets_are_gated_one_by_one() -> None:
    both = [*rows(30, 10), *rows(0, 40, "ood")]
    assert gated_sets(both, {"id": 0.05, "ood": 0.05}) == ("ood",)
    found = gate(both, ("ood",), {"id": 0.05, "ood": 0.05}, PROBES)
    assert [math.isnan(row.values["placebo_changed"]) for row in found] == [False] * 40 + [True] * 40


def test_dependence_is_gated_and_information_is_not() -> None:
    [row] = gate(rows(0, 1), ("id",), {"id": 0.05}, PROBES)
    assert math.isnan(row.values["placebo_changed"])
    assert math.isnan(row.values["reference/placebo_changed"])
    assert "below 0.05, near chance" in row.reasons["placebo_changed"]
    assert (row.values["info_gain"], row.values["placebo_gain"]) == (1.0, 2.0)


def test_what_was_unscored_for_another_reason_keeps_it() -> None:
    broken = Row(
        id="a", values={"mistake_changed": math.nan}, reasons={"mistake_changed": "no step that can be altered"}
    )
    [row] = gate([broken], ("id",), {"id": 0.05}, PROBES)
    assert row.reasons["mistake_changed"] == "no step that can be altered"


def test_without_reference_answers_nothing_is_gated() -> None:
    unknown = [Row(id="a", values={"accuracy": math.nan})]
    assert gated_sets(unknown, {"id": 0.05}) == ()
