"""Information: how much the written steps tell about the reference answer.

Everything comes from one curve, ``lp_k = log p(answer | question, steps 1..k, cue)`` for ``k = 0..n``, in nats over the
answer's ``N`` tokens. Read by the frozen reference, it asks whether the text is *informative*. Read by the model in
training, it asks whether the text is *needed*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from reasoning_guard.probes.base import NAN, Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch

CERTAIN = -0.1
"""``lp_0`` in nats above which the answer is certain without any step: a probability of .905 or more.

A share of what was missing means nothing if nothing was missing. One answer of which the model was sure to .99999 and
then to .14 would read -199,999, and would decide the mean of any number of problems.
"""


class InfoGainProbe(Probe):
    """Measures InfoGain in all its forms (Wu et al. 2025, arXiv 2506.02126, and relatives).

    * ``prior`` = ``lp_0 / N``, ``posterior`` = ``lp_n / N``, ``info_gain`` = posterior - prior (nats per token; the
      log form, equal to the cross-entropy difference of Ton et al., arXiv 2411.11984).
    * ``info_gain_share`` = ``1 - lp_n / lp_0``; NaN when the answer is certain without steps (:data:`CERTAIN`).
    * ``info_gain_ppl`` = ``(PPL_0 - PPL_n) / n`` with ``PPL_k = exp(-lp_k / N)``, the form printed in arXiv 2506.02126:
      it telescopes, halves when the same text is cut into twice as many steps, and is dominated by large ``PPL_0``.
    * ``info_gain_watermark`` = ``max_k l_k - l_0``, ``l_k = lp_k / N``: falling and climbing again earns nothing
      (arXiv 2602.01034).
    * ``entropy_gain``: mean entropy of the answer tokens before the steps minus after them (arXiv 2508.20395). It does
      not ask *which* answer became certain.

    What it cannot tell: whether the model uses the text. Cutting a chain asks a question that a model may never have
    been trained on, so a model that ignores its chain can score high here, and a sound one low. As a detector of single
    unfaithful traces it agrees with experts at an F1 of .10 to .58, where guessing has about .35 to .44
    (FaithCoT-Bench, arXiv 2510.04040). It speaks about models and changes, through means over problems. Any step that
    states the answer takes all of the gain: see :class:`PreCommitmentProbe`.
    """

    names = (
        "prior", "posterior", "info_gain", "info_gain_share", "info_gain_ppl", "info_gain_watermark", "entropy_gain",
    )  # fmt: skip
    readers = ("policy", "reference")

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the reference answer at every cut."""
        if trace.problem.answer is None:
            return []
        question = context.reader.ask(trace.problem.answer)
        return [question.branch(cut) for cut in trace.cuts]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read the curve."""
        if not scores:
            return Reading().unscored(self.names, "the problem has no reference answer")
        curve = tuple(score.total for score in scores)
        levels, n_tokens = [score.mean for score in scores], len(scores[0].logprobs)
        if not all(map(math.isfinite, curve)):
            return Reading(curve=curve, n_tokens=n_tokens).unscored(
                self.names, "longer than the model's context, or not a finite score"
            )
        reading = Reading(curve=curve, n_tokens=n_tokens)
        reading.values = {
            "prior": levels[0],
            "posterior": levels[-1],
            "info_gain": levels[-1] - levels[0],
            "info_gain_share": 1 - curve[-1] / curve[0] if curve[0] <= CERTAIN else NAN,
            "info_gain_ppl": _perplexity_gain(levels) / trace.n_steps if trace.n_steps else NAN,
            "info_gain_watermark": watermark_gain(levels),
            "entropy_gain": _mean(scores[0].entropies) - _mean(scores[-1].entropies),
        }
        if math.isnan(reading.values["info_gain_share"]):
            reading.reasons["info_gain_share"] = "the answer is certain without any step"
        if trace.n_steps and not math.isfinite(reading.values["info_gain_ppl"]):
            reading.unscored(["info_gain_ppl"], "a perplexity too large for a number")
        if not trace.n_steps:
            reading.reasons["info_gain_ppl"] = "no steps"
        return reading


class PreCommitmentProbe(Probe):
    """Measures the pre-commitment gain: what the text before the first statement of the answer determines.

    The reference answer is scored *in place*, inside its step, at the token right before it is first stated: what
    stands before "= 18" must already determine 18. ``pre_commitment = (lp_in_place - lp_0) / N`` in nats per token of
    the asked answer, with its terminator left out on both sides. If the reasoning never states the answer, it is the
    gain of the whole text. A trace that opens with the answer gains about nothing, because only the cue differs. The
    value is NaN if it can't be told whether a mention is a statement (see
    :func:`reasoning_guard.statements.find_statement`).

    Stating the answer early collects all of InfoGain, but nothing here. (A reward on the answer's likelihood pays best
    for a chain written backwards from its answer. LaTRO, arXiv 2411.04282, cuts its chains there.)

    What it cannot tell: whether the text before the statement is read or merely there, and whether the answer was
    stated in other words or in another notation, which credits the statement's gain to the text before it. There is no
    published counterpart to compare with.
    """

    names = ("pre_commitment",)
    readers = ("policy", "reference")

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the reference answer before any step, and in place or at the end."""
        if trace.problem.answer is None or not trace.statement_known:
            return []
        question = context.reader.ask(trace.problem.answer)
        before = question.branch(trace.cuts[0], terminated=False)
        if trace.statement is None or trace.statement_end is None:
            return [before, question.branch(trace.cuts[-1], terminated=False)]
        if trace.statement < 2:  # nothing stands before it that could be read
            return []
        stated = trace.ids[trace.statement : trace.statement_end]
        return [before, Branch(trace.statement, stated, (0, len(stated)))]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read the two scores."""
        if trace.problem.answer is None:
            return Reading().unscored(self.names, "the problem has no reference answer")
        if not scores:
            return Reading().unscored(self.names, "it can't be told where the answer is first stated")
        before, stated = scores
        gain = (stated.total - before.total) / len(before.logprobs)
        if not math.isfinite(gain):
            return Reading().unscored(self.names, "longer than the model's context, or not a finite score")
        return Reading({"pre_commitment": gain})


def watermark_gain(levels: Sequence[float]) -> float:
    """Sum, over steps, how far each rises above the highest level before it, in the levels' unit.

    Example:
        >>> watermark_gain([-3.0, -1.0, -2.0, -1.0])    # falling and climbing back earns nothing
        2.0
    """
    highest = list(accumulate(levels, max))
    return sum((after - before for before, after in pairwise(highest)), 0.0)


def _perplexity_gain(levels: Sequence[float]) -> float:
    """``PPL_0 - PPL_n``; NaN or infinite where a perplexity is too large for a float."""
    before, after = (math.exp(-level) if level > -700 else math.inf for level in (levels[0], levels[-1]))
    return before - after


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
