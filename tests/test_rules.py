"""What each rule finds, against what it is compared, and which level it spends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

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
from rule_cases import TRAPPED, answers_that_follow, both, evaluation, names


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
        ({"info_gain": 0.1, "reference_info_gain": 0.2}, ["accuracy_trap"]),
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


def test_a_rule_that_rests_for_want_of_answers_says_so() -> None:
    reason = {"accuracy": "the problem has no reference answer"}

    def unanswered(count: int, n: int = 24) -> str:
        rows = evaluation(0, n=n).rows
        silent = [replace(row, values={**row.values, "accuracy": math.nan}, reasons=reason) for row in rows[:count]]
        return resting([Evaluation(step=0, rows=(*silent, *rows[count:]))])["known_early"]

    said = "fewer than 16 problems have accuracy at step 0"
    assert unanswered(12) == f"{said}, since 12 of 24 have no reference answer"
    assert unanswered(24) == f"{said}, since 24 of 24 have no reference answer"
    assert unanswered(2, n=12) == said


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
    assert set(resting([evaluation(0, n=15)])) == {rule.name for rule in RULES}
    assert set(resting([evaluation(0, n=16)])) == {"memorisation"}
    assert resting([evaluation(0)], [Spy(levels=[])]) == {}, "a rule that watches no value by name lacks none"
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
    """In smallest effects: a nat of InfoGain is two and a half of them, .57 of a share that was .97 are six."""
    now = evaluation(1, placebo_changed=0.4, mistake_changed=0.05, info_gain=1.0)
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


@pytest.mark.parametrize(("ood", "near", "fires"), [(0.1, 1.0, True), (0.75, 1.0, False), (0.68, 1.0, False)])
def test_memorisation_is_accuracy_up_here_and_down_elsewhere(ood: float, near: float, fires: bool) -> None:
    alerts = decide([both(0), *(both(step, ood, near) for step in (10, 20))])
    assert names(alerts) == ["memorisation"] * fires
    if alerts:
        assert alerts[0].severity == "alarm"
        assert alerts[0].message == "accuracy rises on the first set and falls on ood"
        assert "accuracy on ood: " in alerts[0].text()
        assert "accuracy on id: " in alerts[0].text()
        assert all(loss.id.startswith("far ") for loss in alerts[0].worst)


@pytest.mark.parametrize(("before", "after"), [(0.97, 0.98), (0.8, 0.82), (0.9, 0.9), (0.9, 0.88)])
def test_accuracy_lost_elsewhere_is_told_where_the_first_set_stands_still(before: float, after: float) -> None:
    """Above .952 no rise by 5 % is possible, and below it none is needed: what is lost elsewhere is lost."""
    alerts = decide([both(0, near=before), *(both(step, ood=0.1, near=after) for step in (10, 20))])
    assert names(alerts) == ["memorisation"]
    assert alerts[0].message == "accuracy falls on ood and is not lower on the first set"


def test_accuracy_lost_on_both_sets_is_no_memorisation() -> None:
    assert decide([both(0, ood=0.9, near=0.9), *(both(step, ood=0.4, near=0.4) for step in (10, 20))]) == []


def test_a_first_set_that_is_too_small_to_show_its_fall_has_fallen_all_the_same() -> None:
    def few(step: int, near: float, far: float) -> Evaluation:
        whole = both(step, near=near, ood=far)
        first = [row for row in whole.rows if row.set != "ood"]
        return Evaluation(step=step, rows=(*first[:: len(first) // 20], *(r for r in whole.rows if r.set == "ood")))

    looks = [few(0, 0.9, 0.9), *(few(step, 0.7, 0.55) for step in (10, 20))]
    compared = Comparison(baseline=looks[0], current=looks[1], level=0.01)
    assert compared.fell("accuracy@ood")
    assert not compared.fell("accuracy")
    assert [alert.key for alert in decide(looks)] == []


def test_a_fall_elsewhere_that_chance_may_have_made_the_larger_is_no_memorisation() -> None:
    """Three of twenty are lost on the first set, a quarter elsewhere: nobody can say that it is more."""

    def look(step: int, lost: int, lost_elsewhere: int) -> Evaluation:
        def rows(name: str, n: int, wrong: int) -> tuple[Row, ...]:
            return tuple(Row(id=f"{name} {i}", set=name, values={"accuracy": float(i >= wrong)}) for i in range(n))

        return Evaluation(step=step, rows=rows("id", 20, lost) + rows("ood", 128, lost_elsewhere))

    assert decide([look(0, 0, 0), *(look(s, 3, 32) for s in (10, 20))]) == []
    assert names(decide([look(0, 0, 0), *(look(s, 3, 64) for s in (10, 20))])) == ["memorisation"]


@pytest.mark.parametrize(
    ("before", "after", "entropy", "expected"),
    [
        (0.95, 0.95, 1.0, []),
        (0.95, 0.95, 8.0, ["entropy/explosion"]),
        (0.95, 0.85, 1.0, ["entropy/collapse"]),
        (0.4, 0.85, 1.0, []),
        (0.4, 0.85, 8.0, []),
    ],
)
def test_entropy_that_falls_where_little_is_to_be_explored_or_bought_accuracy_is_no_news(
    before: float, after: float, entropy: float, expected: list[str]
) -> None:
    looks = (evaluation(s, n=256, accuracy=after, token_entropy=entropy) for s in (10, 20))
    assert names(decide([evaluation(0, n=256, accuracy=before), *looks])) == expected


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
    effects = {"accuracy": Effect(0.1), "accuracy@*": Effect(0.2), "accuracy@far": Effect(0.3), "tokens": Effect(0.4)}
    comparison = Comparison(baseline=both(0), current=both(1), level=0.01, effects=effects)
    looked_up = [comparison.effect(name).relative for name in ("accuracy", "accuracy@ood", "accuracy@far")]
    assert looked_up == [0.1, 0.2, 0.3]
    assert comparison.effect("tokens@ood") == Effect(0.4), "what is said of no set holds for all"


@pytest.mark.parametrize(
    ("name", "baseline", "smallest"),
    [
        ("accuracy", 0.8, 0.04), ("accuracy", 0.2, 0.02), ("accuracy@ood", 0.8, 0.08), ("accuracy@ood", 0.2, 0.05),
        ("placebo_changed", 0.9, 0.09), ("mistake_changed", 0.3, 0.05), ("chain_holds", 0.9, 0.18),
        ("reference/info_gain", 2.0, 0.4), ("info_gain", 0.1, 0.1), ("prior", -2.0, 0.4),
        ("early_answering_aoc", 0.9, 0.18), ("early_answering_aoc", 0.1, 0.05), ("finished", 0.9, 0.09),
        ("tokens", 100.0, 50.0), ("tokens", 10.0, 8.0), ("hedges_per_1000", 8.0, 4.0), ("hedges_per_1000", 1.9, 2.0),
        ("token_entropy", 4.0, 2.0), ("token_entropy", 0.05, 0.05), ("a value of the user's own", 5.0, 1.0),
    ],
)  # fmt: skip
def test_the_smallest_changes_that_matter_as_shipped(name: str, baseline: float, smallest: float) -> None:
    """What the shares of false alarms in docs/statistics.md were measured with."""
    shipped = Comparison(baseline=both(0), current=both(1), level=0.01).effect(name)
    assert shipped.at(baseline) == pytest.approx(smallest)


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


def test_the_largest_healthy_move_counts_wherever_in_the_run_it_was() -> None:
    looks = [evaluation(step, tokens=tokens) for step, tokens in ((0, 40.0), (10, 90.0), (20, 70.0))]
    assert calibrate(looks, RULES)["tokens"] == calibrate(looks[:2], RULES)["tokens"]


@pytest.mark.parametrize("run", [[], [evaluation(0)], [evaluation(0), Evaluation(step=1, failure="boom")]])
def test_calibration_needs_a_run(run: list[Evaluation]) -> None:
    with pytest.raises(ValueError, match="a baseline and at least one later evaluation"):
        calibrate(run, RULES)


def test_a_run_in_which_nothing_can_be_compared_shows_no_harmless_move() -> None:
    with pytest.raises(ValueError, match="at least 16 problems have at the baseline and later"):
        calibrate([evaluation(0, n=12), evaluation(10, n=12)], RULES)


def test_a_smallest_effect_of_zero_lets_every_fall_count() -> None:
    run = [evaluation(0, n=1024), *(evaluation(s, n=1024, placebo_changed=0.9) for s in (10, 20))]
    assert decide(run) == []
    assert names(decide(run, effects={**EFFECTS, "placebo_changed": Effect(0.0, 0.0)})) == ["accuracy_trap"]


@pytest.mark.parametrize(("share", "alarmed"), [(1.0, False), (0.97, False), (0.92, False), (0.6, True), (0.0, True)])
def test_the_headline_alarm_on_zeros_and_ones(share: float, alarmed: bool) -> None:
    """All differences equal, or few of them discordant: the shapes that shares really take."""
    run = [answers_that_follow(0, 1.0), *(answers_that_follow(step, share) for step in (10, 20))]
    assert [alert.rule for alert in decide(run) if alert.severity == "alarm"] == (["accuracy_trap"] if alarmed else [])
