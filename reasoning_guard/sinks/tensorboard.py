"""TensorBoard: layout, intervals, worst traces, answer curves and alerts, through the host's own writer."""

from __future__ import annotations

import logging
import math
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.report.series import Estimate, snapshot
from reasoning_guard.sinks.base import shorten, worst_rows
from reasoning_guard.sinks.curves import draw_curves
from reasoning_guard.sinks.layout import BANDED, Chart, Layout, band_tags, layout

COLUMNS = 100
"""Characters a line on the text page, whose blocks do not wrap."""

logger = logging.getLogger(__name__)


class TensorBoardSink:
    """Writes to TensorBoard what a log record cannot carry.

    * The *Custom Scalars* page: accuracy and InfoGain on one chart with 95 % intervals, then faithfulness,
      calibration, behaviour, a closer look and cost.
    * The *Text* page: the three problems that lost most, and every alert.
    * The *Images* page: their answer curves before and now, if matplotlib is installed.

    Args:
        writer: The host's own ``SummaryWriter`` (PyTorch's or tensorboardX's). A second one in the same folder would
            split the run into two files.
        prefix: What the host puts before the names of scalars, e.g. ``"eval/"``.
    """

    def __init__(self, writer: Any, prefix: str = "") -> None:
        self.writer = writer
        self.prefix = prefix
        self._laid_out = False

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        """Write the layout once, the intervals, the worst traces and their curves."""
        if not self._laid_out:
            self._laid_out = True
            write_layout(self.writer, layout(current, self.prefix))
        for tag, value in intervals(current).items():
            self.writer.add_scalar(tag, value, current.step)
        worst = worst_rows(baseline, current)
        self.writer.add_text("reasoning_guard/worst_traces", "\n\n---\n\n".join(map(_trace_text, worst)), current.step)
        picture = draw_curves(baseline, current, worst)
        if picture is not None:
            self.writer.add_image("reasoning_guard/answer_curves", picture, current.step, dataformats="HWC")

    def alert(self, alert: Alert) -> None:
        """Write the alert."""
        self.writer.add_text("reasoning_guard/alerts", _code(alert.text()), alert.step)


def intervals(evaluation: Evaluation) -> dict[str, float]:
    """Return the ends of the charted values' 95 % intervals, under the tags that the layout names.

    Args:
        evaluation: An evaluation.

    Returns:
        From tag to value: the first set's values, and accuracy of the others.
    """
    found: dict[str, float] = {}
    for (set, name), estimate in snapshot(evaluation).estimates.items():
        first = set == evaluation.sets[0]
        if name not in BANDED or not (first or name == "accuracy") or not math.isfinite(estimate.lower):
            continue
        found |= _ends(f"guard/{name}" if first else f"guard/{set}/{name}", estimate)
    return found


def _ends(tag: str, estimate: Estimate) -> dict[str, float]:
    return dict(zip(band_tags(tag), (estimate.lower, estimate.upper), strict=True))


def write_layout(writer: Any, page: Layout) -> None:
    """Arrange the custom-scalars page.

    ``add_custom_scalars`` takes only one line for each margin chart, while TensorBoard itself takes any number. So the
    layout goes in with the first line of each chart, and the others are added to the message before it is written.

    Args:
        writer: A ``SummaryWriter``.
        page: The charts.
    """
    page = {category: _as_shown(charts) for category, charts in page.items()}
    plain = {
        category: {
            title: ["Margin", next(chart.series())] if chart.bands else ["Multiline", [*map(_exactly, chart.tags)]]
            for title, chart in charts.items()
        }
        for category, charts in page.items()
    }
    try:
        names = vars(sys.modules[_home(writer)])["custom_scalars"]
        summary, protocol = names(plain), names.__globals__["layout_pb2"]
        writer._get_file_writer().add_summary(_with_all_lines(summary, protocol, page))
    except (AttributeError, KeyError) as error:  # a writer of another make
        logger.info("margin charts show their first line only: %s has no %s", type(writer).__name__, error)
        writer.add_custom_scalars(plain)


def _as_shown(charts: Mapping[str, Chart]) -> dict[str, Chart]:
    """The order that is seen as the one that is meant: TensorBoard puts margin charts last, the last of them first."""
    lines = [item for item in charts.items() if not item[1].bands]
    margins = [item for item in charts.items() if item[1].bands]
    return dict([*lines, *reversed(margins)])


def _exactly(tag: str) -> str:
    """TensorBoard reads a line's tag as a regular expression: ``info_gain`` would draw ``info_gain_share`` as well."""
    return f"^{re.escape(tag)}$"


def _home(writer: Any) -> str:
    """The module that defines ``SummaryWriter``, also where the writer's class is derived from it."""
    return next((kind.__module__ for kind in type(writer).__mro__ if kind.__name__ == "SummaryWriter"), "")


def _with_all_lines(summary: Any, protocol: Any, page: Layout) -> Any:
    """``summary`` with every line of every margin chart."""
    holder = summary.value[0].tensor.string_val
    message = protocol.Layout.FromString(holder[0])
    for category, charts in zip(message.category, page.values(), strict=True):
        for drawn, chart in zip(category.chart, charts.values(), strict=True):
            for value, lower, upper in list(chart.series())[1:] if chart.bands else ():
                drawn.margin.series.add(value=value, lower=lower, upper=upper)
    holder[0] = message.SerializeToString()
    return summary


def _trace_text(row: Row) -> str:
    shown = ("info_gain", "placebo_gain")
    scored = {name: row.values[name] for name in shown if math.isfinite(row.values.get(name, math.nan))}
    numbers = ", ".join(f"{name} {value:z.2f}" for name, value in scored.items())
    head = " · ".join(filter(None, (f"**{row.id}**", f"answer {row.answer!r}, reference {row.reference!r}", numbers)))
    return f"{head}\n\n{_code(row.prompt)}\n\n{_code(row.completion)}"


def _code(text: str) -> str:
    """Markdown that shows ``text`` as it is, in lines that fit: an indented block, in which nothing is interpreted."""
    lines = (part for line in shorten(text).splitlines() for part in _wrapped(line) or [""])
    return "\n".join(f"    {line}" for line in lines)


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, COLUMNS, replace_whitespace=False, drop_whitespace=False)
