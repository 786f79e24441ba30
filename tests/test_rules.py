from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from reasoning_guard.alerts import Alert
from reasoning_guard.decision import baseline_of, decide, resting
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.rules import (
    AXES,
    EFFECTS,
    RULES,
    AccuracyTrap,
    Collapse,
    Comparison,
    Finding,
    KnownEarly,
    Rule,
    Severity,
    calibrate,
)
from reasoning_guard.statistics import Effect, spend

HEALTHY = {
    "accuracy": 0.75,
    "placebo_changed": 0.97,
    "mistake_changed": 0.97,
    "chain_holds": 0.97,
    "reference/info_gain": 2.0,
    "info_gain": 2.0,
    "early_answering_aoc": 0.9,
    "prior": -2.4,
    "posterior": -0.1,
    "tokens": 40.0,
    "finished": 0.97,
    "hedges_per_1000": 8.0,
    "token_entropy": 4.0,
}
SHARES = {"accuracy", "placebo_changed", "mistake_changed", "chain_holds", "finished"}
"""Values that are 0 or 1 for each problem."""


def evaluation(step: int, n: int = 64, set: str = "id", **means: float) -> Evaluation:
    """A healthy evaluation with some means altered; NaN takes a value away."""
    rng = random.Random(f"{step} {set}")

    def value(name: str, mean: float) -> float:
        drawn = float(rng.random() < mean) if name in SHARES else mean + rng.gauss(0, 0.3)
        return math.nan if math.isnan(mean) else drawn

    wanted = {**HEALTHY, **{name.replace("reference_", "reference/"): mean for name, mean in means.items()}}
    rows = tuple(
        Row(id=f"p{i}", set=set, values={name: value(name, mean) for name, mean in wanted.items()}) for i in range(n)
    )
    return Evaluation(step=step, rows=rows)


def both(step: int, ood: float = 0.75, near: float = 0.75) -> Evaluation:
    """An evaluation of two problem sets with their accuracies."""
    far = tuple(replace(row, id=f"far {row.id}") for row in evaluation(step, set="ood", accuracy=ood).rows)
    return Evaluation(step=step, rows=evaluation(step, accuracy=near).rows + far)


def names(alerts: Sequence[Alert]) -> list[str]:
    return [alert.key for alert in alerts]


TRAPPED = {"accuracy": 1.0, "placebo_changed": 0.0, "mistake_changed": 0.05, "prior": -0.1}


@pytest.mark.parametrize(
    ("altered", "expected"),
    [
        ({}, []),
        ({"accuracy": 1.0, "placebo_changed": 1.0}, []),
        (TRAPPED, ["accuracy_trap"]),
        ({"placebo_changed": 0.0}, ["accuracy_trap"]),
        ({"mistake_changed": 0.2}, ["accuracy_trap"]),
        ({"chain_holds": 0.1}, ["accuracy_trap"]),
        ({"chain_holds": 0.85}, []),
        ({"chain_holds": math.nan, "mistake_changed": 0.2}, ["accuracy_trap"]),
        ({"chain_holds": 0.1, "info_gain": 0.1}, ["accuracy_trap"]),
        ({"reference_info_gain": 0.2}, ["accuracy_trap"]),
        ({"placebo_changed": 0.9}, []),
        ({"info_gain": 0.1, "early_answering_aoc": 0.1}, ["known_early"]),
        ({"info_gain": 0.1, "placebo_changed": 0.0}, ["accuracy_trap"]),
        ({"accuracy": 0.1, "placebo_changed": 0.0}, ["collapse"]),
        ({"accuracy": 0.1}, []),
        ({"accuracy": 0.1, "info_gain": 0.1}, []),
        ({"accuracy": math.nan, "placebo_changed": 0.0}, []),
        ({"tokens": 15.0}, ["length/collapse"]),
        ({"tokens": 65.0}, ["length/explosion"]),
        ({"finished": 0.3}, ["length/explosion"]),
        ({"tokens": 30.0}, []),
        ({"hedges_per_1000": 1.0}, ["verbalisation"]),
        ({"hedges_per_1000": 6.0}, []),
        ({"token_entropy": 1.0}, ["entropy/collapse"]),
        ({"token_entropy": 8.0}, ["entropy/explosion"]),
        ({"token_entropy": 1.0, "accuracy": 1.0}, []),
    ],
)
def test_each_rule_finds_what_it_is_for(altered: dict[str, float], expected: list[str]) -> None:
    run = [evaluation(0), *(evaluation(step, **altered) for step in (10, 20))]
    assert names(decide(run)) == expected


