"""One evaluation on one line, for consoles."""

from __future__ import annotations

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
    cells = [_cell(title, baseline, current, "accuracy", set) for title, set in accuracies]
    cells += [_cell(name, baseline, current, name) for name in SHOWN]
    took = current.seconds.get("total")
    cells += [f"{took:.1f} s"] if took else []
    cells += [f"{alert.severity.upper()} {alert.rule}" for alert in alerts if alert.open]
    return f"guard, step {current.step}: {', '.join(filter(None, cells))}"


def _cell(title: str, baseline: Evaluation, current: Evaluation, name: str, set: str | None = None) -> str:
    """The mean before and now, of the problems that both scored, or the mean now; empty without any."""
    before, after = baseline.values(name, set), current.values(name, set)
    both = [id for id in before if id in after]
    if not both:
        return f"{title} {current.mean(name, set):z.2f}" if after else ""
    was, now = (sum(values[id] for id in both) / len(both) for values in (before, after))
    return f"{title} {now:z.2f}" if was == now else f"{title} {was:z.2f} -> {now:z.2f}"
