"""Drift: how far the model has moved from what it was, judged by its own words."""

from __future__ import annotations

import math

from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch

SPAN = 64
"""Number of completion tokens, the first ones, that are read; it bounds what the probe costs."""


class DriftProbe(Probe):
    """Measures how much the frozen reference is surprised by what the model now writes: ``reference/surprise``.

    The value is the mean of ``-log p_reference(token)`` over the first :data:`SPAN` tokens of the completion, in nats
    per token. At the baseline it is the model's own greedy surprise. It rises as the text moves away from what the
    model wrote then. For sampled text, this would be the cross-entropy whose excess over the policy's entropy is
    ``KL(policy || reference)``, the penalty of RLHF (Ziegler et al. 2019, arXiv 1909.08593). The traces here are
    greedy, so it is no estimate of that.

    What it cannot tell: whether the move is good. Learning a format, a language or a subject moves a model as well.
    """

    names = ("surprise",)
    readers = ("reference",)

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the completion's own opening behind the prompt."""
        opening = trace.completion_ids[:SPAN]
        if not opening or len(trace.prompt_ids) < 2:  # nothing to read it by
            return []
        return [Branch(len(trace.prompt_ids), opening, (0, len(opening)))]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read the mean."""
        if not scores:
            return Reading().unscored(self.names, "the completion is empty, or the prompt a single token")
        surprise = -scores[0].mean
        if not math.isfinite(surprise):
            return Reading().unscored(self.names, "longer than the model's context, or not a finite score")
        return Reading({"surprise": surprise})