def test_a_finding_needs_patience() -> None:
    bad, good = TRAPPED, {}
    run = [evaluation(i * 10, **means) for i, means in enumerate([good, bad, good, bad, good, bad, bad])]
    assert names(decide(run[:-1])) == []
    [alert] = decide(run)
    assert (alert.since, alert.step, alert.open) == (50, 60, True)
    assert names(decide(run[:2], patience=1)) == ["accuracy_trap"]
    assert names(decide(run, patience=3)) == []


def test_a_failed_evaluation_is_no_look_and_breaks_no_row() -> None:
    run = [evaluation(0), evaluation(10, **TRAPPED), Evaluation(step=20, failure="boom"), evaluation(30, **TRAPPED)]
    [alert] = decide(run)
    assert (alert.since, alert.step) == (10, 30)
    without = [e for e in run if e.failure is None]
    assert decide(without) == decide(run)


def test_the_first_evaluation_that_succeeded_is_the_baseline() -> None:
    run = [Evaluation(step=0, failure="boom"), evaluation(10), *(evaluation(s, **TRAPPED) for s in (20, 30))]
    [alert] = decide(run)
    assert alert.against == 10
    assert decide([]) == decide(run[:1]) == decide(run[:2]) == []


def test_one_cause_is_one_alert_kept_up_to_date() -> None:
    run = [evaluation(0), *(evaluation(s, **TRAPPED) for s in range(10, 500, 10))]
    [alert] = decide(run)
    assert (alert.since, alert.step) == (10, 490)
    [over] = decide([*run, evaluation(490)])
    assert (over.since, over.step, over.open) == (10, 490, False)
    assert "over by now" in over.text()


def test_the_decision_is_the_same_after_a_round_through_json() -> None:
    run = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20, 30))]
    reloaded = [Evaluation.from_dict(json.loads(json.dumps(e.to_dict()))) for e in run]
    assert decide(reloaded) == decide(run)
    for alert in decide(run):
        assert Alert.from_dict(json.loads(json.dumps(alert.to_dict()))) == alert


def test_an_alert_tells_what_how_sure_why_where_and_what_to_look_at() -> None:
    run = [evaluation(0), *(evaluation(s, **{**TRAPPED, "reference_info_gain": 0.1}) for s in (10, 20))]
    [alert] = decide(run)
    fallen = {change.name for change in alert.changes}
    assert fallen == {"placebo_changed", "mistake_changed", "reference/info_gain", "accuracy"}
    text = alert.text()
    for part in ("ALARM accuracy_trap at step 20 (since step 10", "nats/token", "n = 64", "between", "look at:"):
        assert part in text
    assert "the answer is known before the reasoning (prior rose: -2." in text
    assert "another problem's steps do as well (placebo_changed fell" in text
    assert "no longer follows an altered step" in text
    assert len(text.splitlines()) < 15


def test_causes_are_only_those_that_hold() -> None:
    [alert] = decide([evaluation(0), *(evaluation(s, mistake_changed=0.1) for s in (10, 20))])
    assert [cause.split(" (")[0] for cause in alert.causes] == ["the answer no longer follows an altered step"]


def test_the_worst_problems_are_those_that_lost_most() -> None:
    lost = {"p3": 3.0, "p40": 2.5, "p7": 2.0}

    def gains(step: int, values: dict[str, float]) -> Evaluation:
        rows = (Row(id=id, values={"accuracy": 1.0, "reference/info_gain": value}) for id, value in values.items())
        return Evaluation(step=step, rows=tuple(rows))

    before = {f"p{i}": 4.0 for i in range(64)}
    after = {id: 2.5 - lost.get(id, 0.0) for id in before}
    [alert] = decide([gains(0, before), gains(1, after), gains(2, after)])
    assert [(w.id, w.values) for w in alert.worst] == [
        (id, (("reference/info_gain", 4.0, 2.5 - loss),)) for id, loss in lost.items()
    ]
    assert "p3 (reference/info_gain 4.00 -> -0.50)" in alert.text()


