"""A trace: what a model wrote for a problem, split into steps and an answer, with token positions."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning_guard.problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One completion for one problem, read by a :class:`~reasoning_guard.formats.TraceFormat`.

    Token positions count from the first prompt token, so they index :attr:`ids`. They come from the completion's own
    ids, never from tokenising the text again.

    Attributes:
        problem: The problem that was answered.
        prompt_ids: Token ids of the prompt, without padding.
        completion_ids: Token ids of the completion as the model wrote them, without padding and without the final EOS.
        text: The completion as text.
        steps: The ``n`` reasoning steps as text; empty if nothing was written before the answer.
        cuts: ``n + 1`` increasing token positions; ``ids[:cuts[k]]`` is the prompt with the first ``k`` steps.
        answer: The final answer as text, or None if the completion states none.
        correct: Whether the final answer equals the reference answer; False without an answer or a reference.
        finished: False if the length limit cut the completion off.
        statement: Token position right before the reference answer is first stated in the reasoning, or None if the
            reasoning never states it, or if that can't be told.
        statement_end: Token position right behind that statement, or None.
        statement_known: False if it can't be told where the answer is first stated.
        entropies: Entropy of the next-token distribution at each completion token, in nats, as recorded while it was
            generated; empty for saved traces.
        notes: Whatever is odd about this trace, in words ("no answer", "cut off", "unclosed reasoning", ...).
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    steps: tuple[str, ...]
    cuts: tuple[int, ...]
    answer: str | None
    correct: bool
    finished: bool = True
    statement: int | None = None
    statement_end: int | None = None
    statement_known: bool = True
    entropies: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and completion: the trunk of this trace's tree."""
        return self.prompt_ids + self.completion_ids

    @property
    def n_steps(self) -> int:
        """Number of reasoning steps, ``n``."""
        return len(self.steps)

    @property
    def reasoning_ids(self) -> tuple[int, ...]:
        """Token ids of the steps alone, from the first cut to the last."""
        return self.ids[self.cuts[0] : self.cuts[-1]]
