"""Just enough SVG: escaped tags, linear scales, round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """Make one element. Every text and attribute is escaped unless it is markup already.

    Args:
        name: Element name.
        *children: Text or markup.
        **attributes: ``class_`` becomes ``class``, underscores become hyphens, None is left out, floats get one
            decimal.

    Example:
        >>> print(tag("text", "a < b", class_="tick", x=1.25))
        <text class="tick" x="1.2">a &lt; b</text>
    """
    shown = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    head = Markup("").join(Markup(' {}="{}"').format(k, _plain(v)) for k, v in shown)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), head, Markup("").join(map(escape, children)))


def _plain(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from a domain of values to pixels.

    Attributes:
        domain: Smallest and largest value; equal ends are allowed.
        range: The pixels of the two ends.
    """

    domain: tuple[float, float]
    range: tuple[float, float]

    def __call__(self, value: float) -> float:
        """Pixel of ``value``."""
        low, high = self.domain
        share = (value - low) / (high - low) if high > low else 0.5
        return self.range[0] + share * (self.range[1] - self.range[0])


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers between ``low`` and ``high``, at most ``most`` of them.

    Example:
        >>> ticks(0, 150), ticks(-2.4, 0, 3), ticks(0, 1, 3)
        ([0, 50, 100, 150], [-2, -1, 0], [0, 0.5, 1])
    """
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for unit in (power * f for f in (1, 2, 5, 10, 20, 50, 100)):
        first, last = math.ceil(low / unit - 1e-9), math.floor(high / unit + 1e-9)
        if last - first + 1 <= most:
            return [_clean(k * unit) for k in range(first, last + 1)]
    return [low]


def _clean(value: float) -> float:
    rounded = round(value, 10)
    return int(rounded) if rounded == int(rounded) else rounded


def path(points: Sequence[Point], *, closed: bool = False) -> str:
    """Return the ``d`` attribute of a line through ``points``."""
    body = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{body}{'Z' if closed else ''}"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart until they are ``gap`` pixels away from each other, and keep their order.

    Args:
        positions: Where the labels should be.
        gap: Smallest distance.
        low: Top of the available space.
        high: Bottom of it.

    Example:
        >>> spread([10, 11, 50], 12, 0, 60)
        [10, 22, 50]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    floor = low
    for i in order:
        placed[i] = floor = max(placed[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def segments(points: Iterable[Point | None]) -> list[list[Point]]:
    """Split a series at its gaps.

    Example:
        >>> segments([(0, 1), None, (2, 1), (3, 1)])
        [[(0, 1)], [(2, 1), (3, 1)]]
    """
    parts: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            parts.append([])
        else:
            parts[-1].append(point)
    return [part for part in parts if part]
