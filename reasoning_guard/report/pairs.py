"""Choose the traces to show: problems at the baseline and at the last evaluation, the greatest losses first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoning_guard.evaluation import Row
from reasoning_guard.report.charts import Dot, Frame, Line, chart
from reasoning_guard.report.measures import measure
from reasoning_guard.report.series import Timeline

if TYPE_CHECKING:
    from markupsafe import Markup

    from reasoning_guard.alerts import Alert

SORTS = ("placebo_gain", "reference/info_gain", "info_gain", "mistake_changed", "accuracy")
MOST_PAIRS = 50
MOST_STEPS = 200
MOST_CHARACTERS = 4_000
BUDGET = 3_000_000
"""Characters of trace text in one report; with several runs they share it."""
SHADES = (0.1, 0.5, 2.0)
"""Gains of a step, in nats, at which its colour gets one shade stronger."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a trace, as shown.

    Attributes:
        text: Its text, shortened if necessary.
        gain: ``lp_k - lp_{k-1}`` in nats; NaN if not scored.
    """

    text: str
    gain: float

    @property
    def shade(self) -> str:
        """Style class by gain: "up1" to "up3", "down1" to "down3", or "flat"."""
        strength = sum(abs(self.gain) >= edge for edge in SHADES)
        return f"{'up' if self.gain > 0 else 'down'}{strength}" if strength else "flat"


@dataclass(frozen=True, slots=True)
class Shown:
    """One trace, as shown.

    Attributes:
        row: The row that it comes from.
        steps: At most ``MOST_STEPS`` steps; a trace without steps has none.
        text: The completion, shortened, for traces that have no steps.
        left_out: Number of steps that are not shown.
    """

    row: Row
    steps: tuple[Step, ...]
    text: str
    left_out: int

    @property
    def size(self) -> int:
        """Characters of text."""
        return len(self.text) + sum(len(step.text) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Pair:
    """The same problem before and after fine-tuning.

    Attributes:
        before: The trace at the baseline.
        after: The trace at the last evaluation.
        prompt: The prompt, shortened.
        losses: How much each value of :data:`SORTS` fell; NaN if one of the two is missing.
        curve: The two answer curves in one chart; empty if neither was scored.
    """

    before: Shown
    after: Shown
    prompt: str
    losses: Mapping[str, float]
    curve: Markup

    @property
    def id(self) -> str:
        """The problem's id."""
        return self.before.row.id


def pairs(history: Timeline, alerts: Sequence[Alert] = (), *, budget: int = BUDGET) -> list[Pair]:
    """Choose the problems to show: first those that an alert names, then by loss of the gravest measure.

    Args:
        history: The run; its first and last evaluations hold the traces.
        alerts: Alerts, whose worst problems are always shown.
        budget: Most characters of text to show.

    Returns:
        At most :data:`MOST_PAIRS` pairs; none if there is only one evaluation.
    """
    if history.first is None or history.last is None or history.first is history.last:
        return []
    after = {row.id: row for row in history.last.rows}
    both = [(row, after[row.id]) for row in history.first.rows if row.id in after]
    named = {loss.id for alert in alerts for loss in alert.worst}
    key = ranking([losses(b, a) for b, a in both])
    both.sort(key=lambda p: (p[0].id not in named, -_order(losses(*p).get(key, math.nan))))
    return _within(both[:MOST_PAIRS], budget)


def losses(before: Row, after: Row) -> dict[str, float]:
    """Return how much each value of :data:`SORTS` fell from ``before`` to ``after``, in its own unit."""
    return {name: before.values.get(name, math.nan) - after.values.get(name, math.nan) for name in SORTS}


def ranking(found: Sequence[Mapping[str, float]]) -> str:
    """Return the first of :data:`SORTS` that any problem has."""
    return next((name for name in SORTS if any(math.isfinite(f[name]) for f in found)), SORTS[0])


def sorts(shown: Sequence[Pair]) -> list[tuple[str, str]]:
    """Return the ways in which the viewer can sort: value name and label."""
    return [(n, measure(n).label) for n in SORTS if any(math.isfinite(p.losses[n]) for p in shown)]


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """Cut a long text and say how much is missing.

    Example:
        >>> shorten("abcdef", 4)
        'abcd … (2 more characters)'
    """
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def _within(both: Sequence[tuple[Row, Row]], budget: int) -> list[Pair]:
    chosen: list[Pair] = []
    for before, after in both:
        pair = _pair(before, after)
        budget -= pair.before.size + pair.after.size + len(pair.prompt)
        if budget < 0 and chosen:
            break
        chosen.append(pair)
    return chosen


def _pair(before: Row, after: Row) -> Pair:
    return Pair(_shown(before), _shown(after), shorten(before.prompt), losses(before, after), _curve(before, after))


def _shown(row: Row) -> Shown:
    gains = [b - a for a, b in zip(row.curve, row.curve[1:], strict=False)]
    gains += [math.nan] * (len(row.steps) - len(gains))
    steps = tuple(Step(shorten(t.strip()), g) for t, g in zip(row.steps, gains, strict=False))[:MOST_STEPS]
    text = "" if row.steps else shorten(row.completion)
    return Shown(row, steps, text, max(0, len(row.steps) - MOST_STEPS))


def _curve(before: Row, after: Row) -> Markup:
    lines = [
        Line(label, tuple(Dot(k, lp) for k, lp in enumerate(row.curve)), colour, dash)
        for label, row, colour, dash in (("before", before, 8, 1), ("after", after, 0, 0))
    ]
    about = f"Log-probability of the reference answer over the steps, before and after, problem {before.id}"
    return chart(lines, about=about, frame=Frame(width=420, height=190, right=96), x_label="steps read")


def _order(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
