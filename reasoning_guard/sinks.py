"""Where alerts, traces and layouts go beside the numbers: trackers that the host hands in.

The numbers themselves travel in the host's own log record, so every tracker that the host knows shows them. A sink
adds what a record cannot carry: text, and how charts are arranged. No tracker is imported here; the host injects its
writer or run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.rules import AXES

_LONGEST = 4_000
"""Characters of a trace that a tracker shows; the records keep all of it."""


class Sink(Protocol):
    """Receives what happens; a sink that raises loses its message, never the run."""

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        """An evaluation was made; at the baseline, and before there is one, both are the same."""
        ...

    def alert(self, alert: Alert) -> None:
        """An alert is new."""
        ...


class TensorBoardSink:
    """Worst traces and alerts as text, and a custom-scalars layout that opens with accuracy and InfoGain on one chart.

    Args:
        writer: The host's own ``SummaryWriter``; a second one in the same folder would split the run into two files.
        prefix: What the host puts before the names of scalars, e.g. ``"eval/"``.
    """

    def __init__(self, writer: Any, prefix: str = "") -> None:
        self.writer = writer
        self.prefix = prefix
        self._laid_out = False

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        """Write the layout once, and the worst traces."""
        if not self._laid_out:
            self.writer.add_custom_scalars(layout(current, self.prefix))
            self._laid_out = True
        text = "\n\n---\n\n".join(_trace_text(row) for row in worst_rows(baseline, current))
        self.writer.add_text("reasoning_guard/worst_traces", text, current.step)

    def alert(self, alert: Alert) -> None:
        """Write the alert."""
        self.writer.add_text("reasoning_guard/alerts", _code(alert.text()), alert.step)


class WandbSink:
    """Alerts through Weights & Biases' own alerts.

    Args:
        run: The host's active run.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        """Nothing: the host logs the numbers."""

    def alert(self, alert: Alert) -> None:
        """Send the alert; users choose on their side whether it reaches them."""
        level = "WARN" if alert.severity == "alarm" else "INFO"
        self.run.alert(title=f"reasoning_guard: {alert.rule}", text=alert.text(), level=level)


def layout(evaluation: Evaluation, prefix: str = "") -> dict[str, dict[str, list[Any]]]:
    """Charts for TensorBoard's custom-scalars page, of values that an evaluation holds.

    Args:
        evaluation: Any evaluation of the run.
        prefix: What stands before the names of scalars.

    Returns:
        Category to chart to ``["Multiline", tags]``, as ``SummaryWriter.add_custom_scalars`` takes it.
    """
    charts: Mapping[str, Sequence[str]] = {
        "accuracy and InfoGain": ("accuracy", "info_gain"),
        **{f"axis: {axis}": tuple(names) for axis, names in AXES.items()},
        "prior and posterior": ("prior", "posterior", "reference/posterior"),
        "length": ("tokens", "n_steps"),
    }
    known = set(evaluation.names())
    found = {
        title: ["Multiline", [f"{prefix}guard/{name}" for name in names if name in known]]
        for title, names in charts.items()
        if known & set(names)
    }
    others = [f"{prefix}guard/{set}/accuracy" for set in evaluation.sets[1:]]
    if others:
        found["accuracy by set"] = ["Multiline", [f"{prefix}guard/accuracy", *others]]
    return {"Reasoning guard": found}


def worst_rows(baseline: Evaluation, current: Evaluation, name: str = "info_gain", count: int = 3) -> list[Row]:
    """Rows of ``current`` that lost most of ``name`` since the baseline; at the baseline those with least of it."""
    before, after = baseline.values(name), current.values(name)
    lost = {id: value - (0.0 if current is baseline else before[id]) for id, value in after.items() if id in before}
    chosen = sorted(lost, key=lambda id: lost[id])[:count]
    rows = {row.id: row for row in current.rows}
    return [rows[id] for id in chosen]


def _trace_text(row: Row) -> str:
    numbers = ", ".join(
        f"{name} {row.values[name]:.2f}" for name in ("info_gain", "placebo_gain") if name in row.values
    )
    head = f"**{row.id}** · answer {row.answer!r}, reference {row.reference!r} · {numbers}"
    return f"{head}\n\n{_code(row.prompt)}\n\n{_code(row.completion)}"


def _code(text: str) -> str:
    """Markdown that shows ``text`` as it is: an indented block, in which nothing is interpreted."""
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + " […]"
    return "\n".join(f"    {line}" for line in shown.splitlines())
