"""What trackers are told, with the calls that they offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.sinks import WandbSink, layout, worst_rows


@dataclass
class WandbRun:
    """The one call of a W&B run that is used: ``run.alert(title, text, level)``."""

    alerts: list[dict[str, Any]] = field(default_factory=list)

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


def test_the_layout_opens_with_accuracy_and_info_gain_on_one_chart() -> None:
    charts = layout(evaluation(0, {"a": 1.0}), prefix="eval/")["Reasoning guard"]
    assert next(iter(charts.values())) == ["Multiline", ["eval/guard/accuracy", "eval/guard/info_gain"]]
    assert all(tags for _, tags in charts.values())
