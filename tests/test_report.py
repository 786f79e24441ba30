"""The report: what it says, what it shows, and how a run is read from disk."""

from __future__ import annotations

import html
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from reasoning_guard import faithfulness
from reasoning_guard.alerts import Alert
from reasoning_guard.errors import ConfigurationError, HistoryError
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.history import History
from reasoning_guard.probes import FillerProbe, all_probes, default_probes
from reasoning_guard.report import Run, load_run, write_report
from reasoning_guard.report.charts import Dot, Frame, Line, Mark, chart, thinned
from reasoning_guard.report.measures import own_probes
from reasoning_guard.report.numbers import NOTHING
from reasoning_guard.report.pairs import MOST_PAIRS, pairs
from reasoning_guard.report.run import distinct_names
from reasoning_guard.report.series import estimate, timeline
from reasoning_guard.report.tables import table
from reasoning_guard.report.verdict import verdict
from reasoning_guard.rules import RULES
from reasoning_guard.statistics import Change, paired_change
from report_stories import HEALTHY, SHORTCUT, Arm, story


@pytest.fixture(scope="module")
def healthy() -> Run:
    return story("healthy", HEALTHY, 1.0)


@pytest.fixture(scope="module")
def shortcut() -> Run:
    return story("shortcut", SHORTCUT, 0.06)


# What it says


def test_shortcut_run_is_told_as_an_alarm(shortcut: Run) -> None:
    said = verdict(timeline(shortcut.evaluations), shortcut.alerts)
    assert said.state == "alarm"
    since = min(alert.since for alert in shortcut.alerts)
    told = rf"Accuracy rose from \.\d\d to 1\.00, and the model stopped using its reasoning: alarm since step {since}\."
    assert re.fullmatch(told, said.sentence)


def test_healthy_run_is_told_as_kept(healthy: Run) -> None:
    said = verdict(timeline(healthy.evaluations), healthy.alerts)
    assert said.state == "quiet"
    assert said.sentence.endswith("and the model still uses its reasoning: no alarm in 6 evaluations.")


def test_a_model_that_never_used_its_reasoning_is_not_praised_for_using_it() -> None:
    arm: Arm = {"accuracy": (0.7, 0.9, None), "placebo_gain": (0.0, 0.0, 0.05), "mistake_changed": (0.01, 0.01, None)}
    idle = story("idle", arm, 0.7)
    assert "still uses" not in verdict(timeline(idle.evaluations), ()).sentence


def test_nor_is_one_that_attends_to_filler_and_follows_no_altered_step() -> None:
    in_part = story("in part", HEALTHY | {"mistake_changed": (0.0, 0.0, None)}, 1.0)
    said = verdict(timeline(in_part.evaluations), ()).sentence
    assert "and the model uses its reasoning no less than before" in said


def test_a_run_that_began_at_chance_is_told_from_its_baseline_on(healthy: Run) -> None:
    first, *later = healthy.evaluations
    lost = [
        replace(
            first, gated=first.sets, rows=tuple(replace(r, values={**r.values, "accuracy": 0.0}) for r in first.rows)
        )
    ]
    moved = [replace(e, step=e.step + 1000) for e in (first, *later)]
    line, plain = timeline([*lost, *moved]), timeline(moved)
    assert line.ends("accuracy") == plain.ends("accuracy")
    assert verdict(line, ()) == verdict(plain, ())
    for chance in (lost, [*lost, replace(lost[0], step=5)]):
        said = verdict(timeline(chance), ())
        assert (said.state, said.label) == ("empty", "No verdict")
        assert "near chance so far" in said.sentence


def test_silence_for_want_of_data_is_no_praise(healthy: Run) -> None:
    few = [replace(e, rows=e.rows[:5]) for e in healthy.evaluations]
    said = verdict(timeline(few), ())
    assert (said.state, said.label) == ("empty", "Not judged")
    assert "no alarm has the data to judge the reasoning" in said.sentence


