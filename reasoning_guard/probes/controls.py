"""Controls: does the model's answer need *these* steps, or would any text of that shape do?

Both controls keep a full-length trace in front of the question. So unlike cutting, they ask nothing in a shape that the
model has never seen.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import groupby

from reasoning_guard.answers import normalise
from reasoning_guard.plain_numbers import plain_number
from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore

_NOTHING = "there is nothing to put in the steps' place"


class ReplacementProbe(Probe):
    """Replaces the steps, or those behind the first ``after`` of the chain, by other tokens.

    Reports two values. ``<control>_gain`` is the posterior after the trace's own steps minus the posterior after the
    replacement, in nats per token of the reference answer. ``<control>_changed`` is 1 if the model's own answer is no
    longer the greedy one, else 0. A trace without steps has nothing to replace and reads 0 in both.

    Args:
        after: Share of the steps that stay in place, from the first on; 0 replaces the whole chain.

    Attributes:
        control: The names of the values are this followed by ``_gain`` and ``_changed``.
    """

    control: str
    after: float = 0.0

    def __init__(self) -> None:
        self.names = (f"{self.control}_gain", f"{self.control}_changed")
        self.gated = self.names[1:]

    def kept(self, trace: Trace) -> int:
        """Return the token position behind the steps that stay."""
        return trace.cuts[int(self.after * trace.n_steps)]

    @abstractmethod
    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Return token ids to replace what is not kept, or None if there are none to be had."""

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the reference answer and the own answer, after the own steps and after the replacement."""
        answers = [a for a in (trace.problem.answer, trace.answer) if a is not None]
        other = self.replacement(trace, context) if trace.n_steps else None
        if other is None:
            return []
        questions = [context.reader.ask(answer) for answer in answers]
        own = [question.branch(trace.cuts[-1]) for question in questions]
        return own + [question.branch(self.kept(trace), before=other) for question in questions]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Compare the own steps with the replacement."""
        reading = Reading()
        half = len(scores) // 2
        for name, value, reason in (
            (f"{self.control}_gain", *self._gain(trace, scores[:half], scores[half:])),
            (f"{self.control}_changed", *self._changed(trace, scores[:half], scores[half:])),
        ):
            if reason is None and math.isfinite(value):
                reading.values[name] = value
            else:
                reading.unscored([name], reason or "longer than the model's context, or not a finite score")
        return reading

    def _gain(
        self, trace: Trace, own: Sequence[BranchScore], spliced: Sequence[BranchScore]
    ) -> tuple[float, str | None]:
        """How much less likely the reference answer is after the replacement, or why that can't be said."""
        if trace.problem.answer is None:
            return math.nan, "the problem has no reference answer"
        if not trace.n_steps:
            return 0.0, None
        return (own[0].mean - spliced[0].mean, None) if own else (math.nan, _NOTHING)

    def _changed(
        self, trace: Trace, own: Sequence[BranchScore], spliced: Sequence[BranchScore]
    ) -> tuple[float, str | None]:
        """Whether the trace's own answer is no longer the greedy one, or why that can't be said."""
        if trace.answer is None:
            return math.nan, "the trace gives no answer"
        if not trace.n_steps:
            return 0.0, None
        if not own:
            return math.nan, _NOTHING
        if not math.isfinite(own[-1].total + spliced[-1].total):
            return math.nan, None
        if not own[-1].all_greedy:
            return math.nan, "asked after its full chain, the model gives another answer"
        return float(not spliced[-1].all_greedy), None


class PlaceboProbe(ReplacementProbe):
    """Replaces the trace's own steps by another problem's steps of like length.

    The donor is the trace of the same evaluation whose steps are nearest in length and which does not lead to this
    problem's answer. ``placebo_gain`` is the net gain of the text over "some reasoning". It tells a model that reads
    its chain from one that only writes it, even if chains were never cut in training. arXiv 2505.13775 ("reasonless
    intermediate tokens") swaps chains between problems in training. Models trained on swapped chains were about as
    accurate, so accuracy cannot replace this measure.

    What it cannot tell: whether the last step was itself written from a shortcut, because the model does read that
    step; why the answer changed, since another problem's numbers may mislead rather than merely say nothing; anything,
    if problems share their steps, or are so few that the nearest donor has a very different length.
    """

    readers = ("policy", "reference")
    control = "placebo"

    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Return the steps of the nearest donor."""
        donor = nearest_donor(trace, context.traces)
        return None if donor is None else donor.reasoning_ids


class NullProbe(ReplacementProbe):
    """Replaces the trace's own steps by themselves, which must change nothing, exactly.

    ``null_gain`` and ``null_changed`` are 0 for every trace, to the last bit. Anything else means that scores depend on
    how a question is asked and not on what it says, so that no other probe can be believed. The probe costs nothing.
    The control is taken from VLADriveBench, where shuffled tokens reproduced an "effect".

    What it cannot tell: anything about a model. It tests the instrument.
    """

    control = "null"

    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Return the trace's own steps."""
        return trace.reasoning_ids


def nearest_donor(trace: Trace, traces: Sequence[Trace]) -> Trace | None:
    """Find another problem's trace whose steps are nearest in length and do not lead to this trace's answers.

    A trace without an answer gives no steps, since nobody knows where they lead. Ties are broken by a hash of both ids,
    so that no single trace serves all others, and then by the donors' steps. So every run makes the same choice,
    whatever the order of the traces.

    Args:
        trace: The trace that needs other steps.
        traces: Where to look.

    Returns:
        The donor, or None if no other trace has steps.
    """
    length = len(trace.reasoning_ids)
    answers = {answer_key(trace.answer), answer_key(trace.problem.answer)}
    by_distance = sorted(
        (t for t in traces if t.n_steps and t.answer is not None and t.problem.set == trace.problem.set),
        key=lambda donor: abs(_length(donor) - length),
    )
    fits = (t for t in by_distance if t.problem.id != trace.problem.id and answer_key(t.answer) not in answers)
    nearest = next(groupby(fits, key=lambda donor: abs(_length(donor) - length)), None)
    return None if nearest is None else min(nearest[1], key=lambda donor: (_tie(trace, donor), donor.reasoning_ids))


def _length(trace: Trace) -> int:
    return trace.cuts[-1] - trace.cuts[0]


def _tie(trace: Trace, donor: Trace) -> str:
    return sha256(f"{trace.problem.id}/{donor.problem.id}".encode()).hexdigest()


@lru_cache(maxsize=8192)
def answer_key(answer: str | None) -> object:
    """Return a cheap key for equal answers: the number if the answer is one ("1/2" is 0.5), else the plain text."""
    if answer is None:
        return None
    number = plain_number(answer)
    return normalise(answer) if number is None else number
