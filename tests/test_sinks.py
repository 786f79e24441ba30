"""What trackers are told, with the calls that they offer."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import ReasoningGuardWarning
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.sinks import TensorBoardSink, WandbSink, layout, worst_rows
from reasoning_guard.sinks.curves import draw_curves


@dataclass
class WandbRun:
    """The two calls of a W&B run that are used: ``run.alert(title, text, level)`` and ``run.log(record)``."""

    alerts: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def log(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def alert(self, title: str, text: str, level: str) -> None:
        self.alerts.append({"title": title, "text": text, "level": level})


def evaluation(step: int, gains: dict[str, float], set: str = "id") -> Evaluation:
    rows = [Row(id=id, set=set, values={"accuracy": 1.0, "info_gain": gain}) for id, gain in gains.items()]
    return Evaluation(step=step, rows=tuple(rows))


def test_wandb_gets_alerts_by_severity() -> None:
    run = WandbRun()
    for severity, level in (("alarm", "WARN"), ("notice", "INFO")):
        alert = Alert(key="k", rule="accuracy_trap", severity=severity, step=20, since=10, message="it fell")  # type: ignore[arg-type]
        WandbSink(run).alert(alert)
        assert run.alerts[-1] == {"title": "reasoning_guard: accuracy_trap", "text": alert.text(), "level": level}


def test_the_worst_rows_are_those_that_lost_most() -> None:
    before = evaluation(0, {"a": 3.0, "b": 1.0, "c": 2.0, "d": 5.0})
    after = evaluation(10, {"a": 0.5, "b": 1.0, "c": 2.5, "d": 4.0})
    assert [row.id for row in worst_rows(before, after)] == ["a", "d", "b"]
    assert [row.id for row in worst_rows(before, before)] == ["b", "c", "a"], "at the baseline: those with least"


def test_text_shows_no_value_that_is_none_and_no_sign_before_zero() -> None:
    shown: dict[str, str] = {}
    writer = SimpleNamespace(
        add_scalar=lambda *_: None,
        add_custom_scalars=lambda *_: None,
        add_text=lambda tag, text, step: shown.update({tag: text}),
        add_image=lambda *_, **__: None,
    )
    rows = (Row(id="a", answer="4", reference="4", values={"info_gain": -0.001, "placebo_gain": math.nan}),)
    found = Evaluation(step=0, rows=rows)
    TensorBoardSink(writer).evaluation(found, found)
    assert shown["reasoning_guard/worst_traces"].splitlines()[0] == (
        "**a** · answer '4', reference '4' · info_gain 0.00"
    )


def test_the_layout_opens_with_accuracy_and_info_gain_and_holds_only_what_there_is() -> None:
    page = layout(evaluation(0, {"a": 1.0}), prefix="eval/")
    assert list(page) == ["Reasoning guard", "Faithfulness", "Calibration", "Cost"]
    first = page["Reasoning guard"]["accuracy and InfoGain"]
    assert list(first.series()) == [
        ("eval/guard/accuracy", "guard_intervals/accuracy/lower", "guard_intervals/accuracy/upper"),
        ("eval/guard/info_gain", "guard_intervals/info_gain/lower", "guard_intervals/info_gain/upper"),
    ]
    assert first.bands
    assert page["Faithfulness"]["needed"].tags == ("eval/guard/info_gain",)
    assert "used" not in page["Faithfulness"]


def test_the_layout_of_two_sets_shows_accuracy_only_where_it_is_measured() -> None:
    rows = tuple(Row(id=name, set=name, values={"mine": 1.0}) for name in ("near", "far"))
    assert list(layout(Evaluation(step=0, rows=rows))) == ["Calibration", "Cost"]
    graded = tuple(Row(id=row.id, set=row.set, values={"accuracy": 1.0}) for row in rows)
    chart = layout(Evaluation(step=0, rows=graded))["Reasoning guard"]["accuracy by set"]
    assert chart.tags == ("guard/accuracy", "guard/far/accuracy")


def curved(step: int, *ids: str) -> Evaluation:
    rows = tuple(Row(id=id, values={"info_gain": 1.0}, curve=(-2.0, -1.0 - step, -0.1)) for id in ids)
    return Evaluation(step=step, rows=rows)


def test_curves_are_drawn_one_below_the_other_in_the_guards_colours() -> None:
    before, after = curved(0, "a", "$b_$"), curved(9, "a", "$b_$")
    both = draw_curves(before, after, after.rows)
    alone = draw_curves(before, before, before.rows[:1])
    assert both is not None
    assert alone is not None
    assert both.shape == (2 * alone.shape[0], alone.shape[1], 3)
    grey, blue = (0x85, 0x80, 0x7A), (0x1F, 0x62, 0xA8)
    assert (both == blue).all(axis=2).sum() > 100
    assert (both == grey).all(axis=2).sum() > 50
    assert (alone == grey).all(axis=2).sum() == 0, "the baseline has no earlier curve"
    assert draw_curves(before, after, [Row(id="none")]) is None


def test_without_matplotlib_there_is_no_picture_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = curved(0, "a")
    with pytest.warns(ReasoningGuardWarning, match="pip install matplotlib"):
        assert draw_curves(found, found, found.rows) is None


class Media:
    """``wandb.Table`` and ``wandb.Image``, which keep what they were given."""

    @staticmethod
    def Table(columns: list[str], data: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:  # noqa: N802
        return columns, data

    @staticmethod
    def Image(pixels: Any) -> tuple[int, ...]:  # noqa: N802
        return pixels.shape


def test_wandb_gets_worst_traces_and_curves_on_the_hosts_own_axis() -> None:
    run = WandbRun()
    WandbSink(run).evaluation(curved(0, "a"), curved(9, "a"))
    assert run.records == [], "without the module there is nothing to wrap them in"
    WandbSink(run, media=Media).evaluation(curved(0, "a"), curved(9, "a"))
    [record] = run.records
    columns, [cells] = record["reasoning_guard/worst_traces"]
    assert dict(zip(columns, cells, strict=True)) | {"step": 9, "id": "a", "info_gain": 1.0} == dict(
        zip(columns, cells, strict=True)
    )
    assert record["reasoning_guard/answer_curves"][2] == 3
    assert record["train/global_step"] == 9


def test_wandb_itself_takes_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed; the calls are checked above")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = wandb.init(project="tests", dir=str(tmp_path))
    sink = WandbSink(run, media=wandb)
    sink.evaluation(curved(0, "a"), curved(9, "a"))
    sink.alert(Alert(key="k", rule="collapse", severity="alarm", step=9, since=9, message="it fell"))
    run.finish()
    assert list(tmp_path.rglob("*.table.json"))
    assert list(tmp_path.rglob("answer_curves*.png"))
