"""One chart: lines with interval bands over steps, labelled at their ends, with marks where something happened.

A pure function from values to inline SVG. Colours are classes (``c0``, ``c1``, ...), and so are dashes (``d0``, ``d1``,
...). The style sheet fills them in, so one drawing serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from reasoning_guard.report.numbers import MINUS, number
from reasoning_guard.report.svg import Point, Scale, path, segments, spread, tag, ticks

MOST_DOTS = 40
MOST_POINTS = 240
LABEL_GAP = 13.0
LETTER = 6.2
"""Width of a letter of a mark's label, about."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A value at a step, with its interval if there is one (NaN otherwise)."""

    x: float
    y: float
    lower: float = math.nan
    upper: float = math.nan


@dataclass(frozen=True, slots=True)
class Line:
    """A series; a missing value is a NaN ``y`` and leaves a gap.

    Attributes:
        label: Written at the end of the line, before the value at its last step (a dash if that is missing).
        dots: The values, by rising step.
        colour: Number of the colour class.
        dash: Number of the dash class.
    """

    label: str
    dots: tuple[Dot, ...]
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that began at a step and held for a while: a vertical line and a tint behind it.

    Attributes:
        x: The step at which it began.
        until: The last step at which it held.
        kind: "alarm", "notice" or another class of the style sheet.
        label: Written at its head; nothing if empty.
    """

    x: float
    until: float
    kind: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a drawing and of the margins around its plot, in SVG units.

    Attributes:
        width: Width of the drawing.
        height: Height of the drawing.
        left: Room for tick labels.
        right: Room for the series' labels.
        top: Room for the heads of the marks.
        bottom: Room for the steps.
    """

    width: float = 300
    height: float = 150
    left: float = 38
    right: float = 84
    top: float = 13
    bottom: float = 22


def chart(
    lines: Sequence[Line],
    marks: Sequence[Mark] = (),
    *,
    about: str,
    share: bool = False,
    domain: tuple[float, float] | None = None,
    frame: Frame | None = None,
    x_label: str = "step",
) -> Markup:
    """Draw a chart.

    Args:
        lines: The series. Nothing is drawn unless at least one has a finite value.
        marks: What happened when.
        about: What a reader who cannot see the chart is told.
        share: Whether the values lie between 0 and 1 by nature.
        domain: Range of the y axis; by default it holds all values and, for shares, 0 and 1.
        frame: Size and margins.
        x_label: What is counted on the x axis.

    Returns:
        An ``<svg>`` element, or empty markup.
    """
    frame = frame or Frame()
    lines = [thinned(line) for line in lines if any(math.isfinite(d.y) for d in line.dots)]
    if not lines:
        return Markup("")
    xs = [d.x for line in lines for d in line.dots]
    x = Scale((min(xs), max(xs)), (frame.left, frame.width - frame.right))
    y = Scale(domain or extent(lines, share=share), (frame.height - frame.bottom, frame.top))
    parts = [
        *_y_axis(y, x, share=share),
        *_x_axis(x, frame, x_label),
        *(_mark(mark, x, y, marks) for mark in marks if x.domain[0] <= mark.x <= x.domain[1]),
        *(_band(line, x, y) for line in lines),
        *(_stroke(line, x, y, share=share) for line in lines),
        *_end_labels(lines, x, y, share=share),
    ]
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return tag("svg", *parts, viewBox=box, class_="chart", role="img", aria_label=about)


def extent(lines: Sequence[Line], *, share: bool = False) -> tuple[float, float]:
    """Return the range of all values and interval ends; it includes 0, and 1 for shares.

    Example:
        >>> extent([Line("a", (Dot(0, 1.5), Dot(1, 4.0, 3.0, 5.0)))])
        (0.0, 5.0)
    """
    values = [v for line in lines for d in line.dots for v in (d.y, d.lower, d.upper) if math.isfinite(v)]
    low, high = min([0.0, *values]), max([1.0 if share else 0.0, *values])
    return (low, high) if high > low else (low, low + 1.0)


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """Thin out a long series evenly, keeping the first and the last value."""
    n = len(line.dots)
    if n <= most:
        return line
    chosen = sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})
    return replace(line, dots=tuple(line.dots[i] for i in chosen))


