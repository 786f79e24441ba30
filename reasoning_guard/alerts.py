"""Alerts: what happened, how sure that is, since when, why, and where to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reasoning_guard.evaluation import Evaluation
from reasoning_guard.statistics import Change

UNITS: Mapping[str, frozenset[str]] = {
    "nats/token": frozenset({"prior", "posterior", "info_gain", "placebo_gain", "filler_gain", "pre_commitment"}),
    "share": frozenset({"accuracy", "answered", "finished", "early_answering_aoc", "answered_at", "info_gain_share"})
    | {"placebo_changed", "filler_changed", "mistake_changed", "chain_holds", "links_followed", "answer_link"}
    | {"repetition", "forking_share"}
    | {"confidence", "brier", "overconfidence", "ece"},
}

TRACE_LENGTH = 240
"""Most characters of a trace that an alert shows: six of them must not fill a screen."""

GAP = " ... "


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How one problem fared.

    Attributes:
        id: The problem's id.
        values: Name, baseline value and current value of each change that the problem takes part in.
        before: What the model wrote at the baseline, as :func:`excerpt` shows it; empty if that is not known.
        now: What it wrote at this evaluation, likewise.
    """

    id: str
    values: tuple[tuple[str, float, float], ...]
    before: str = ""
    now: str = ""

    def __str__(self) -> str:
        """E.g. ``p7 (placebo_gain 3.10 -> 0.02)``."""
        return f"{self.id} ({', '.join(f'{name} {was:z.2f} -> {now:z.2f}' for name, was, now in self.values)})"

    def lines(self) -> list[str]:
        """Lines for people: what the problem lost, and what was written before and now, where that is known."""
        traces = (("before", self.before), ("now", self.now))
        return [f"  worst: {self}", *(f"    {when}: {trace}" for when, trace in traces if trace)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One cause, reported once and then kept up to date.

    Attributes:
        key: Identity of the cause; a later alert of the same key replaces this one.
        rule: Name of the rule.
        severity: "alarm" or "notice".
        step: Last training step at which it held.
        since: First step of the unbroken row of evaluations at which this alert, or another that rests on the same
            fall, held.
        told: Step at which it was first reported, after it had held long enough. An alert that was over and holds again
            has begun later than that.
        against: Step of the baseline.
        open: Whether it holds at the latest evaluation.
        message: What happened.
        changes: The evidence.
        causes: What explains it.
        worst: The problems that lost most, with their traces.
        advice: What to look at.
    """

    key: str
    rule: str
    severity: Literal["alarm", "notice"]
    step: int
    since: int
    told: int = 0
    against: int = 0
    open: bool = True
    message: str = ""
    changes: tuple[Change, ...] = ()
    causes: tuple[str, ...] = ()
    worst: tuple[Loss, ...] = ()
    advice: str = ""

    def text(self) -> str:
        """The alert for people, a few lines."""
        over = "" if self.open else ", over by now"
        when = f"at step {self.step} (since step {self.since}{over}; compared with step {self.against})"
        lines = [f"{self.severity.upper()} {self.rule} {when}: {self.message}"]
        several = len({change.set for change in self.changes}) > 1
        lines += [f"  {_change(change, show_set=several)}" for change in self.changes]
        lines += [f"  why: {cause}" for cause in self.causes]
        lines += [line for loss in self.worst for line in loss.lines()]
        if self.advice:
            lines.append(f"  look at: {self.advice}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Alert:
        """Inverse of :meth:`to_dict`."""
        values: dict[str, Any] = dict(record)
        values["changes"] = tuple(Change(**change) for change in record["changes"])
        values["worst"] = tuple(Loss(**{**w, "values": tuple(map(tuple, w["values"]))}) for w in record["worst"])
        values["causes"] = tuple(record["causes"])
        return cls(**values)


def worst_problems(
    baseline: Evaluation, current: Evaluation, changes: Sequence[Change], count: int = 3
) -> tuple[Loss, ...]:
    """Find the problems that moved most with ``changes``; each change has the same weight.

    Args:
        baseline: The evaluation from which ``changes`` start.
        current: The evaluation that they lead to.
        changes: What moved.
        count: How many problems to name.

    Returns:
        At most ``count`` problems with their traces, the worst first.
    """
    weight: dict[str, float] = {}
    parts: dict[str, list[tuple[str, float, float]]] = {}
    for change in changes:
        before, after = baseline.values(change.name, change.set), current.values(change.name, change.set)
        for id in (id for id in before if id in after):
            weight[id] = weight.get(id, 0.0) + (after[id] - before[id]) / (change.difference or 1.0)
            parts.setdefault(id, []).append((change.name, before[id], after[id]))
    worst = sorted(weight, key=lambda id: -weight[id])[:count]
    was, now = ({row.id: excerpt(row.completion) for row in e.rows if row.id in worst} for e in (baseline, current))
    return tuple(Loss(id=id, values=tuple(parts[id]), before=was[id], now=now[id]) for id in worst)


def excerpt(trace: str, length: int = TRACE_LENGTH) -> str:
    r"""Shorten a trace to one line of at most ``length`` characters: its beginning, and its end with the answer.

    What a model writes is shown in terminals and logs, so nothing in it may act there. Runs of white space become one
    space, and so do characters that are not printable (control characters, escape sequences, changes of direction).

    Args:
        trace: What the model wrote.
        length: Most characters, at least 8.

    Returns:
        The line.

    Example:
        >>> excerpt("b = 3 + 4 = 7 ;\nc = 7 * 2 = 14 ;\n# 14", length=30)
        'b = 3 + 4 = 7 ; c  ...  ; # 14'
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in trace).split())
    if len(line) <= length:
        return line
    ending = length // 4
    return f"{line[: length - ending - len(GAP)]}{GAP}{line[-ending:]}"


def unit(name: str) -> str:
    """Return the unit of a value, or an empty text if it is not known.

    >>> unit("reference/info_gain"), unit("accuracy"), unit("my_value")
    ('nats/token', 'share', '')
    """
    plain = name.rpartition("/")[2]
    return next((unit for unit, names in UNITS.items() if plain in names), "")


def _change(change: Change, *, show_set: bool) -> str:
    name = f"{change.name} on {change.set}" if show_set else change.name
    values = f"{name}: {change.baseline:z.2f} -> {change.current:z.2f} {unit(change.name)}".rstrip()
    lower, upper = change.bounds(share=unit(change.name) == "share")
    interval = f"change {change.difference:+z.2f}, between {lower:+z.2f} and {upper:+z.2f}"
    return f"{values} ({interval} at level {change.level:.1g}, n = {change.n})"
