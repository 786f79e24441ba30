"""What a text must beat: no text at all, and texts that were written for something else.

A group has one baseline. It is chosen by the problem and by what was written for *other* problems, never by the
completion that is graded or by others of its group. So nothing that is done to a completion (splitting, padding,
repeating) moves what it is compared with. Any text, and long text above all, can make an answer likelier to some
readers. So the texts are taken from the longer half of what was written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from reasoning_guard.probes.controls import answer_key
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.tokens import Ids
from reasoning_guard.traces import Trace

FILLER = (8, 32, 128)
"""Lengths of the filler, in tokens, where nobody wrote for another problem."""


def donors(problem: Problem, everyone: Sequence[Trace]) -> list[Trace]:
    """Choose three chains of other problems that don't lead to this answer: median, upper quartile and longest.

    A trace without an answer gives no chain, since nobody knows where it leads. Among chains of one length a hash of
    the problem decides, so that no single trace serves all problems and every process makes the same choice.

    Args:
        problem: The problem whose group needs a baseline.
        everyone: All traces of the batch, of all processes, in any order.

    Returns:
        At most three donors; none if no other problem has a chain.
    """
    answer = answer_key(problem.answer)
    fits = [
        t
        for t in everyone
        if t.n_steps
        and t.answer is not None
        and t.problem.id != problem.id
        and t.problem.set == problem.set
        and answer_key(t.answer) != answer
    ]
    ranked = sorted(fits, key=lambda t: (len(t.reasoning_ids), t.problem.id, t.reasoning_ids))
    lengths = [len(t.reasoning_ids) for t in ranked]
    chosen: dict[int, Trace] = {}
    for part in range(3 if ranked else 0):
        length = lengths[(2 + part) * (len(ranked) - 1) // 4]
        first, stop = bisect_left(lengths, length), bisect_right(lengths, length)
        at = first + _draw(f"{problem.id}/{part}") % (stop - first)
        chosen[at] = ranked[at]
    return list(chosen.values())


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the completions of one prompt are compared with.

    Attributes:
        opening: The tag that opens the reasoning, if the format has one and the prompt does not end inside it.
        texts: Texts to read in place of the reasoning: other problems' chains, or filler of three lengths.
    """

    opening: Ids
    texts: tuple[Ids, ...]

    @classmethod
    def of(cls, problem: Problem, everyone: Sequence[Trace], reader: TraceReader) -> Baseline:
        """Choose the baseline for the group of ``problem``.

        Args:
            problem: The problem that the group answers.
            everyone: All traces of the batch, of all processes.
            reader: Reads in the run's format.
        """
        texts = [donor.reasoning_ids for donor in donors(problem, everyone)]
        return cls(_opening(problem, reader), tuple(texts or map(reader.filler_ids, FILLER)))


def _opening(problem: Problem, reader: TraceReader) -> Ids:
    opens, closes = reader.format.reasoning_open, reader.format.reasoning_close
    if opens is None or closes is None:
        return ()
    prompt = reader.prompt_text(problem)
    return () if prompt.rfind(opens) > prompt.rfind(closes) else reader.encode_after(prompt, opens)


def _draw(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")
