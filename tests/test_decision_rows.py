"""How long something has held: over rules that see the same fall, over looks that cannot tell, down to chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from reasoning_guard.decision import can_judge, decide, resting
from reasoning_guard.errors import ConfigurationError, ReasoningGuardWarning
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.rules import RULES, Comparison, Finding, Rule, Severity, calibrate
from reasoning_guard.statistics import Effect
from rule_cases import TRAPPED, answers_that_follow, both, evaluation, names

UNREAD = {"placebo_changed": math.nan, "mistake_changed": math.nan, "chain_holds": math.nan}
FALLEN = {**TRAPPED, "accuracy": 0.1}


def at_chance(step: int, accuracy: float = 0.0, **means: float) -> Evaluation:
    return replace(evaluation(step, accuracy=accuracy, **{**UNREAD, **means}), gated=("id",))


def test_one_fall_is_one_row_whether_accuracy_is_lower_beside_it_or_not() -> None:
    run = [evaluation(0), *(evaluation(s, **FALLEN) for s in (10, 20)), evaluation(30, **TRAPPED)]
    collapse, trap = decide(run)
    assert (collapse.rule, collapse.open, collapse.since, collapse.step) == ("collapse", False, 10, 20)
    assert (trap.rule, trap.open, trap.since, trap.told) == ("accuracy_trap", True, 10, 30)
    back = decide([*run, evaluation(40, **FALLEN)])
    assert [(alert.rule, alert.open, alert.since) for alert in back] == [
        ("collapse", True, 10),
        ("accuracy_trap", False, 10),
    ]
    well = decide([*run, evaluation(40)])
    assert not any(alert.open for alert in well)


@pytest.mark.parametrize(
    ("followed", "told"),
    [
        (64, ["known_early: the answer is known before the reasoning is complete; the reasoning is still used"]),
        (54, []),  # lower by more than a tenth, and not surely
        (49, ["accuracy_trap: the reasoning stops carrying the answers, and accuracy does not show it"]),
    ],
)
def test_no_notice_says_that_the_text_is_used_where_an_alarm_says_that_it_is_not(
    followed: int, told: list[str]
) -> None:
    """Notices have another level than alarms, so what is just sure for the one need not be for the other."""
    beside = {"tokens": 40.0, "finished": 1.0, "hedges_per_1000": 8.0, "token_entropy": 4.0, "early_answering_aoc": 0.9}

    def look(step: int, share: float, gain: float) -> Evaluation:
        found = answers_that_follow(step, share, n=64)
        values = ({**row.values, **beside, "info_gain": gain} for row in found.rows)
        return replace(found, rows=tuple(replace(r, values=v) for r, v in zip(found.rows, values, strict=True)))

    alerts = decide([look(0, 1.0, 2.0), *(look(step, followed / 64, 0.1) for step in (10, 20))])
    assert [f"{alert.rule}: {alert.message}" for alert in alerts] == told


def test_a_notice_of_knowing_early_says_only_what_was_measured() -> None:
    alone = {**UNREAD, "reference_info_gain": math.nan}
    [alert] = decide([evaluation(0, **alone), *(evaluation(s, info_gain=0.1, **alone) for s in (10, 20))])
    assert alert.message == "the answer is known before the reasoning is complete"
    [alert] = decide([evaluation(0), *(evaluation(s, info_gain=0.1) for s in (10, 20))])
    assert alert.message.endswith("; the reasoning is still sound and used")


@pytest.mark.parametrize(
    ("right", "values", "said"),
    [
        (48, {"placebo_changed": 0.2}, "accuracy does not show it"),
        (42, {"placebo_changed": 0.2}, "accuracy may have fallen with it"),
        (48, {"token_entropy": 1.0}, "entropy has collapsed and accuracy is not higher for it"),
        (52, {"token_entropy": 1.0}, "entropy has collapsed and accuracy is not surely higher for it"),
    ],
)
def test_what_is_not_sure_is_not_told_as_if_it_were_not_so(right: int, values: dict[str, float], said: str) -> None:
    """Of accuracy, 64 problems make a move of 4 in 48 anything but sure. It is no proof that nothing moved either."""

    def look(step: int, right: int, **means: float) -> Evaluation:
        found = evaluation(step, **means)
        graded = ({**row.values, "accuracy": float(i < right)} for i, row in enumerate(found.rows))
        return replace(found, rows=tuple(replace(r, values=v) for r, v in zip(found.rows, graded, strict=True)))

    [alert] = decide([look(0, 48), *(look(step, right, **values) for step in (10, 20))])
    assert alert.message.endswith(said)


def test_rules_that_take_turns_are_told_in_time() -> None:
    run = [evaluation(0), *(evaluation(10 * i, **(FALLEN if i % 2 else TRAPPED)) for i in range(1, 5))]
    assert [(a.rule, a.told, a.since) for a in decide(run[:3])] == [("accuracy_trap", 20, 10)]
    assert [(a.rule, a.open) for a in decide(run)] == [("accuracy_trap", True), ("collapse", False)]
    assert decide(run[:2]) == []


def test_falls_of_different_values_are_rows_of_their_own() -> None:
    only = {"placebo_changed": 0.0}, {"mistake_changed": 0.0, "accuracy": 0.1}
    assert decide([evaluation(0), evaluation(10, **only[0]), evaluation(20, **only[1])]) == []
    run = [both(0), both(10, 0.1, 1.0), replace(both(20), rows=(*evaluation(20, **TRAPPED).rows, *both(20).rows[128:]))]
    assert decide(run) == []


def test_a_rise_and_a_fall_of_one_value_are_two_rows() -> None:
    for name, values in (("tokens", (500.0, 10.0)), ("token_entropy", (9.0, 0.5))):
        for one, other in (values, values[::-1]):
            assert decide([evaluation(0), evaluation(10, **{name: one}), evaluation(20, **{name: other})]) == []


def test_an_alert_that_is_over_keeps_no_later_row_alive() -> None:
    unread = {**UNREAD, "info_gain": math.nan, "reference_info_gain": math.nan}
    looks = [TRAPPED, TRAPPED, {}, TRAPPED, unread, TRAPPED]
    [alert] = decide([evaluation(0), *(evaluation(10 * i, **means) for i, means in enumerate(looks, 1))])
    assert (alert.open, alert.step) == (False, 20)


def test_accuracy_that_is_missing_is_no_recovery_either() -> None:
    blind = evaluation(30, **{**TRAPPED, "accuracy": math.nan})
    [alert] = decide([evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20)), blind])
    assert (alert.rule, alert.open, alert.step) == ("accuracy_trap", True, 20)


def test_without_values_of_the_used_axis_chance_has_no_level_to_take() -> None:
    run = [evaluation(0, **UNREAD), *(at_chance(s) for s in (10, 20))]
    assert decide(run) == []


def test_too_few_values_of_the_used_axis_are_none() -> None:
    def begun(n: int) -> Evaluation:
        rows = [replace(r, values={**r.values, **(UNREAD if i >= n else {})}) for i, r in enumerate(evaluation(0).rows)]
        return Evaluation(step=0, rows=tuple(rows))

    looks = [at_chance(s, reference_info_gain=math.nan) for s in (10, 20)]
    assert decide([begun(15), *looks]) == []
    assert names(decide([begun(16), *looks])) == ["collapse"]


def test_a_look_that_cannot_tell_ends_nothing() -> None:
    trapped = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20))]
    unread = [evaluation(30, **UNREAD, info_gain=math.nan, reference_info_gain=math.nan)]
    [alert] = decide([*trapped, *unread])
    assert (alert.rule, alert.open, alert.since, alert.step) == ("accuracy_trap", True, 10, 20)
    [alert] = decide([*trapped, *unread, evaluation(40, **TRAPPED)])
    assert (alert.open, alert.since, alert.step, alert.told) == (True, 10, 40, 20)
    [alert] = decide([*trapped, *unread, evaluation(40)])
    assert (alert.open, alert.step) == (False, 20)
    assert decide([*trapped[:2], *unread, evaluation(40, **TRAPPED)]) == [], "what was not told yet begins anew"


def test_one_value_that_can_be_read_and_holds_is_a_look_that_can_tell() -> None:
    trapped = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20))]
    [alert] = decide([*trapped, evaluation(30, placebo_changed=math.nan)])
    assert (alert.open, alert.step) == (False, 20)


def test_an_open_alert_rests_on_what_fell_last() -> None:
    other = evaluation(30, placebo_changed=math.nan, mistake_changed=math.nan, chain_holds=0.0)
    run = [evaluation(0), *(evaluation(s, placebo_changed=0.0) for s in (10, 20)), other]
    [alert] = decide(run)
    assert (alert.open, alert.since, alert.step) == (True, 10, 30)
    [alert] = decide([*run, evaluation(40, placebo_changed=math.nan)])
    assert (alert.open, alert.step) == (False, 30), "what fell last has recovered"


def test_accuracy_beside_a_fall_is_not_what_the_alert_rests_on() -> None:
    unread = {**UNREAD, "reference_info_gain": math.nan, "accuracy": 0.1}
    run = [evaluation(0), *(evaluation(s, **FALLEN) for s in (10, 20)), evaluation(30, **unread)]
    assert [(a.rule, a.open, a.step) for a in decide(run)] == [("collapse", True, 20)]


def test_an_alert_on_another_set_stays_while_that_set_cannot_be_read() -> None:
    run = [both(0), *(both(s, ood=0.1) for s in (10, 20)), both(30, ood=math.nan)]
    assert [(a.rule, a.open, a.step) for a in decide(run)] == [("memorisation", True, 20)]
    assert [(a.rule, a.open, a.step) for a in decide([*run, both(40)])] == [("memorisation", False, 20)]


def test_a_row_that_goes_on_with_two_is_as_long_and_as_old_as_the_older() -> None:
    trapped = (evaluation(s, placebo_changed=0.0) for s in (10, 20, 30))
    fallen = {"mistake_changed": 0.0, "accuracy": 0.1}
    partly = evaluation(40, placebo_changed=math.nan, **fallen)
    _, collapse = decide([evaluation(0), *trapped, partly, evaluation(50, placebo_changed=0.0, **fallen)], patience=3)
    assert (collapse.rule, collapse.since, collapse.told) == ("collapse", 10, 50)


@dataclass(frozen=True, kw_only=True)
class Unread(Rule):
    name: str = "unread"
    severity: Severity = "notice"
    falls: tuple[str, ...] = ("placebo_changed",)

    def check(self, comparison: Comparison) -> Finding | None:
        lower = comparison.fallen(self.falls)
        return Finding(message="not read", changes=lower) if lower else None


def test_what_a_notice_has_seen_makes_no_alarm_come_sooner() -> None:
    blind = evaluation(10, **{**TRAPPED, "accuracy": math.nan})
    run = [evaluation(0), blind, evaluation(20, **TRAPPED)]
    assert names(decide(run, [*RULES, Unread()])) == ["unread"]
    assert names(decide(run, [*RULES, Unread(severity="alarm")])) == ["accuracy_trap", "unread"]


def test_a_model_that_comes_back_from_chance_ends_the_alarm() -> None:
    [alert] = decide([evaluation(0), *(at_chance(s) for s in (10, 20)), evaluation(30)])
    assert (alert.rule, alert.open, alert.step) == ("collapse", False, 20)


def test_a_model_that_falls_to_chance_is_an_alarm_and_an_open_one_stays() -> None:
    run = [evaluation(0), *(at_chance(s) for s in (10, 20))]
    [alert] = decide(run)
    assert (alert.rule, alert.severity, alert.since) == ("collapse", "alarm", 10)
    assert "accuracy fell to chance" in alert.text()
    assert "accuracy: 0.7" in alert.text()
    trapped = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (5, 8)), *run[1:]]
    assert [(a.rule, a.open, a.since) for a in decide(trapped)] == [("accuracy_trap", True, 5), ("collapse", True, 10)]
    assert "collapse" not in resting(run)
    unread = [run[0], at_chance(10, reference_info_gain=math.nan)]
    assert "since accuracy is near chance" in resting(unread)["accuracy_trap"]
    assert "collapse" not in resting(unread)
    assert not can_judge(run)
    assert can_judge([run[0], evaluation(10)])
    assert not can_judge([run[0]])
    assert not can_judge([run[0], evaluation(10, **UNREAD, reference_info_gain=math.nan)])
    two = [both(0), both(10)]
    bare = [replace(e, rows=tuple(replace(r, values={"accuracy": r.values["accuracy"]}) for r in e.rows)) for e in two]
    assert not can_judge(bare), "accuracy says nothing about the reasoning"


def test_accuracy_that_was_low_before_has_not_fallen_to_chance() -> None:
    run = [evaluation(0, accuracy=0.07), *(at_chance(s, accuracy=0.04) for s in (10, 20))]
    assert decide(run) == []
    assert not can_judge(run)


def test_effects_are_learnt_from_the_baseline_on() -> None:
    later = [evaluation(10, tokens=60.0), evaluation(20, tokens=62.0), evaluation(30, tokens=61.0)]
    effects = calibrate([at_chance(0, tokens=500.0), *later], RULES)
    assert effects == calibrate(later, RULES)
    assert effects["tokens"].absolute < 20
    with pytest.raises(ValueError, match="at least one later evaluation"):
        calibrate([at_chance(0), at_chance(10), evaluation(20)], RULES)


@dataclass(frozen=True, kw_only=True)
class Broken(Rule):
    name: str = "broken"

    def check(self, comparison: Comparison) -> Finding | None:
        raise KeyError("x")


def test_a_rule_that_fails_is_left_out_or_raised() -> None:
    run = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20))]
    with pytest.warns(ReasoningGuardWarning, match="rule broken failed and is left out: KeyError"):
        assert names(decide(run, [*RULES, Broken()])) == ["accuracy_trap"]
    with pytest.raises(ConfigurationError, match="rule broken failed: KeyError"):
        decide(run, [*RULES, Broken()], strict=True)


@pytest.mark.parametrize("part", ["5%", math.nan, math.inf, -0.1, True, None])
def test_an_effect_is_a_size(part: object) -> None:
    for name in ("relative", "absolute"):
        with pytest.raises(ConfigurationError, match=f"`{name}` is a finite number, at least 0; got "):
            Effect(**{name: part})  # type: ignore[arg-type]