def _y_axis(y: Scale, x: Scale, *, share: bool) -> list[Markup]:
    left, right = x.range
    parts: list[Markup] = []
    for value in ticks(*y.domain, 5):
        at = y(value)
        kind = "zero" if value == 0 else "grid"
        parts.append(tag("line", class_=kind, x1=left, x2=right, y1=at, y2=at))
        parts.append(tag("text", _tick(value, share=share), class_="tick y", x=left - 6, y=at + 4))
    return parts


def _tick(value: float, *, share: bool) -> str:
    text = f"{abs(value):,g}" if abs(value) < 1e6 else f"{abs(value):.0e}"
    text = text.removeprefix("0") if share and text.startswith("0.") else text
    return MINUS + text if value < 0 else text


def _x_axis(x: Scale, frame: Frame, label: str) -> list[Markup]:
    base = frame.height - frame.bottom + 16
    whole = [v for v in ticks(*x.domain, 5) if v == int(v)]
    parts = [tag("text", f"{int(v):,}", class_="tick x", x=x(v), y=base) for v in whole]
    return [*parts, tag("text", label, class_="tick name", x=frame.width - frame.right + 22, y=base)]


def _mark(mark: Mark, x: Scale, y: Scale, others: Sequence[Mark]) -> Markup:
    at, (bottom, top) = x(mark.x), y.range
    width = max(0.0, x(min(mark.until, x.domain[1])) - at)
    tint = tag("rect", x=at, y=top, width=width, height=bottom - top)
    line = tag("line", x1=at, x2=at, y1=top - 4, y2=bottom)
    head = tag("path", d=f"M{at - 4.5:.1f} {top - 11:.1f}h9l-4.5 8Z", class_="head")
    begins = at - 8 - LETTER * len(mark.label)
    free = begins > x.range[0] and not any(begins - 6 < x(other.x) < at for other in others)
    leftwards = free and at > sum(x.range) / 2
    side = {"x": at - 8 if leftwards else at + 8, "text_anchor": "end" if leftwards else "start"}
    text = tag("text", mark.label, y=top - 7, **side) if mark.label else Markup("")
    return tag("g", tint, line, head, text, class_=f"mark {mark.kind}")


def _band(line: Line, x: Scale, y: Scale) -> Markup:
    runs = segments((d.x, i) if math.isfinite(d.lower) else None for i, d in enumerate(line.dots))
    shapes: list[Markup] = []
    for run in runs:
        dots = [line.dots[int(i)] for _, i in run]
        upper = [(x(d.x), y(min(d.upper, y.domain[1]))) for d in dots]
        lower = [(x(d.x), y(max(d.lower, y.domain[0]))) for d in reversed(dots)]
        shapes.append(tag("path", d=path([*upper, *lower], closed=True)))
    return tag("g", *shapes, class_=f"band c{line.colour}")


def _stroke(line: Line, x: Scale, y: Scale, *, share: bool) -> Markup:
    def at(dot: Dot) -> Point | None:
        return (x(dot.x), y(dot.y)) if math.isfinite(dot.y) else None

    curves = [tag("path", d=path(part)) for part in segments(map(at, line.dots)) if len(part) > 1]
    shown = line.dots if len(line.dots) <= MOST_DOTS else line.dots[-1:]
    dots = [tag("circle", _hover(d, line, share), cx=p[0], cy=p[1], r=2.6) for d in shown if (p := at(d))]
    return tag("g", *curves, *dots, class_=f"line c{line.colour} d{line.dash}")


def _hover(dot: Dot, line: Line, share: bool) -> Markup:
    text = f"{line.label} {dot.x:g}: {number(dot.y, share=share)}".strip()
    if math.isfinite(dot.lower):
        text += f" ({number(dot.lower, share=share)} to {number(dot.upper, share=share)})"
    return tag("title", text)


def _end_labels(lines: Sequence[Line], x: Scale, y: Scale, *, share: bool) -> list[Markup]:
    lasts = [next(d for d in reversed(line.dots) if math.isfinite(d.y)) for line in lines]
    bottom, top = y.range
    places = spread([y(d.y) + 4 for d in lasts], LABEL_GAP, top, bottom + 1)
    return [
        tag("text", f"{line.label} ", tag("tspan", number(line.dots[-1].y, share=share), class_="value"),
            class_=f"end c{line.colour}", x=x.range[1] + 8, y=place)
        for line, place in zip(lines, places, strict=True)
    ]  # fmt: skip