def test_evaluations_that_failed_are_not_passed_over_in_silence(healthy: Run) -> None:
    failed = [Evaluation(step=step, failure="out of memory") for step in (900, 910)]
    assert verdict(timeline(failed), ()).sentence.startswith("All evaluations so far failed (2): ")
    said = verdict(timeline([healthy.evaluations[0], *failed]), ())
    assert said.sentence.startswith("Only the baseline was evaluated, 2 more failed: ")
    said = verdict(timeline([*healthy.evaluations, *failed]), ())
    assert said.sentence.endswith("no alarm in 6 evaluations, 2 more failed.")


def test_a_folder_is_no_page(tmp_path: Path, healthy: Run) -> None:
    with pytest.raises(ConfigurationError, match="name a file in it"):
        write_report(tmp_path, [healthy])
    assert not list(tmp_path.iterdir())


def test_one_evaluation_has_nothing_to_compare(healthy: Run) -> None:
    assert "nothing to compare yet" in verdict(timeline(healthy.evaluations[:1]), ()).sentence
    assert "No evaluation was recorded" in verdict(timeline([]), ()).sentence


def change(name: str, before: float, after: float, set: str = "id") -> Change:
    found = paired_change(
        *(pair(name, value, set, step) for step, value in enumerate((before, after))), name, level=0.05
    )
    assert found is not None
    return found


def pair(name: str, value: float, set: str, step: int) -> Evaluation:
    rows = tuple(Row(id=str(i), set=set, values={name: value + 0.001 * ((i * step) % 3)}) for i in range(32))
    return Evaluation(step=step, rows=rows)


@pytest.mark.parametrize(
    ("rule", "moved", "words"),
    [
        ("accuracy_trap", [change("placebo_changed", 0.9, 0.1)], "and the model uses its reasoning less"),
        ("collapse", [], "and the reasoning fell with it"),
        (
            "memorisation",
            [change("accuracy", 0.75, 0.1, "ood")],
            "but accuracy elsewhere fell, on ood (.75 to .10)",
        ),
        ("known_early", [], "and the model now knows the answer before it writes the reasoning"),
        ("length", [change("tokens", 200, 40)], "and its traces became much shorter"),
        ("length", [change("tokens", 200, 900)], "and its traces became much longer, or no longer end"),
        ("length", [change("finished", 1, 0.2)], "and its traces became much longer, or no longer end"),
        ("verbalisation", [change("hedges_per_1000", 11, 2)], "and the model voices far less doubt than it did"),
        ("entropy", [change("token_entropy", 0.5, 0.1)], "writes with far less entropy, which bought no accuracy"),
        ("entropy", [change("token_entropy", 0.5, 2.1)], "writes with far more entropy, which bought no accuracy"),
        ("terse", [], "and the rule terse was broken"),
    ],
)
def test_each_rule_has_its_words(healthy: Run, rule: str, moved: list[Change], words: str) -> None:
    alert = Alert(key=rule, rule=rule, severity="notice", step=120, since=90, open=False, changes=tuple(moved))
    said = verdict(timeline(healthy.evaluations), [alert])
    assert words in said.sentence
    assert said.sentence.endswith(": notice from step 90 to 120.")


def test_no_shipped_rule_is_left_without_words(healthy: Run) -> None:
    for rule in RULES:
        alert = Alert(key=rule.name, rule=rule.name, severity=rule.severity, step=120, since=90)
        assert "was broken" not in verdict(timeline(healthy.evaluations), [alert]).sentence


def test_an_alarm_outweighs_an_earlier_notice(healthy: Run) -> None:
    notice = Alert(key="a", rule="known_early", severity="notice", step=30, since=30)
    alarm = Alert(key="b", rule="collapse", severity="alarm", step=90, since=90)
    assert verdict(timeline(healthy.evaluations), [notice, alarm]).state == "alarm"


# Numbers


