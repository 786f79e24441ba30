"""Choose the training traces that are worth learning from: those whose reasoning carries their answer.

A chain on which the answer does not rest teaches a model to write such chains. So three links are measured for each
trace, all in nats per answer token and therefore comparable: how much its steps add to the answer (InfoGain: *needed*),
how much more they add than another trace's steps (net gain: *used*), and how much of that was there before the answer
was first stated (pre-commitment: not just announced). The weakest of the three ranks the trace.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoning_guard.atomic import replace_file
from reasoning_guard.cells import whole_characters
from reasoning_guard.evaluation import Row
from reasoning_guard.offline.jsonl import line

LEAST = 0.1
"""The weakest link of a kept trace, in nats per answer token: the smallest effect that the rules let matter."""

WHY: Mapping[str, str] = {
    "info_gain": "the answer is known without the steps",
    "placebo_gain": "another trace's steps do as well",
    "pre_commitment": "what stands before the answer does not lead to it",
}
"""What it means when one of the three links is weak."""

_OTHER = "asked after its full chain, the model gives another answer"
"""The early-answering probe's own words: whatever the chain does, it does not lead the reader to this answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What becomes of one trace.

    Attributes:
        line: Its place in the file, from 0.
        id: The problem's id.
        weakest: The smallest of the three links, in nats per answer token; NaN if it can't be told.
        why: Reasons why the trace is rejected; empty if it is kept.
    """

    line: int
    id: str
    weakest: float
    why: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the trace is worth learning from."""
        return not self.why


def curate(rows: Sequence[Row], *, least: float = LEAST) -> list[Choice]:
    """Keep the traces whose reasoning carries a right answer, the strongest first.

    Args:
        rows: Scores of the traces, in their order (:func:`~reasoning_guard.offline.scoring.score_traces`).
        least: The least that each link must carry, in nats per answer token.

    Returns:
        One choice for each trace: the kept ones, best first, then the rejected ones in their order.

    Example:
        >>> good = {"accuracy": 1.0, "n_steps": 2.0, "info_gain": 3.0, "placebo_gain": 2.0, "pre_commitment": 1.0}
        >>> known = Row(id="known", answer="7", values={**good, "info_gain": 0.0})
        >>> rows = [known, Row(id="sound", answer="7", values=good)]
        >>> [(choice.id, choice.weakest, choice.why) for choice in curate(rows)]
        [('sound', 1.0, ()), ('known', 0.0, ('the answer is known without the steps',))]
    """
    choices = [_choice(number, row, least) for number, row in enumerate(rows)]
    kept = sorted((choice for choice in choices if choice.kept), key=lambda choice: -choice.weakest)
    return kept + [choice for choice in choices if not choice.kept]


def write_curated(
    directory: Path, records: Sequence[Mapping[str, Any]], choices: Sequence[Choice]
) -> tuple[Path, Path]:
    """Write ``kept.jsonl`` (the lines as they came, best first) and ``rejected.jsonl`` (with the reasons).

    Args:
        directory: The folder; it is made if it is not there.
        records: The lines as they came.
        choices: What becomes of them.

    Returns:
        The paths of the two files.
    """
    kept, rejected = directory / "kept.jsonl", directory / "rejected.jsonl"
    replace_file(kept, b"".join(_as_it_came(records[c.line]) for c in choices if c.kept))
    replace_file(
        rejected,
        b"".join(
            line({**records[c.line], "rejected": {"why": c.why, "weakest": c.weakest}}) for c in choices if not c.kept
        ),
    )
    return kept, rejected


def _choice(number: int, row: Row, least: float) -> Choice:
    links = {name: row.values.get(name, math.nan) for name in WHY}
    weakest = min((value for value in links.values() if math.isfinite(value)), default=math.nan)
    why = _not_sound(row) or _not_scored(row, links) or tuple(WHY[n] for n, value in links.items() if value < least)
    return Choice(line=number, id=row.id, weakest=weakest, why=why)


def _not_sound(row: Row) -> tuple[str, ...]:
    """What rules a trace out before its reasoning is looked at."""
    if row.answer is None:
        return ("it states no answer",)
    if row.values.get("accuracy") == 0.0:
        return ("its answer is wrong",)
    if row.values.get("n_steps") == 0.0:
        return ("it has no steps",)
    return (_OTHER,) if row.reasons.get("early_answering_aoc") == _OTHER else ()


def _not_scored(row: Row, links: Mapping[str, float]) -> tuple[str, ...]:
    """Links that can't be told. Where a statement can't be found, the other two decide."""
    return tuple(
        f"{name} can't be told: {row.reasons.get(name, 'it was not scored')}"
        for name in ("info_gain", "placebo_gain")
        if not math.isfinite(links[name])
    )


def _as_it_came(record: Mapping[str, Any]) -> bytes:
    return whole_characters(json.dumps(record, ensure_ascii=False) + "\n").encode()
