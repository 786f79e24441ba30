"""Answer curves as a picture, for trackers that show images: the baseline's in grey, the present ones in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reasoning_guard.errors import warn_once
from reasoning_guard.evaluation import Evaluation, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

BEFORE, NOW = "#85807a", "#1f62a8"


def draw_curves(baseline: Evaluation, current: Evaluation, rows: Sequence[Row]) -> NDArray[np.uint8] | None:
    """Draw the answer curves of ``rows`` one below the other, each with its curve at the baseline.

    Trackers show images in narrow cards, so the picture is narrow.

    Args:
        baseline: The evaluation to compare with; may be ``current`` itself.
        current: The evaluation to which ``rows`` belong.
        rows: The rows to draw; rows without a curve are left out.

    Returns:
        Pixels ``[height, width, 3]``, or None if there is nothing to draw, or no matplotlib to draw it with.
    """
    shown = [row for row in rows if row.curve]
    if not shown:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # not pyplot: the user's own figures and backend are left alone
    except ImportError:
        warn_once("answer curves are not drawn: that needs matplotlib (pip install matplotlib)", key="no matplotlib")
        return None
    before = {} if baseline is current else {row.id: row for row in baseline.rows}
    figure = Figure(figsize=(3.6, 2.2 * len(shown)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axis, row in zip(axes, shown, strict=True):
        _draw(axis, before.get(row.id), row, baseline.step, current.step)
    figure.supylabel("log-probability of the reference answer, nats", fontsize=8)
    axes[-1].set_xlabel("steps read", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw(axis: Any, before: Row | None, now: Row, first: int, last: int) -> None:
    if before is not None and before.curve:
        axis.plot(before.curve, "o--", color=BEFORE, markersize=3, label=f"step {first}")
    axis.plot(now.curve, "o-", color=NOW, markersize=3, label=f"step {last}")
    title = axis.set_title(now.id[:40], fontsize=9, loc="left")
    title.set_parse_math(False)  # an id may hold a dollar sign
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
