"""The part of a trace that may earn: its tokens up to the first statement of the answer, without repeats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from reasoning_guard.number_words import VALUES
from reasoning_guard.statements import calculates_with
from reasoning_guard.tokens import TokenText
from reasoning_guard.traces import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACES = 4
"""Places at which a text is read, whatever its length: after each quarter of it.

It is not read after each step, because the highest of many readings is high by chance, so a maximum over steps would
pay for cutting finer. A quarter of what is said is a quarter, however it is cut.
"""

_SAID = re.compile(r"\w+|[-−+*/×÷·^=≈<>≤≥]")
"""Words and operators: a step that differs from an earlier one in other marks alone repeats it."""
_BEHIND = 20
"""Characters behind a statement that tell whether it is calculated with."""
_LAID_DOWN = re.compile(r"[;\n]|[.!?](?=\s)")
"""Where a calculation may begin; steps do not matter, as they may be cut finer."""
_WORD = rf"(?:{'|'.join([*VALUES, 'hundred', 'thousand'])})\b"
_LISTS = re.compile(
    rf"(?:(?<![\w.])(?:\d[\d.,]*+|(?i:{_WORD}(?:[-\u2011]{_WORD})?+)|[A-Za-z])[)\]]?+\s*+"
    r"(?:[,;/|]\s*+)?+(?:(?:or|and)\s++)?+[(\[]?+)++"
)
"""Numbers, in figures or in words, or letters in a row; nothing in it can be read in two ways, so that a long one takes
time in its length."""


def cleaned(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> Trace:
    """Remove steps that repeat an earlier one, and steps without a letter or digit.

    A repeated step tells a reader nothing new, yet repetition makes readers sure. Filler is time to think and no text.
    What is left are the trace's own tokens. If the statement is part of a list of candidates, ``statement`` is moved to
    the beginning of the list: "it is 0, 1, 2" names 2, and the words before the 2 predict it, so a list counts as
    stated as a whole. Likewise, ``statement`` is moved to the beginning of a calculation in which the answer is an
    operand ("8 + 0 = 8"), because what predicts an operand need not know the answer.

    Args:
        trace: A trace.
        tokenizer: What it was read with.

    Returns:
        A trace with the same answer. An ordinary trace is returned as it is.
    """
    begin = _statement_begin(trace, tokenizer)
    kept = [span for keep, span in zip(_kept(trace.steps), pairwise(trace.cuts), strict=True) if keep]
    if len(kept) == trace.n_steps and begin == trace.statement:
        return trace
    ids, cuts = trace.ids[: trace.cuts[0]], [trace.cuts[0]]
    place: int | None = None
    for first, end in kept:
        if place is None and begin is not None and begin < end:
            place = len(ids) + max(0, begin - first)
        ids += trace.ids[first:end]
        cuts.append(len(ids))
    return replace(
        trace,
        completion_ids=ids[len(trace.prompt_ids) :],
        steps=tuple(step for keep, step in zip(_kept(trace.steps), trace.steps, strict=True) if keep),
        cuts=tuple(cuts),
        statement=len(ids) if begin is not None and place is None else place,
    )


def stated_ids(trace: Trace) -> tuple[int, ...]:
    """Return the ids of the trace's first statement of the reference answer; empty if there is none."""
    return () if trace.statement is None else trace.ids[trace.statement : trace.statement_end]


def places(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the token positions behind each quarter of the letters and digits before the statement, without ends.

    Letters and digits are counted, not tokens, so line breaks and marks put between them move no place.

    Args:
        trace: A trace, cleaned.
        tokenizer: What it was read with.

    Returns:
        Up to three increasing positions between the beginning of the reasoning and the statement (or the end).
    """
    prompt, end = len(trace.prompt_ids), committed(trace)
    tokens = TokenText.of(tokenizer, trace.completion_ids)
    begin, stop = tokens.length(trace.cuts[0] - prompt), tokens.length(end - prompt)
    said = [i for i in range(begin, stop) if tokens.text[i].isalnum()]
    counts = {len(said) * part // PLACES for part in range(1, PLACES)} - {0}
    found = {prompt + tokens.behind(said[count - 1] + 1) for count in counts}
    return tuple(sorted(place for place in found if place < end))


def committed(trace: Trace) -> int:
    """Return where the text stops earning: right before the answer is first stated, or at the reasoning's end."""
    return trace.cuts[-1] if trace.statement is None else trace.statement


def _statement_begin(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Where the first statement of the answer begins, a list or a calculation that it stands in included."""
    if trace.statement is None:
        return None
    prompt, start = len(trace.prompt_ids), trace.cuts[0] - len(trace.prompt_ids)
    tokens = TokenText.of(tokenizer, trace.completion_ids)
    opened = tokens.length(start)
    before = tokens.text[opened : tokens.length(trace.statement - prompt)]
    behind = tokens.text[tokens.length((trace.statement_end or trace.statement) - prompt) :]
    if calculates_with(before, trace.problem.answer or "", behind[:_BEHIND]):
        said = [mark.end() for mark in _LAID_DOWN.finditer(before)]
        return prompt + max(start, tokens.before(opened + max(said, default=0)))
    listed = _list_begin(before + " ")
    if listed is None:
        return trace.statement
    return prompt + max(start, tokens.before(opened + len(before[:listed].rstrip(" "))))


def _list_begin(before: str) -> int | None:
    """Where the list begins in which a text ends; None where it ends in none."""
    return next((listed.start() for listed in _LISTS.finditer(before) if listed.end() == len(before)), None)


def _kept(steps: Sequence[str]) -> list[bool]:
    """Whether each step is new and says anything."""
    seen: set[tuple[str, ...]] = set()
    kept: list[bool] = []
    for step in steps:
        said = tuple(_SAID.findall(step.casefold()))
        kept.append(said not in seen and any(map(str.isalnum, step)))
        seen.add(said)
    return kept
