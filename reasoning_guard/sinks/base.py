"""What a sink is, and which traces are worth showing."""

from __future__ import annotations

from typing import Protocol

from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row

LONGEST = 4_000
"""Characters of a trace that a tracker shows; the records keep all of it."""


class Sink(Protocol):
    """Receives what happens. A sink that raises loses its message, never the run."""

    def evaluation(self, baseline: Evaluation, current: Evaluation) -> None:
        """Receive an evaluation; at the baseline, and before there is one, both arguments are the same."""
        ...

    def alert(self, alert: Alert) -> None:
        """Receive a new alert."""
        ...


def worst_rows(baseline: Evaluation, current: Evaluation, name: str = "info_gain", count: int = 3) -> list[Row]:
    """Return rows of ``current`` that lost most of ``name`` since the baseline; at the baseline, those with least."""
    before, after = baseline.values(name), current.values(name)
    lost = {id: value - (0.0 if current is baseline else before[id]) for id, value in after.items() if id in before}
    chosen = sorted(lost, key=lambda id: lost[id])[:count]
    rows = {row.id: row for row in current.rows}
    return [rows[id] for id in chosen]


def shorten(text: str) -> str:
    """Return at most :data:`LONGEST` characters of ``text``."""
    return text if len(text) <= LONGEST else text[:LONGEST] + " […]"