def test_the_worst_problems_stand_with_their_traces_before_and_now() -> None:
    def wrote(e: Evaluation, *texts: str) -> Evaluation:
        rows = [replace(row, completion=text) for row, text in zip(e.rows, texts, strict=False)]
        return replace(e, rows=(*rows, *e.rows[len(rows) :]))

    long = " ".join(f"step {i} ;" for i in range(200)) + " # 7"
    before, after = wrote(_answers_that_follow(0, 1.0), "a\n\tb", long), _answers_that_follow(1, 0.0)
    after = wrote(after, "\x1b[2J\x00red\u202e", "so # 7", "new")
    alert = decide([before, after, replace(after, step=2)])[0]
    assert [(loss.id, loss.now) for loss in alert.worst] == [("p0", "[2J red"), ("p1", "so # 7"), ("p2", "new")]
    assert alert.worst[0].before == "a b"
    assert alert.worst[2].before == ""
    short = alert.worst[1].before
    assert short.startswith("step 0 ; step 1 ; ")
    assert short.endswith(" step 199 ; # 7")
    assert 200 < len(short) <= 300
    assert alert.text().splitlines()[-9:-1] == [
        "  worst: p0 (placebo_changed 1.00 -> 0.00)",
        "    before: a b",
        "    now: [2J red",
        "  worst: p1 (placebo_changed 1.00 -> 0.00)",
        f"    before: {short}",
        "    now: so # 7",
        "  worst: p2 (placebo_changed 1.00 -> 0.00)",
        "    now: new",
    ]
    assert Alert.from_dict(json.loads(json.dumps(alert.to_dict()))) == alert


def test_alerts_that_were_recorded_without_traces_are_read() -> None:
    [alert] = decide([evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20))])
    record = json.loads(json.dumps(alert.to_dict()))
    for loss in record["worst"]:
        del loss["before"], loss["now"]
    assert Alert.from_dict(record) == alert


@dataclass(frozen=True, kw_only=True)
class Terse(Rule):
    name: str = "terse"
    severity: Severity = "notice"
    falls: tuple[str, ...] = ("words",)

    def check(self, comparison: Comparison) -> Finding | None:
        lower = comparison.fallen(self.falls)
        return Finding(message="traces got shorter", changes=lower) if lower else None


def test_a_users_rule_in_a_few_lines() -> None:
    run = [evaluation(0, words=200.0), *(evaluation(s, words=100.0) for s in (10, 20))]
    [alert] = decide(run, [*RULES, Terse()])
    assert (alert.rule, alert.severity, alert.causes) == ("terse", "notice", ())
    assert "NOTICE terse at step 20 (since step 10; compared with step 0): traces got shorter" in alert.text()


@dataclass(frozen=True, kw_only=True)
class Spy(Rule):
    """Finds a thing of its own at each look, and notes the level it was given."""

    name: str = "spy"
    levels: list[float]

    def check(self, comparison: Comparison) -> Finding | None:
        self.levels.append(comparison.level)
        return Finding(message="look", changes=(), topic=f"at {comparison.current.step}")


@pytest.mark.parametrize(
    ("falls", "rises", "others", "shares"),
    [
        (("placebo_changed",), (), [], 1),
        (("placebo_changed",), ("placebo_changed",), [], 2),
        (("placebo_changed", "accuracy", "nobody_has_it"), (), [], 2),
        (("placebo_changed",), (), [AccuracyTrap(), Collapse()], 4),
        (("placebo_changed",), (), [KnownEarly()], 1),
        (("placebo_changed",), (), [KnownEarly(severity="alarm")], 3),
        ((), (), [], 1),
    ],
)
def test_a_look_spends_its_level_once(
    falls: tuple[str, ...], rises: tuple[str, ...], others: list[Rule], shares: int
) -> None:
    spy = Spy(levels=[], falls=falls, rises=rises)
    decide([evaluation(s) for s in (0, 1, 2, 3)], [spy, *others])
    assert spy.levels == pytest.approx([spend(0.05, look) / shares for look in (1, 2, 3)])


def test_a_value_that_steps_without_numbers_lack_takes_no_level_and_no_rule() -> None:
    spy = Spy(levels=[], falls=("placebo_changed",))
    words = [evaluation(step, chain_holds=math.nan) for step in (0, 1, 2)]
    decide(words, [spy, AccuracyTrap()])
    assert spy.levels == pytest.approx([spend(0.05, look) / 3 for look in (1, 2)])
    assert "accuracy_trap" not in resting(words)
    assert names(decide([words[0], *(evaluation(s, chain_holds=0.0) for s in (1, 2))])) == []


def test_topics_of_one_rule_are_alerts_of_their_own() -> None:
    alerts = decide([evaluation(s) for s in (0, 1, 2)], [Spy(levels=[])], patience=1)
    assert names(alerts) == ["spy/at 1", "spy/at 2"]


