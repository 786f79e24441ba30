"""What of a trace may earn: its own tokens up to the first statement of the answer, without repeats and filler."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from reasoning_guard.tokens import TokenText
from reasoning_guard.traces import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACES = 4
"""Places at which a text is read, whatever its length: after each quarter of it.

Not after each step: the highest of many readings is high by chance, so a maximum over steps would pay for cutting
finer. A quarter of the text is a quarter however it is cut.
"""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The part of a trace that is read, as token ids of the trace itself.

    Attributes:
        ids: Prompt and reasoning; steps that repeat an earlier one and steps without a letter or digit are left out.
        start: Where the reasoning begins in ``ids``.
        commitment: Where the answer is first stated in ``ids``; ``len(ids)`` when the reasoning never states it.
        stated: Ids of that first statement; empty when there is none.
    """

    ids: tuple[int, ...]
    start: int
    commitment: int
    stated: tuple[int, ...]

    @property
    def places(self) -> tuple[int, ...]:
        """Positions in ``ids`` after each quarter of what stands before the commitment, that itself left out."""
        length = self.commitment - self.start
        return tuple(sorted({self.start + length * i // PLACES for i in range(1, PLACES)} - {self.start}))


def excerpt(trace: Trace, begin: int | None = None) -> Excerpt:
    """Take from ``trace`` what may earn.

    A repeated step tells a reader nothing that it has not read, yet repetition makes readers sure; filler is time to
    think and no text. Both are taken out, so that they cannot pay.

    Args:
        trace: A trace of which it is known where it first states the answer.
        begin: Where that statement begins if not at ``trace.statement``: a list of candidates begins with its first.

    Returns:
        Its excerpt. A trace with nothing to take out is its own excerpt.

    Example:
        >>> from reasoning_guard.problems import Problem
        >>> problem = Problem(prompt="?", answer="5")
        >>> text, cuts = ("1 + 1 = 2 ;", "1 + 1 = 2 ;", "... ;", "2 + 3 = 5 ;"), (1, 7, 13, 15, 21)
        >>> trace = Trace(problem=problem, prompt_ids=(0,), completion_ids=tuple(range(1, 22)), text="", steps=text,
        ...               cuts=cuts, answer="5", correct=True, statement=19, statement_end=20)
        >>> excerpt(trace)
        Excerpt(ids=(0, 1, 2, 3, 4, 5, 6, 15, 16, 17, 18, 19, 20), start=1, commitment=11, stated=(19,))
    """
    stops = trace.statement if begin is None else begin
    kept = [piece for keep, piece in zip(_kept(trace.steps), pairwise(trace.cuts), strict=True) if keep]
    ids = trace.ids[: trace.cuts[0]]
    commitment: int | None = None
    for first, end in kept:
        if commitment is None and stops is not None and stops < end:
            commitment = len(ids) + max(0, stops - first)
        ids += trace.ids[first:end]
    stated = () if trace.statement is None else trace.ids[trace.statement : trace.statement_end]
    return Excerpt(ids, trace.cuts[0], len(ids) if commitment is None else commitment, stated)


_LIST = re.compile(r"(?:(?<![\w.])(?:\d[\d.,]*|[A-Za-z])[)\]]?\s*(?:[,;/|]\s*)?(?:(?:or|and)\s+)?[(\[]?)+\Z")


def statement_begin(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Where the first statement of the answer begins, a list of candidates that it stands in included.

    "It is 0, 1, 2" names 2, and what stands before the 2 predicts it. So a list is stated as a whole, where it begins.

    Args:
        trace: A trace of which it is known where it first states the answer.
        tokenizer: What the trace was read with.

    Returns:
        A position in ``trace.ids``, or None when the reasoning never states the answer.
    """
    if trace.statement is None:
        return None
    prompt, start = len(trace.prompt_ids), trace.cuts[0] - len(trace.prompt_ids)
    tokens = TokenText.of(tokenizer, trace.completion_ids)
    opened, stated = tokens.length(start), tokens.length(trace.statement - prompt)
    listed = _LIST.search(tokens.text[opened:stated] + " ")
    if listed is None:
        return trace.statement
    return prompt + max(start, tokens.before(opened + len(tokens.text[opened : opened + listed.start()].rstrip(" "))))


def _kept(steps: Sequence[str]) -> list[bool]:
    """Whether each step is new and says anything."""
    seen: set[str] = set()
    kept: list[bool] = []
    for step in steps:
        said = " ".join("".join(c if c.isalnum() or not c.isspace() else " " for c in step.casefold()).split())
        kept.append(said not in seen and any(map(str.isalnum, said)))
        seen.add(said)
    return kept
