"""One evaluation on one line, for consoles."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.rules import names_of

SHOWN = ("info_gain", *names_of("used", "informative"))
"""Values that are on the line beside the accuracies."""


def one_line(baseline: Evaluation, current: Evaluation, alerts: Sequence[Alert] = ()) -> str:
    """Say what a user wants to see of an evaluation while the run goes on; the records hold the rest.

    Args:
        baseline: The evaluation to compare with; may be ``current`` itself.
        current: The evaluation to report.
        alerts: The guard's alerts; the open ones are named.

    Returns:
        A line without a newline.

    Example:
        >>> from reasoning_guard.evaluation import Row
        >>> was, now = (
        ...     Evaluation(step=s, rows=(Row(id="p", values={"accuracy": float(s > 0), "info_gain": 2.0 - s / 10}),))
        ...     for s in (0, 10)
        ... )
        >>> one_line(was, now)
        'guard, step 10: accuracy 0.00 -> 1.00, info_gain 2.00 -> 1.00'
    """
    if current.failure is not None:
        return f"guard, step {current.step}: the evaluation failed: {current.failure}"
    accuracies = [("accuracy", None), *((f"accuracy ({set})", set) for set in current.sets[1:])]
    cells = [_cell(title, baseline.mean("accuracy", set), current.mean("accuracy", set)) for title, set in accuracies]
    cells += [_cell(name, baseline.mean(name), current.mean(name)) for name in SHOWN]
    took = current.seconds.get("total")
    cells += [f"{took:.1f} s"] if took else []
    cells += [f"{alert.severity.upper()} {alert.rule}" for alert in alerts if alert.open]
    return f"guard, step {current.step}: {', '.join(filter(None, cells))}"


def _cell(title: str, was: float, now: float) -> str:
    if math.isnan(now):
        return ""
    return f"{title} {now:.2f}" if math.isnan(was) or was == now else f"{title} {was:.2f} -> {now:.2f}"