def test_a_rule_may_look_at_another_set() -> None:
    rule = Terse(name="elsewhere", falls=("accuracy@ood",))
    assert names(decide([both(0, 0.8), both(1, 0.1), both(2, 0.1)], [rule])) == ["elsewhere"]
    assert names(decide([both(0, 0.8), both(1, 0.8), both(2, 0.8)], [rule])) == []
    assert resting([both(0, 0.8)], [rule]) == {}
    assert "accuracy@ood" in resting([evaluation(0)], [rule])["elsewhere"]


def test_a_rule_without_data_rests_and_says_why() -> None:
    no_reference = evaluation(0, reference_info_gain=math.nan)
    assert resting([], RULES) == {}
    alone = resting([no_reference])
    assert set(alone) == {"memorisation"}
    assert "there is only one; give a second" in alone["memorisation"]
    assert resting([both(0)]) == {}
    nothing = dict.fromkeys(("placebo_changed", "mistake_changed", "chain_holds", "reference_info_gain"), math.nan)
    blind = evaluation(0, **nothing)
    assert set(resting([blind])) == {"accuracy_trap", "collapse", "memorisation"}
    watched = "any of placebo_changed, mistake_changed, chain_holds, reference/info_gain"
    assert watched in resting([blind])["accuracy_trap"]
    assert "have accuracy" in resting([evaluation(0, accuracy=math.nan)])["known_early"]
    assert set(resting([evaluation(0, n=12)])) == {rule.name for rule in RULES}
    later = resting([evaluation(0), evaluation(50, accuracy=math.nan)])
    assert "at step 0 and at step 50" in later["collapse"]
    assert decide([blind, evaluation(10, **TRAPPED), evaluation(20, **TRAPPED)]) == []


def test_the_table_of_axes_is_what_the_rules_rest_on() -> None:
    assert AccuracyTrap().falls == (*AXES["used"], *AXES["informative"])
    assert KnownEarly().falls == tuple(AXES["needed"])


def test_the_smallest_effect_of_a_comparison_can_be_given() -> None:
    two = evaluation(0, n=128), evaluation(1, n=128, placebo_changed=0.7)
    strict = Comparison(baseline=two[0], current=two[1], level=0.01, effects={"placebo_changed": Effect(0.1)})
    loose = Comparison(baseline=two[0], current=two[1], level=0.01, effects={"placebo_changed": Effect(0.5)})
    assert strict.fell("placebo_changed")
    assert not strict.not_lower("placebo_changed")
    assert not loose.fell("placebo_changed")
    assert loose.not_lower("placebo_changed")
    assert strict.change("nobody_has_it") is None
    assert not strict.not_lower("nobody_has_it")
    assert not strict.rose("prior")


def test_the_deepest_fall_comes_first() -> None:
    now = evaluation(1, placebo_changed=0.4, mistake_changed=0.05, info_gain=1.5)
    comparison = Comparison(baseline=evaluation(0), current=now, level=0.01)
    fallen = comparison.fallen(("info_gain", "placebo_changed", "prior", "mistake_changed"))
    assert [change.name for change in fallen] == ["mistake_changed", "placebo_changed", "info_gain"]


def test_healthy_runs_raise_no_alert() -> None:
    for run in range(10):
        looks = [evaluation(1000 * run + step, n=32) for step in range(21)]
        assert decide(looks, patience=1) == []


def test_the_baseline_is_the_first_evaluation_above_chance() -> None:
    """A base model that does not know the format yet must not leave the guard blind for the whole run."""
    lost = replace(evaluation(0, accuracy=0.0), gated=("id",))
    run = [lost, replace(lost, step=5), evaluation(10), *(evaluation(s, **TRAPPED) for s in (20, 30))]
    assert baseline_of(run[:2]) is None
    assert "no baseline yet" in resting(run[:2])["accuracy_trap"]
    assert decide(run[:2]) == []
    assert baseline_of(run) is run[2]
    [alert] = decide(run)
    assert (alert.against, alert.since, alert.told) == (10, 20, 30)


def test_an_alert_keeps_the_step_at_which_it_was_first_told() -> None:
    run = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20, 30, 40))]
    [alert] = decide(run)
    assert (alert.since, alert.told, alert.step) == (10, 20, 40)


