"""Calibration: does the model know when its answer is right?

A row can hold a confidence and its Brier score. The expected calibration error belongs to a whole set, so it is read
off an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoning_guard.evaluation import Evaluation
from reasoning_guard.options import options_named
from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch

BINS = 10
"""Equal-width bins of the expected calibration error, as most of the literature has them."""


class CalibrationProbe(Probe):
    """Measures how sure the model is of its own final answer, and how well that goes with being right.

    * ``confidence``: probability of the trace's own answer after its full chain, terminator included (share); with
      options, its share of the probability of all options.
    * ``brier``: ``(confidence - correct)^2`` (Brier 1950): 0 is best; saying .5 to everything scores .25.
    * ``overconfidence``: ``confidence - correct``; its mean is 0 if the model is right as often as it says.

    The branches are those of early answering at its last cut, so the shared pass pays for them once.

    What it cannot tell: whether high confidence means anything by itself. A chain that has just stated its answer
    leaves little doubt which answer follows, so confidence after a chain is high by nature. Watch how it moves against
    accuracy, not how high it is.
    """

    names = ("confidence", "brier", "overconfidence")

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the trace's own answer, or every option, after all steps."""
        if trace.answer is None or trace.problem.answer is None:
            return []
        asked = context.reader.options(trace.problem) or (trace.answer,)
        return [context.reader.ask(answer).branch(trace.cuts[-1]) for answer in asked]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read how sure the model is."""
        if not scores:
            return Reading().unscored(self.names, "the trace gives no answer, or the problem has none")
        confidence = _confidence([score.total for score in scores], _own(trace, context))
        if not math.isfinite(confidence):
            return Reading().unscored(self.names, "its answer is no option, or not a finite score")
        over = confidence - float(trace.correct)
        return Reading({"confidence": confidence, "brier": over * over, "overconfidence": over})


def expected_calibration_error(evaluation: Evaluation, set: str | None = None) -> float:
    """Compute the mean distance of confidence from accuracy over ten equal bins of confidence (Naeini et al. 2015).

    ``ECE = sum_b n_b / N * |accuracy_b - confidence_b|``; bins are closed on the left, the last one on both sides. The
    error is biased upwards on small sets, so with 128 problems compare it with the baseline, not with 0.

    Args:
        evaluation: Rows with ``confidence`` and ``accuracy``.
        set: Problem set; None takes the first.

    Returns:
        A share, NaN without rows that have both.

    Example:
        >>> from reasoning_guard.evaluation import Row
        >>> rows = [Row(id=str(i), values={"confidence": 0.9, "accuracy": float(i < 7)}) for i in range(10)]
        >>> round(expected_calibration_error(Evaluation(step=0, rows=tuple(rows))), 3)
        0.2
    """
    confidences, right = evaluation.values("confidence", set), evaluation.values("accuracy", set)
    both = [id for id in confidences if id in right]
    if not both:
        return math.nan
    import torch  # with torchmetrics a second of import time that only this function asks for
    from torchmetrics.functional.classification import binary_calibration_error

    sure = math.nextafter(1.0, 0.0)  # torchmetrics has a bin of its own for 1
    given = torch.tensor([min(confidences[id], sure) for id in both], dtype=torch.float64)
    true = torch.tensor([int(right[id]) for id in both])
    return float(binary_calibration_error(given, true, n_bins=BINS, norm="l1"))


def _own(trace: Trace, context: ProbeContext) -> list[bool]:
    """Which of the scored answers is the trace's own."""
    if not trace.problem.options:
        return [True]
    return options_named(trace.answer or "", trace.problem.options, context.reader.format)


def _confidence(totals: Sequence[float], own: Sequence[bool]) -> float:
    """Probability of the own answer; among several answers its share of their sum, NaN if it is none of them."""
    if not any(own) or not all(math.isfinite(total) or total == -math.inf for total in totals):
        return math.nan
    chosen = totals[list(own).index(True)]
    if len(totals) == 1:
        return min(1.0, math.exp(chosen))
    top = max(totals)
    return math.exp(chosen - top) / math.fsum(math.exp(total - top) for total in totals)