def test_intervals_agree_with_scipy() -> None:
    from scipy import stats

    flags, values = [1.0] * 17 + [0.0] * 5, [0.3, 1.9, -0.4, 2.2, 0.8]
    wilson = stats.binomtest(17, 22).proportion_ci(method="wilson")
    student = stats.ttest_1samp(values, 0.0).confidence_interval()
    for found, oracle in ((estimate(flags, flag=True), wilson), (estimate(values, flag=False), student)):
        assert found is not None
        assert (found.lower, found.upper) == pytest.approx((oracle.low, oracle.high))


def test_paired_difference_uses_only_problems_that_both_evaluations_scored() -> None:
    def rows(values: dict[str, float]) -> tuple[Row, ...]:
        return tuple(Row(id=i, values={"info_gain": v}) for i, v in values.items())

    before = Evaluation(step=0, rows=rows({"a": 1.0, "b": 2.0, "c": 100.0}))
    after = Evaluation(step=9, rows=rows({"a": 0.5, "b": 1.0, "c": math.nan}))
    found = timeline([before, after]).difference("info_gain")
    assert found is not None
    assert (found.mean, found.n) == (-0.75, 2)


def test_the_change_of_a_share_has_a_width_also_where_no_problem_moved() -> None:
    before, after = (
        Evaluation(step=step, rows=tuple(Row(id=str(i), values={"chain_holds": 1.0}) for i in range(20)))
        for step in (0, 9)
    )
    found, elsewhere = (
        timeline([before, after]).difference("chain_holds"),
        faithfulness.change(before, after, "chain_holds"),
    )
    assert found is not None
    assert (found.mean, found.lower, found.upper) == pytest.approx((0.0, elsewhere.lower, elsewhere.upper))
    assert found.upper - found.lower > 0.3


def read(step: int, columns: dict[str, list[float]], gated: tuple[str, ...] = ()) -> Evaluation:
    """An evaluation with these values of its first, second, ... problem."""
    n = max(map(len, columns.values()))
    rows = ({name: column[i] for name, column in columns.items() if i < len(column)} for i in range(n))
    return Evaluation(step=step, gated=gated, rows=tuple(Row(id=str(i), values=row) for i, row in enumerate(rows)))


def test_before_after_and_change_rest_on_the_same_problems() -> None:
    before = read(0, {"accuracy": [1.0] * 32 + [0.0] * 32})
    history = timeline([before, read(9, {"accuracy": [1.0] * 22 + [0.0] * 10})])  # under `max_overhead`, fewer are read
    assert verdict(history, ()).sentence.startswith("Accuracy fell from 1.00 to .69 on 32 of 64 problems,")
    [row] = table(history)
    assert (row.before, row.after, row.n) == ("1.00 (.89 to 1.00)", ".69 (.51 to .82)", 32)
    assert row.change.startswith("−.31 ")
    others = replace(before, step=9, rows=tuple(replace(row, id=f"other {row.id}") for row in before.rows))
    sentence = verdict(timeline([before, others]), ()).sentence
    assert sentence.startswith("Accuracy was not measured on the same problems,")


def test_the_table_begins_at_the_baseline_not_at_chance() -> None:
    lost = read(0, {"accuracy": [0.0] * 20}, gated=("id",))
    found = [read(5, {"accuracy": [1.0, 0.0] * 10}), read(9, {"accuracy": [1.0] * 20})]
    [row] = table(timeline([lost, *found]))
    assert (row.before[:3], row.after[:4], row.change[:3]) == (".50", "1.00", ".50")


def test_of_many_measures_one_that_moved_as_one_does_by_chance_has_not_fallen() -> None:
    moved = {"placebo_gain": [1.0, -1.8] * 32}  # by 2.3 standard errors
    still = ("filler_gain", "links_followed", "reference/info_gain", "reference/placebo_gain")
    steady = {name: [0.0] * 64 for name in ("accuracy", "placebo_changed", *still)}
    first, alone = read(0, {"placebo_gain": [0.0] * 64} | steady), {"accuracy": steady["accuracy"]}
    assert "Net gain fell" not in verdict(timeline([first, read(9, moved | steady)]), (), ["mine"]).sentence
    assert "Net gain fell" in verdict(timeline([first, read(9, moved | alone)]), (), ["mine"]).sentence


