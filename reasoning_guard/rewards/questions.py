"""All questions about one trace: without text, behind texts for other problems, on the way, in place, at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from reasoning_guard.reader import TraceReader
from reasoning_guard.rewards.excerpt import committed, places
from reasoning_guard.rewards.forms import Levels
from reasoning_guard.rewards.leak import leak, leak_branches
from reasoning_guard.rewards.placebos import Baseline
from reasoning_guard.tokens import Ids, decode
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore, TraceTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked about one trace.

    Attributes:
        bare: Without the reasoning: right behind the prompt, and behind what the trace wrote before its reasoning.
        placebos: Behind texts for other problems. Like the first of ``bare``, these are the same for the whole group,
            and so scored once.
        way: After each quarter of what is said before the statement.
        final: Right before the statement, in place. If the statement begins with something else (a list, a
            calculation), the answer is asked for there; if the reasoning never states the answer, at the end.
        end: At the end of the whole reasoning.
        leaks: What the penalty on leaks asks, if anything; None if it cannot be asked.
    """

    bare: tuple[Branch, Branch]
    placebos: tuple[Branch, ...]
    way: tuple[Branch, ...]
    final: Branch
    end: Branch
    leaks: Sequence[Branch] | None = ()

    @classmethod
    def about(cls, trace: Trace, stated: Ids, baseline: Baseline, reader: TraceReader, *, leaks: bool) -> Questions:
        """Ask about a trace.

        Args:
            trace: A cleaned trace of a problem that has an answer.
            stated: Ids of the first statement of the answer as it was written; empty if there is none.
            baseline: What its group is compared with.
            reader: Reads in the run's format.
            leaks: Whether to ask for :func:`~reasoning_guard.rewards.leak.leak`.
        """
        assert trace.problem.answer is not None
        question, begin, stop = reader.ask(trace.problem.answer), trace.cuts[0], committed(trace)
        ask = partial(question.branch, terminated=False)
        prompt, text = len(trace.prompt_ids), trace.ids[begin:stop]
        said = any(map(str.isalnum, decode(reader.tokenizer, text)))
        in_place = bool(stated) and trace.ids[stop : stop + len(stated)] == stated
        final = Branch(stop, stated, (0, len(stated))) if in_place else ask(stop)
        return cls(
            bare=(ask(prompt, baseline.opening), ask(begin)),
            placebos=tuple(ask(prompt, baseline.opening + text) for text in baseline.texts),
            way=tuple(ask(place) for place in places(trace, reader.tokenizer)),
            final=final if said else ask(begin),  # nothing said can have led to nothing
            end=ask(trace.cuts[-1]),
            leaks=leak_branches(text, begin, question) if leaks else (),
        )

    def tree(self, trace: Trace) -> TraceTree:
        """Return all questions, on the trace's own tokens."""
        branches = (*self.bare, self.final, self.end, *self.placebos, *self.way, *(self.leaks or ()))
        return TraceTree(trace.ids[: trace.cuts[-1]], branches)

    def levels(self, scores: Sequence[BranchScore]) -> Levels:
        """Return the answers' log-probabilities. A placebo beyond the model's context does not count.

        Args:
            scores: One score for each branch of :meth:`tree`, in its order.
        """
        opened, begun, final, end, *others = (score.logprobs for score in scores)
        n = len(self.placebos)
        known = tuple(each for each in others[:n] if all(map(math.isfinite, each)))
        return Levels((opened, begun), known, tuple(others[n : n + len(self.way)]), final, end, len(begun))

    def leak(self, scores: Sequence[BranchScore]) -> float:
        """Return what the text leaks, in nats; 0 if that was not asked, NaN if it could not be."""
        return math.nan if self.leaks is None else leak(scores[len(scores) - len(self.leaks) :])
