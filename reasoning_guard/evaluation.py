"""One held-out evaluation: a row for each problem, with all probe values, and where the time went.

This module holds values, not behaviour. :mod:`reasoning_guard.evaluate` fills an :class:`Evaluation`,
:mod:`reasoning_guard.history` keeps it on disk, and :mod:`reasoning_guard.rules` compares two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import dropwhile
from typing import Any

REFERENCE_PREFIX = "reference/"
"""Values that the frozen reference read have this prefix; the model in training read the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Everything that one evaluation found out about one problem.

    Attributes:
        id: The problem's id; rows of two evaluations are paired by it.
        set: The problem's set, "id" unless the user named others.
        values: Probe value by name; NaN if there is nothing to say.
        reasons: Why a value is NaN, by name.
        prompt: The prompt as text.
        completion: What the model wrote.
        steps: The reasoning steps.
        curve: ``lp_k`` for ``k = 0..n`` in nats: log-probability of the reference answer after ``k`` steps, read by the
            model in training; empty when not scored.
        n_tokens: Number of the reference answer's tokens in the curve; 0 when not scored.
        same: For each ``k``, whether the answer asked for after ``k`` steps is the final one; empty when not asked.
        answer: The final answer that the model gave, or None.
        reference: The reference answer, or None when the problem has none.
        notes: Whatever is odd about the trace.
    """

    id: str
    set: str = "id"
    values: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    completion: str = ""
    steps: tuple[str, ...] = ()
    curve: tuple[float, ...] = ()
    n_tokens: int = 0
    same: tuple[bool, ...] = ()
    answer: str | None = None
    reference: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All rows of one held-out evaluation.

    Attributes:
        step: Training step at which the model was read; 0 is the baseline.
        rows: One row for each problem, in the order of the problems.
        seconds: Wall time by part: "generation", "scoring", "reading", "total".
        created: UTC time in ISO format.
        failure: Why this evaluation failed, or None. A failed evaluation has no rows.
        gated: Sets whose accuracy is so low that dependence on the text means nothing (see
            :mod:`reasoning_guard.gate`).
    """

    step: int
    rows: tuple[Row, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    created: str = ""
    failure: str | None = None
    gated: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the problem sets, in order of first appearance."""
        return tuple(dict.fromkeys(row.set for row in self.rows))

    def names(self) -> tuple[str, ...]:
        """Names of all values that any row holds, in order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.values))

    def values(self, name: str, set: str | None = None) -> dict[str, float]:
        """Finite values of ``name`` by problem id.

        Args:
            name: Value name, e.g. ``"info_gain"`` or ``"reference/info_gain"``.
            set: Only rows of this problem set; None takes the first set.

        Returns:
            Problem id to value; problems whose value is NaN are left out (see :meth:`unscored_fraction`).
        """
        return {row.id: v for row, v in self._column(name, set) if math.isfinite(v)}

    def mean(self, name: str, set: str | None = None) -> float:
        """Mean of the finite values of ``name``, NaN when there are none."""
        found = self.values(name, set)
        return sum(found.values()) / len(found) if found else math.nan

    def unscored_fraction(self, name: str, set: str | None = None) -> float:
        """Share of problems for which ``name`` is NaN."""
        column = [v for _, v in self._column(name, set)]
        return sum(not math.isfinite(v) for v in column) / len(column) if column else math.nan

    def _column(self, name: str, set: str | None) -> Iterator[tuple[Row, float]]:
        wanted = set if set is not None else (self.sets[0] if self.rows else "")
        return ((row, row.values.get(name, math.nan)) for row in self.rows if row.set == wanted)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able types; NaN becomes None."""
        record = asdict(self)
        for row in record["rows"]:
            row["values"] = {k: v if math.isfinite(v) else None for k, v in row["values"].items()}
            row["curve"] = [v if math.isfinite(v) else None for v in row["curve"]]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Evaluation:
        """Inverse of :meth:`to_dict`."""
        return cls(
            **{**record, "rows": tuple(_row(r) for r in record.get("rows", ())), "gated": tuple(record["gated"])}
        )


def finite(rows: Iterable[Row], name: str) -> list[float]:
    """Return the finite values of ``name``, without the rows that lack one.

    >>> finite([Row(id="a", values={"gain": 1.0}), Row(id="b", values={"gain": math.nan}), Row(id="c")], "gain")
    [1.0]
    """
    return [value for row in rows if math.isfinite(value := row.values.get(name, math.nan))]


def _row(record: Mapping[str, Any]) -> Row:
    values = {k: math.nan if v is None else float(v) for k, v in record["values"].items()}
    curve = tuple(math.nan if v is None else float(v) for v in record["curve"])
    lists = {k: tuple(record.get(k, ())) for k in ("steps", "notes", "same")}
    return Row(**{**record, **lists, "values": values, "curve": curve})


def from_baseline(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Return the evaluations that count: from the baseline on, without failed ones.

    Args:
        evaluations: The evaluations in the order of their steps. The baseline is the first that is above chance.

    Example:
        >>> rows = (Row(id="a"),)
        >>> lost, found = Evaluation(step=0, rows=rows, gated=("id",)), Evaluation(step=5, rows=rows)
        >>> [e.step for e in from_baseline([lost, Evaluation(step=2, failure="boom"), found])]
        [5]
    """
    sound = (e for e in evaluations if e.failure is None and e.rows)
    return list(dropwhile(lambda e: e.sets[0] in e.gated, sound))
