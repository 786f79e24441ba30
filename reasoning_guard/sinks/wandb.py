"""Weights & Biases: alerts, worst traces and answer curves, through the host's own run."""

from __future__ import annotations

from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.sinks.base import shorten, worst_rows
from reasoning_guard.sinks.curves import draw_curves

COLUMNS = ("step", "id", "prompt", "completion", "answer", "reference", "info_gain", "placebo_gain")


class WandbSink:
    """Sends to Weights & Biases what a log record cannot carry.

    Args:
        run: The host's active run.
        media: The module that has ``Table`` and ``Image``, which is ``wandb`` itself. Without it, only alerts are sent.
        step_name: Name of the host's own step in its records, written beside each table so that both share an axis.
    """

    def __init__(self, run: Any, media: Any = None, step_name: str = "train/global_step") -> None:
        self.run, self.media, self.step_name = run, media, step_name

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        """Log the worst traces as a table and their answer curves as an image."""
        if self.media is None:
            return
        worst = worst_rows(baseline, current)
        cells = [
            [current.step, row.id, shorten(row.prompt), shorten(row.completion), row.answer, row.reference]
            + [row.values.get(name) for name in COLUMNS[6:]]
            for row in worst
        ]
        shown: dict[str, Any] = {"reasoning_guard/worst_traces": self.media.Table(columns=list(COLUMNS), data=cells)}
        picture = draw_curves(baseline, current, worst)
        if picture is not None:
            shown["reasoning_guard/answer_curves"] = self.media.Image(picture)
        self.run.log({**shown, self.step_name: current.step})

    def alert(self, alert: Alert) -> None:
        """Send the alert. Users choose on their side whether it reaches them."""
        level = "WARN" if alert.severity == "alarm" else "INFO"
        self.run.alert(title=f"reasoning_guard: {alert.rule}", text=alert.text(), level=level)
