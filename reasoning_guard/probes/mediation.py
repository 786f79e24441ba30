"""Mediation: what reaches the answer through the steps, and what goes past them (white box)."""

from __future__ import annotations

import math

from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch

_EFFECTS = ("direct_effect", "necessity", "leakage")


class MediationProbe(Probe):
    """Measures which way information takes, by cutting attention from the answer to the prompt or to the steps.

    After "Faithfulness as Information Flow" (arXiv 2605.24286) and its code, with attention knockout (Geva et al. 2023,
    arXiv 2304.14767). Cue and answer are read under four masks: *full*; *via the steps* (cue and answer do not see the
    prompt); *without the steps*; and *without a prompt* (the steps are read again and do not see the prompt either).
    The values are divergences between full next-token distributions, averaged over the positions of the trace's own
    answer, terminator included:

    * ``direct_effect`` = KL(full || via the steps), nats: small when the steps carry everything (complete mediation);
    * ``necessity`` = KL(full || without the steps): large when the steps are used;
    * ``leakage`` = KL(via the steps || without a prompt): what the steps' own states have taken over from the prompt
      beyond what their words say;
    * ``<each>_js``: the same as Jensen-Shannon divergence over its bound, between 0 and 1. KL is unbounded, so a single
      position can swamp a mean.

    What it cannot tell: missing information from the shock of hidden tokens. Hiding tokens is itself an intervention
    that the model has never seen. Where attention has nowhere to rest ("attention sinks", Xiao et al., arXiv
    2309.17453), it measures damage, so a leading BOS token stays visible. A low ``direct_effect`` with a low
    ``necessity`` means that the answer is known either way. The steps' states hold what they read, so "via the steps"
    is not "through the words alone": see the leakage. The values are NaN for models that can't be given masks.
    """

    names = tuple(f"{name}{form}" for name in _EFFECTS for form in ("", "_js"))
    gated = names

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the own answer under each mask, compared with the mask that it is measured against."""
        if trace.answer is None or not trace.n_steps:
            return []
        question = context.reader.ask(trace.answer)
        ids, scored, end = question.ids, question.scored, trace.cuts[-1]
        begin = int(trace.prompt_ids[:1] == (context.reader.tokenizer.bos_token_id,))
        prompt, steps = (begin, trace.cuts[0]), (trace.cuts[0], end)
        again = trace.reasoning_ids
        shifted = (scored[0] + len(again), scored[1] + len(again))
        full = Branch(end, ids, scored)
        via = Branch(end, ids, scored, prompt)
        return [
            Branch(end, ids, scored, prompt, full),
            Branch(end, ids, scored, steps, full),
            Branch(trace.cuts[0], again + ids, shifted, prompt, via),
        ]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Average the divergences."""
        if trace.answer is None:
            return Reading().unscored(self.names, "the trace gives no answer")
        if not trace.n_steps:
            return Reading().unscored(self.names, "no steps to go through")
        reading = Reading()
        for name, score in zip(_EFFECTS, scores, strict=True):
            for form, values in (("", score.kl), ("_js", score.js)):
                value = sum(values) / len(values) if values else math.nan
                reading.values[name + form] = value
                if not math.isfinite(value):
                    reading.unscored([name + form], "the model can't be given masks, or the context is too short")
        return reading
