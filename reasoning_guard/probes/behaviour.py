"""Behaviour: what can be counted in the text itself, without asking the model anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.traces import Trace

FORKING_ENTROPY = 0.672
"""Nats. The 80th percentile of Qwen3-8B's token entropies on AIME (arXiv 2506.01939): where a trace can fork."""

HEDGES = ("wait", "hmm", "perhaps", "maybe", "actually", "alternatively", "seems", "might", "likely", "check")
"""The ten epistemic words of arXiv 2603.24472, counted as whole words: "check" is not in "checking"."""

_HEDGE = re.compile(rf"\b(?:{'|'.join(HEDGES)})\b", re.IGNORECASE)


class AccuracyProbe(Probe):
    """``accuracy``: the final answer equals the reference answer (0 or 1); ``answered``: there is a final answer.

    What it cannot tell: how the answer came about. A model can be right by a shortcut, or with corrupted chains (arXiv
    2505.13775). That is what the other probes are for.
    """

    names = ("accuracy", "answered")

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read the trace's own flags."""
        reading = Reading({"answered": float(trace.answer is not None)})
        if trace.problem.answer is None:
            return reading.unscored(["accuracy"], "the problem has no reference answer")
        reading.values["accuracy"] = float(trace.correct)
        return reading


class BehaviourProbe(Probe):
    """Measures length, repetition, entropy and hedging of a trace.

    * ``tokens``, ``n_steps``: length of the completion in tokens and in steps. ``finished``: not cut off (0 or 1).
    * ``repetition``: share of the text's word 4-grams that occurred before in it.
    * ``token_entropy``: mean entropy of the next-token distribution while the trace was written, in nats;
      ``forking_share``: share of tokens above 0.672 nats (arXiv 2506.01939). That is a percentile of one model and not
      a constant of nature, so compare with the baseline.
    * ``hedges_per_1000``: hedging words per 1,000 tokens (arXiv 2603.24472).

    What they cannot tell: anything about faithfulness by themselves. They tell where to look. Words that sound like
    doubt need not express any, and a model can be trained to leave them out (arXiv 2603.24472).
    """

    names = ("tokens", "n_steps", "finished", "repetition", "token_entropy", "forking_share", "hedges_per_1000")

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Count all of it."""
        n = len(trace.completion_ids)
        reading = Reading(
            {
                "tokens": float(n),
                "n_steps": float(trace.n_steps),
                "finished": float(trace.finished),
                "repetition": repetition(trace.text.split()),
            }
        )
        if not n:
            return reading.unscored(self.names[4:], "the completion is empty")
        reading.values["hedges_per_1000"] = 1000 * len(_HEDGE.findall(trace.text)) / n
        if not trace.entropies:
            return reading.unscored(["token_entropy", "forking_share"], "entropies are recorded only while generating")
        reading.values["token_entropy"] = sum(trace.entropies) / len(trace.entropies)
        reading.values["forking_share"] = sum(h >= FORKING_ENTROPY for h in trace.entropies) / len(trace.entropies)
        return reading


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Return the share of word n-grams that occurred before in the text; 0 if there are fewer than two.

    Example:
        >>> repetition("so it is 4 so it is 4 so it is 4".split())    # 9 four-grams, 4 distinct
        0.5555555555555556
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
