"""Paraphrase: the same steps in other words. A control: what it changes is noise, by which others are normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.probes.base import ProbeContext
from reasoning_guard.probes.controls import ReplacementProbe
from reasoning_guard.traces import Trace


class Paraphraser(Protocol):
    """Says texts in other words. Any callable will do; :mod:`reasoning_guard.paraphrasers` has two with a model."""

    def __call__(self, texts: Sequence[str], /) -> Sequence[str | None]:
        """A paraphrase of each text, in order; None where none could be had."""
        ...


class ParaphraseProbe(ReplacementProbe):
    """Paraphrases the steps, one by one and without seeing the question (Lanham et al. 2023, arXiv 2307.13702).

    ``paraphrase_changed`` is 1 if the trace's own answer is no longer the greedy one. ``paraphrase_gain`` is the
    posterior after the trace's own steps minus the posterior after their paraphrase, in nats per token. Both ought to
    be about 0. What the paraphrase changes, any touch to the text would change.
    :func:`~reasoning_guard.faithfulness.normalised_by` takes it off the other interventions: ``(observed - control) /
    (1 - control)``.

    What it cannot tell: whether a model is faithful. In Lanham et al., invariance only rules out that the wording
    itself carries the answer (steganography), and is not evidence of faithfulness. A widely copied summary of arXiv
    2411.15382 counts it both ways. A paraphraser that makes mistakes turns this into an intervention like any other, so
    look at what it writes.

    Args:
        paraphraser: Gets the steps of all traces at once and returns as many texts.
    """

    control = "paraphrase"

    def __init__(self, paraphraser: Paraphraser) -> None:
        super().__init__()
        if not callable(paraphraser):
            raise ConfigurationError(f"`paraphraser` must be callable with a list of texts; got {paraphraser!r}")
        self.paraphraser = paraphraser
        self._said: dict[str, str | None] = {}

    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Return the steps' paraphrase in tokens; None if a step has none, or none that this tokenizer can write."""
        self._ask(trace, context)
        texts = [self._said.get(step) for step in trace.steps]
        if not texts or any(text is None for text in texts):
            return None
        first, last = trace.cuts[0], trace.cuts[-1]
        new = "".join(_spaced(step, text or "") for step, text in zip(trace.steps, texts, strict=True))
        if new == "".join(trace.steps):
            return trace.reasoning_ids
        return context.reader.reword(trace, first, last, lambda _: new)

    def _ask(self, trace: Trace, context: ProbeContext) -> None:
        """Paraphrase what is new, for all traces at once: models and endpoints are slow one by one."""
        if all(step in self._said for step in trace.steps):
            return
        steps = dict.fromkeys(s for t in (*context.traces, trace) for s in t.steps if s not in self._said)
        said = list(self.paraphraser([step.strip() for step in steps]))
        if len(said) != len(steps):
            raise ConfigurationError(f"the paraphraser got {len(steps)} texts and returned {len(said)}")
        self._said |= dict(zip(steps, said, strict=True))


def _spaced(step: str, text: str) -> str:
    """The text with the white space that stood around the step."""
    bare = step.strip()
    return step.replace(bare, text.strip(), 1) if bare else step
