"""Numbers as tables that fit 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from textwrap import fill

from rich.markup import escape
from rich.table import Table

from reasoning_guard.alerts import Alert
from reasoning_guard.offline.summary import Summary
from reasoning_guard.report.measures import measure
from reasoning_guard.report.numbers import number, signed
from reasoning_guard.statistics import Change

AXES = (
    *("accuracy", "reference/info_gain", "info_gain", "placebo_gain", "pre_commitment", "early_answering_aoc"),
    *("placebo_changed", "mistake_changed", "filler_changed", "chain_holds"),
)
BESIDE = ("prior", "posterior", "tokens", "n_steps", "answered", "finished")
"""What a table shows of the first set, and :data:`AXES` of all; the files and --json hold every value."""

_UNITS = {"nats per answer token": "nats", "share of problems": "", "share": ""}


def summary_table(summaries: Sequence[Summary], title: str) -> Table:
    """Means with their intervals: a row for each value, a block for each problem set."""
    table = _table(title, "", "mean", "95 % interval", "n", "unscored")
    for set in (sets := list(dict.fromkeys(s.set for s in summaries))):
        of_set = {s.name: s for s in summaries if s.set == set}
        if len(sets) > 1:
            table.add_section()
            table.add_row(f"[bold]set {escape(set)}[/]")
        for name in _shown(of_set, first=set == sets[0]):
            table.add_row(_label(name), *_estimate(of_set[name]))
    return table


def _estimate(found: Summary) -> tuple[str, ...]:
    e, share = found.estimate, measure(found.name).bounded
    if e is None:
        return number(None), "", "0", str(found.unscored)
    ends = (number(end, share=share) for end in (e.lower, e.upper))
    interval = " to ".join(ends) if math.isfinite(e.lower) else ""
    return number(e.mean, share=share), interval, str(e.n), str(found.unscored or "")


def change_table(changes: Sequence[Change], title: str) -> Table:
    """Before, after, and the paired change with its interval: a row for each value, a block for each problem set."""
    table = _table(title, "", "base", "tuned", "change", "95 % interval", "n")
    for set in (sets := list(dict.fromkeys(c.set for c in changes))):
        of_set = {c.name: c for c in changes if c.set == set}
        if len(sets) > 1:
            table.add_section()
            table.add_row(f"[bold]set {escape(set)}[/]")
        for name in _shown(of_set, first=set == sets[0]):
            c, share = of_set[name], measure(name).bounded
            ends = (number(value, share=share) for value in (c.baseline, c.current))
            style = "bold" if c.lower > 0 or c.upper < 0 else ""
            table.add_row(
                _label(name),
                *ends,
                signed(c.difference),
                f"{signed(c.lower)} to {signed(c.upper)}",
                str(c.n),
                style=style,
            )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0)
    return table


def alert_text(alert: Alert, width: int) -> str:
    """An alert in lines of at most ``width`` characters; continued lines are indented."""
    head = f"{alert.severity.upper()} {alert.rule}: {alert.message}"
    lines = [head, *alert.text().splitlines()[1:]]  # the first says when, which means nothing for two models
    return "\n".join(fill(each, width, subsequent_indent="    ") for each in lines)


def _shown(names: Iterable[str], first: bool) -> list[str]:
    known = set(names)
    return [name for name in (*AXES, *(BESIDE if first else ())) if name in known]


def _label(name: str) -> str:
    what = measure(name)
    unit = _UNITS.get(what.unit, what.unit)
    return escape(f"{what.full_label}, {unit}" if unit else what.full_label)