def test_a_share_that_all_have_reaches_to_one_and_no_further() -> None:
    assert [found.upper for n in range(1, 65) if (found := estimate([1.0] * n, flag=True))] == [1.0] * 64


def test_failed_evaluations_are_no_baseline_and_no_gap_in_the_chart(tmp_path: Path, healthy: Run) -> None:
    failed = Evaluation(step=0, failure="RuntimeError: <out of memory>")
    late = replace(healthy, evaluations=[failed, *healthy.evaluations[1:]])
    assert timeline(late.evaluations).first is healthy.evaluations[1]
    page = write_report(tmp_path / "r.html", [late]).read_text("utf-8")
    assert "the evaluation at step 0 failed: RuntimeError: &lt;out of memory&gt;" in page


def test_chart_leaves_a_gap_where_a_value_is_missing_and_marks_the_alert() -> None:
    line = Line("x", tuple(Dot(k, math.nan if k == 2 else 1.0 * k) for k in range(6)))
    drawing = chart([line], [Mark(3, 5, "alarm", "alarm since step 3")], about="a < b")
    assert drawing.count("<circle") == 5
    assert len(re.findall(r'<path d="M[^"]*"></path>(?=<path|<circle)', drawing)) == 2
    assert "alarm since step 3" in drawing
    assert 'aria-label="a &lt; b"' in drawing


def test_a_marks_label_keeps_off_the_head_of_another() -> None:
    line = Line("x", tuple(Dot(k, 1.0) for k in range(101)))
    notice, alarm, frame = Mark(40, 50, "notice"), Mark(60, 100, "alarm", "alarm since step 60"), Frame(width=560)
    alone = chart([line], [alarm], about="", frame=frame)
    beside = chart([line], [notice, alarm], about="", frame=frame)
    assert 'text-anchor="end"' in alone
    assert 'text-anchor="end"' not in beside


def test_a_line_that_broke_off_has_no_current_value() -> None:
    whole, broken = (Line("x", tuple(Dot(k, last if k == 3 else 2.5) for k in range(4))) for last in (2.5, math.nan))
    assert re.findall(r"<tspan[^>]*>([^<]*)", chart([whole, broken], about="")) == ["2.50", NOTHING]


def test_chart_of_nothing_is_nothing() -> None:
    assert chart([Line("x", (Dot(0, math.nan),))], about="") == ""


def test_long_series_are_thinned_but_keep_their_ends() -> None:
    line = thinned(Line("x", tuple(Dot(k, 0.0) for k in range(5000))), 100)
    assert len(line.dots) == 100
    assert (line.dots[0].x, line.dots[-1].x) == (0, 4999)


# The page


def test_page_needs_nothing_from_elsewhere(tmp_path: Path, healthy: Run, shortcut: Run) -> None:
    page = write_report(tmp_path / "deep" / "r.html", [healthy, shortcut], title="Two stories").read_text("utf-8")
    assert not re.search(r"(src|href)\s*=\s*\"(?!#)", page)
    assert not re.search(r"@import|url\(|https?://|\bfetch\(|XMLHttpRequest|eval\(", page)
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(page)
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "r.html"]
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[2:6] == ["Alerts", "Informative", "Needed", "Used"]
    assert titles[6:10] == ["Calibration", "Length", "Verbalisation", "Drift"]
    assert titles[10:13] == ["Traces, before and after", "All numbers", "What it cost"]
    assert titles[13:] == ["Configuration", "What the numbers cannot tell"]


def test_charts_without_values_are_left_out(tmp_path: Path) -> None:
    bare = story("bare", {"accuracy": (0.7, 0.9, None), "my_probe": (1.0, 2.0, 0.1)}, 0.9)
    page = write_report(tmp_path / "r.html", [bare]).read_text("utf-8")
    assert "<h2>Informative</h2>" not in page
    assert "<h2>Your own probes</h2>" in page
    assert "my_probe" in page


