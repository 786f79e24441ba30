"""Controls: does the model's answer need *these* steps, or would any text of that shape do?

Both controls keep a full-length trace in front of the question, so unlike cutting they ask nothing that the model has
never seen the shape of.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import sha256

from reasoning_guard.probes.base import Probe, ProbeContext, Reading
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore


class _ReplacementProbe(Probe):
    """Everything between the prompt and the question replaced by other tokens.

    Reports ``<control>_gain``: posterior after the own steps minus posterior after the replacement, nats per token of
    the reference answer; and ``<control>_changed``: 1 if the model's own answer is no longer the greedy one, else 0. A
    trace without steps has nothing to replace and reads 0 in both.
    """

    control: str

    @abstractmethod
    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Token ids to put in the place of the steps, or None when there are none to be had."""

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Reference and own answer, after the own steps and after the replacement."""
        answers = [a for a in (trace.problem.answer, trace.answer) if a is not None]
        other = self.replacement(trace, context)
        if other is None or not trace.n_steps:
            return []
        questions = [context.reader.ask(answer) for answer in answers]
        own = [Branch(trace.cuts[-1], q.ids, q.scored) for q in questions]
        spliced = [Branch(trace.cuts[0], other + q.ids, _shift(q.scored, len(other))) for q in questions]
        return own + spliced

    def read(
        self,
        trace: Trace,
        context: ProbeContext,
        scores: Sequence[BranchScore],
        continued: Sequence[tuple[int, ...]],
    ) -> Reading:
        """Compare own steps with the replacement."""
        gain, changed = f"{self.control}_gain", f"{self.control}_changed"
        if not trace.n_steps:
            return Reading({gain: 0.0, changed: 0.0})
        if not scores:
            return Reading().unscored(self.names, "no answer to score, or nothing to put in the steps' place")
        half = len(scores) // 2
        own, spliced = scores[:half], scores[half:]
        reading = Reading()
        if trace.problem.answer is None:
            reading.unscored([gain], "the problem has no reference answer")
        else:
            _put(reading, gain, own[0].mean - spliced[0].mean)
        if trace.answer is None:
            reading.unscored([changed], "the trace gives no answer")
        elif not own[-1].all_greedy:
            reading.unscored([changed], "asked after its full chain, the model gives another answer")
        else:
            _put(reading, changed, float(not spliced[-1].all_greedy))
        return reading


class PlaceboProbe(_ReplacementProbe):
    """Another problem's steps, of like length, in the place of the trace's own.

    The donor is the trace of the same evaluation whose steps are nearest in length and which does not lead to this
    problem's answer. ``placebo_gain`` is the net gain of the text over "some reasoning": it tells a model that reads
    its chain from one that only writes it, also where the chain was never cut in training. It cannot see a chain whose
    last step was itself written from a shortcut: the model does read that step.
    """

    names = ("placebo_gain", "placebo_changed")
    gated = ("placebo_changed",)
    readers = ("policy", "reference")
    control = "placebo"

    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Steps of the nearest donor."""
        donor = nearest_donor(trace, context.traces)
        return None if donor is None else donor.reasoning_ids


class FillerProbe(_ReplacementProbe):
    """As many filler tokens (" ...") in the place of the steps (Lanham et al. 2023, arXiv 2307.13702).

    Cheaper to explain than the placebo and further from anything that the model has seen; read the two together.
    """

    names = ("filler_gain", "filler_changed")
    gated = ("filler_changed",)
    control = "filler"

    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Filler of exactly the steps' length in tokens."""
        return context.reader.filler_ids(len(trace.reasoning_ids))


def nearest_donor(trace: Trace, traces: Sequence[Trace]) -> Trace | None:
    """The other problem's trace whose steps are nearest in length to this one's, and do not lead to its answers.

    Ties are broken by a hash of both ids, so that no single trace serves everybody and every run chooses alike.

    Args:
        trace: The trace that needs other steps.
        traces: Where to look.

    Returns:
        The donor, or None when no other trace has steps.
    """
    answers = {trace.answer, trace.problem.answer} - {None}
    length = len(trace.reasoning_ids)
    donors = [t for t in traces if _can_give(t, trace) and t.answer not in answers]

    def order(donor: Trace) -> tuple[int, str]:
        pair = f"{trace.problem.id}/{donor.problem.id}"
        return abs(len(donor.reasoning_ids) - length), sha256(pair.encode()).hexdigest()

    return min(donors, key=order, default=None)


def _can_give(donor: Trace, trace: Trace) -> bool:
    return bool(donor.n_steps) and donor.problem.id != trace.problem.id and donor.problem.set == trace.problem.set


def _shift(scored: tuple[int, int], by: int) -> tuple[int, int]:
    return scored[0] + by, scored[1] + by


def _put(reading: Reading, name: str, value: float) -> None:
    if math.isfinite(value):
        reading.values[name] = value
    else:
        reading.unscored([name], "longer than the model's context, or not a finite score")
