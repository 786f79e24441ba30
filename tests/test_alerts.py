"""What an alert says, of which problems, and how it is kept up to date and read back."""

from __future__ import annotations

import json
from dataclasses import replace

from reasoning_guard.alerts import Alert
from reasoning_guard.decision import decide
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.rules import Comparison
from reasoning_guard.rules.reasoning import explain
from rule_cases import TRAPPED, answers_that_follow, evaluation


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


def test_numbers_for_people_have_no_sign_before_zero_and_no_share_moves_by_more_than_one() -> None:
    nothing = {"reference_info_gain": -0.0004, "placebo_changed": 0.02}
    [alert] = decide([evaluation(0), *(evaluation(s, **nothing) for s in (10, 20))])
    flat = replace(alert.changes[-1], baseline=-0.001, current=-0.001, difference=-0.001, lower=-0.3, upper=-0.001)
    worst = replace(alert.worst[0], values=(("info_gain", 2.0, -0.001),))
    text = replace(alert, changes=(*alert.changes, flat), worst=(worst,)).text()
    assert "-0.00" not in text
    assert "info_gain 2.00 -> 0.00" in text
    [shares] = [line for line in text.splitlines() if line.startswith("  placebo_changed: ")]
    [found] = [change for change in alert.changes if change.name == "placebo_changed"]
    assert found.lower < -1
    assert "between -1.00 and " in shares
    assert found.bounds(share=False) == (found.lower, found.upper)


def test_causes_are_only_those_that_hold() -> None:
    [alert] = decide([evaluation(0), *(evaluation(s, mistake_changed=0.1) for s in (10, 20))])
    assert [cause.split(" (")[0] for cause in alert.causes] == ["the answer no longer follows an altered step"]


def test_a_cause_is_told_when_its_value_moved_the_way_that_it_says() -> None:
    worse = {"prior": -0.1, "placebo_changed": 0.1, "mistake_changed": 0.1, "chain_holds": 0.1}
    nats = {"posterior": -2.0, "reference_posterior": -3.0, "placebo_gain": 0.5}
    good = evaluation(0, reference_posterior=-0.5, placebo_gain=6.0)
    bad = evaluation(10, **worse, **nats)
    told = " ".join(explain(Comparison(baseline=good, current=bad, level=0.01)))
    assert "(prior rose: -2" in told
    for name in ("posterior", "reference/posterior", "placebo_gain", *list(worse)[1:]):
        assert f"({name} fell: " in told
    assert explain(Comparison(baseline=bad, current=good, level=0.01)) == ()


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
    before, after = wrote(answers_that_follow(0, 1.0), "a\n\tb", long), answers_that_follow(1, 0.0)
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


def test_an_alert_keeps_the_step_at_which_it_was_first_told() -> None:
    run = [evaluation(0), *(evaluation(s, **TRAPPED) for s in (10, 20, 30, 40))]
    [alert] = decide(run)
    assert (alert.since, alert.told, alert.step) == (10, 20, 40)