@pytest.mark.parametrize("evaluations", [0, 1])
def test_a_run_that_has_only_begun_still_has_a_page(tmp_path: Path, healthy: Run, evaluations: int) -> None:
    begun = replace(healthy, evaluations=healthy.evaluations[:evaluations], alerts=())
    assert "nothing to compare yet" in write_report(tmp_path / "r.html", [begun]).read_text("utf-8")


def test_every_value_of_the_guards_own_probes_has_a_name_for_people() -> None:
    prefixes = {"policy": "", "reference": "reference/"}
    asked = [*default_probes(), *all_probes(paraphraser=list), FillerProbe("repeated"), FillerProbe("shuffled")]
    names = [prefixes[who] + name for p in asked for who in p.readers for name in p.names]
    assert own_probes(names).measures == ()


def test_runs_must_be_there_and_have_names_of_their_own(tmp_path: Path, healthy: Run) -> None:
    with pytest.raises(ConfigurationError, match="at least one run"):
        write_report(tmp_path / "r.html", [])
    with pytest.raises(ConfigurationError, match="different names"):
        write_report(tmp_path / "r.html", [healthy, healthy])


def test_runs_whose_folders_are_called_alike_are_told_apart_by_those_above(tmp_path: Path) -> None:
    places = ["a/x/out", "b/x/out/reasoning_guard", "b/y/out", "b/last"]
    assert distinct_names([tmp_path / place for place in places]) == ["a/x/out", "b/x/out", "y/out", "last"]
    with pytest.raises(ConfigurationError, match="a/out is given twice"):
        distinct_names(["a/out", "b/out", "a/out/reasoning_guard"])


def test_worst_problems_come_first_and_those_of_the_alert_before_all(healthy: Run, shortcut: Run) -> None:
    history = timeline(shortcut.evaluations)
    chosen = pairs(history, shortcut.alerts)
    named = {loss.id for alert in shortcut.alerts for loss in alert.worst}
    assert len(chosen) == MOST_PAIRS
    assert {pair.id for pair in chosen[: len(named)]} == named
    rest = [pair.losses["placebo_gain"] for pair in chosen[len(named) :]]
    assert rest == sorted(rest, reverse=True)


def test_long_texts_spend_a_budget() -> None:
    long = [Row(id=str(i), values={"info_gain": 1.0}, steps=("x" * 3000,) * 10, curve=(-1.0,) * 11) for i in range(20)]
    history = timeline([Evaluation(step=s, rows=tuple(long)) for s in (0, 9)])
    assert len(pairs(history, budget=200_000)) == 3


# Records on disk


def recorded(directory: Path, run: Run) -> History:
    history = History(directory / "reasoning_guard")
    history.begin(0, {"format": "think"}, {"alpha": 0.05})
    for one in run.evaluations:
        history.append(one)
    history.write_alerts(run.alerts)
    return history


def test_a_run_reads_back_as_it_was_written(tmp_path: Path, shortcut: Run) -> None:
    short = replace(shortcut, evaluations=[replace(e, rows=e.rows[:5]) for e in shortcut.evaluations])
    recorded(tmp_path / "my-run", short)
    for place in (tmp_path / "my-run", tmp_path / "my-run" / "reasoning_guard"):
        found = load_run(place)
        assert found.name == "my-run"
        assert list(found.evaluations) == list(short.evaluations)
        assert found.evaluations[-2:] == short.evaluations[-2:]
        assert list(found.alerts) == list(short.alerts)
        assert found.settings == {"alpha": 0.05, "format": "think"}


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path: Path, healthy: Run) -> None:
    short = replace(healthy, evaluations=[replace(e, rows=e.rows[:2]) for e in healthy.evaluations[:3]])
    recorded(tmp_path, short)
    records = tmp_path / "reasoning_guard" / "evaluations.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole[:-20])
    assert len(load_run(tmp_path).evaluations) == 2
    records.write_bytes(whole.replace(b'{"step": 30', b'{"stop": 30'))
    with pytest.raises(HistoryError, match="line 2 of"):
        list(load_run(tmp_path).evaluations)


def test_no_records_is_said(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"no evaluations\.jsonl"):
        load_run(tmp_path)
