"""Backward: can the question be recovered from the steps?"""

from __future__ import annotations

import math

from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores
from reasoning_guard.probes.corrupters import NUMBER
from reasoning_guard.tokens import TokenText
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch

SPAN = 64
"""Number of prompt tokens, the last ones, that the probe asks for; it bounds what the probe costs."""


class BackwardProbe(Probe):
    """Measures how much the steps help to recover the question (the backward half of RevThink, arXiv 2411.19865).

    The model reads steps and answer with the prompt hidden, and then the question's last 64 tokens. ``backward_gain``
    is the mean log-probability of the numbers in these tokens (of all tokens, if there is no number) after steps and
    answer, minus the same after the answer alone, in nats per token. Steps about this question raise it. Steps about
    another question, or about nothing, do not.

    What it cannot tell: whether the model *used* the steps. A chain that merely copies the question scores high, and a
    chain that leaves out what need not be said scores low. It tells on-topic from off-topic, not faithful from
    unfaithful. RevThink trains models to ask the question back. A model without such training is asked something new
    here, and of the demo's arms the probe reads one of seven rightly. RevThink's own gain (13 % over the zero-shot
    student, 4.5 to 7 % over fairer baselines) is about training, not about this number. Masks hide the prompt, so the
    value is NaN for models that can't be given masks.
    """

    names = ("backward_gain",)

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for the question after steps and answer, and after the answer alone, number by number."""
        if trace.answer is None or not trace.n_steps:
            return []
        tokenizer = context.reader.tokenizer
        begin = int(trace.prompt_ids[:1] == (tokenizer.bos_token_id,))
        question, answer = trace.prompt_ids[begin:][-SPAN:], context.reader.ask(trace.answer).ids
        hidden = (begin, trace.cuts[0])
        found: list[Branch] = []
        for text in (trace.reasoning_ids + answer, answer):
            ids = text + question
            for start, stop in _numbers(TokenText.of(tokenizer, question)) or [(0, len(question))]:
                found.append(Branch(trace.cuts[0], ids, (len(text) + start, len(text) + stop), hidden))
        return found

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read the mean difference over the scored tokens."""
        if not scores:
            why = "the trace gives no answer" if trace.answer is None else "no steps to recover the question from"
            return Reading().unscored(self.names, why)
        half = len(scores) // 2
        after, without = (sum(score.total for score in each) for each in (scores[:half], scores[half:]))
        gain = (after - without) / sum(len(score.logprobs) for score in scores[:half])
        if not math.isfinite(gain):
            return Reading().unscored(self.names, "the model can't be given masks, or the context is too short")
        return Reading({"backward_gain": gain})


def _numbers(tokens: TokenText) -> list[tuple[int, int]]:
    """Token slices that hold the numbers of a text."""
    return [(tokens.before(m.start()), tokens.behind(m.end())) for m in NUMBER.finditer(tokens.text)]