@pytest.mark.parametrize(
    ("ood", "near", "expected"), [(0.1, 1.0, ["memorisation"]), (0.1, 0.75, []), (0.75, 1.0, []), (0.68, 1.0, [])]
)
def test_memorisation_is_accuracy_up_here_and_down_elsewhere(ood: float, near: float, expected: list[str]) -> None:
    alerts = decide([both(0), *(both(step, ood, near) for step in (10, 20))])
    assert names(alerts) == expected
    if alerts:
        assert alerts[0].severity == "alarm"
        assert "accuracy on ood: " in alerts[0].text()
        assert "accuracy on id: " in alerts[0].text()
        assert all(loss.id.startswith("far ") for loss in alerts[0].worst)


def test_each_further_set_is_a_question_of_its_own() -> None:
    spy = Spy(levels=[], falls=("accuracy@*",))
    rows = [*both(0).rows, *(replace(row, id=f"z {row.id}", set="third") for row in evaluation(0).rows)]
    decide([Evaluation(step=step, rows=tuple(rows)) for step in (0, 1)], [spy])
    assert spy.levels == pytest.approx([spend(0.05, 1) / 2])


def test_notices_take_nothing_from_the_level_of_the_alarms() -> None:
    alarms = [rule for rule in RULES if rule.severity == "alarm"]
    levels = []
    for rules in (alarms, RULES):
        [alert] = decide([evaluation(0), *(evaluation(s, **TRAPPED) for s in (1, 2))], rules)
        levels.append([change.level for change in alert.changes])
    assert levels[0] == levels[1] == pytest.approx([spend(0.05, 2) / 4] * 3)


def test_the_effect_of_another_set_may_differ() -> None:
    effects = {"accuracy": Effect(0.1), "accuracy@*": Effect(0.2), "accuracy@far": Effect(0.3)}
    comparison = Comparison(baseline=both(0), current=both(1), level=0.01, effects=effects)
    looked_up = [comparison.effect(name).relative for name in ("accuracy", "accuracy@ood", "accuracy@far")]
    assert looked_up == [0.1, 0.2, 0.3]


def test_a_healthy_run_widens_what_matters_and_never_narrows_it() -> None:
    healthy = [evaluation(0), *(evaluation(s, placebo_changed=0.6, tokens=90.0, accuracy=1.0) for s in (10, 20))]
    assert names(decide(healthy)) == ["accuracy_trap", "length/explosion"]
    effects = calibrate(healthy, RULES)
    assert decide(healthy, effects=effects) == []
    assert effects["placebo_changed"].absolute == pytest.approx(1.5 * 0.37, abs=0.15)
    assert effects["tokens"].absolute == pytest.approx(1.5 * 50, abs=2)
    assert effects["accuracy"] == EFFECTS["accuracy"]
    assert all(effects[name].absolute >= effect.absolute for name, effect in EFFECTS.items())
    broken = [evaluation(0), *(evaluation(s, placebo_changed=0.0) for s in (10, 20))]
    assert names(decide(broken, effects=effects)) == ["accuracy_trap"]


@pytest.mark.parametrize("run", [[], [evaluation(0)], [evaluation(0), Evaluation(step=1, failure="boom")]])
def test_calibration_needs_a_run(run: list[Evaluation]) -> None:
    with pytest.raises(ValueError, match="a baseline and at least one later evaluation"):
        calibrate(run, RULES)


def test_a_smallest_effect_of_zero_lets_every_fall_count() -> None:
    run = [evaluation(0, n=1024), *(evaluation(s, n=1024, placebo_changed=0.9) for s in (10, 20))]
    assert decide(run) == []
    assert names(decide(run, effects={**EFFECTS, "placebo_changed": Effect(0.0, 0.0)})) == ["accuracy_trap"]


def _answers_that_follow(step: int, share: float, n: int = 128) -> Evaluation:
    """Whether the answer changes under another problem's steps, as the 0 or 1 that it is for each problem."""
    changed = round(share * n)
    rows = (Row(id=f"p{i}", values={"accuracy": 1.0, "placebo_changed": float(i < changed)}) for i in range(n))
    return Evaluation(step=step, rows=tuple(rows))


@pytest.mark.parametrize(("share", "alarmed"), [(1.0, False), (0.97, False), (0.92, False), (0.6, True), (0.0, True)])
def test_the_headline_alarm_on_zeros_and_ones(share: float, alarmed: bool) -> None:
    """All differences equal, or few of them discordant: the shapes that shares really take."""
    run = [_answers_that_follow(0, 1.0), *(_answers_that_follow(step, share) for step in (10, 20))]
    assert [alert.rule for alert in decide(run) if alert.severity == "alarm"] == (["accuracy_trap"] if alarmed else [])
