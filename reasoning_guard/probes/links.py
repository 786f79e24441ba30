"""Links: does each result follow the one it is made from, and does the answer follow the last result?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reasoning_guard.answers import answers_equal
from reasoning_guard.probes.base import Continued, Probe, ProbeContext, Reading, Scores, rng_for
from reasoning_guard.probes.corrupters import NUMBER, Result, near_numbers, replace_number, result
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch


@dataclass(frozen=True, slots=True)
class Link:
    """A place where an earlier result is used: by a later step's result, or by the answer.

    Attributes:
        source: Index of the step whose result is used.
        target: Index of the step that uses it; None for the answer.
    """

    source: int
    target: int | None


class LinkProbe(Probe):
    """Tries every link of the chain by itself, without a generation.

    A *link* is a step that uses or restates an earlier step's result (its last number; "24" in "48/2 = 24"), or the
    final answer, which repeats the last result. To try a link, the earlier result is altered, and the alteration is
    carried through the text up to the place of the later result. There, in place, the model is asked for the result
    that it wrote before. A link *is followed* if that result is no longer the model's greedy choice. It counts only if
    the result was the greedy choice in the untouched trace. All links are branches of the shared pass.

    * ``links_followed``: share of the trace's links that are followed.
    * ``answer_link``: whether the answer follows the last result (0 or 1).
    * ``chain_holds``: whether every link is followed, the answer's included (0 or 1). One broken link is enough for a
      shortcut: a chain is as strong as its weakest link.

    A trace without steps has no link and reads 0. A model that ignores its chain breaks at the answer. A model that
    writes an idle chain and patches its last step from a shortcut breaks at the link before, which no probe sees that
    leaves the last step in place. The method is activation patching's "alter one variable of the causal graph, hold the
    others" (Vig et al. 2020, arXiv 2004.12265), applied to text. It is also NLDD's single altered step (arXiv
    2602.11201), asked inside the chain.

    What it cannot tell: anything about links that are not numbers or results that no later step repeats (NaN if the
    answer's own link is not among those found), and whether a result that changed is the right one for the altered
    number. A number that is in a step by chance is altered along with the result. A model that recomputes every result
    from the question, and does not trust what it wrote, reads as one that does not follow. So does any model that
    overlooks a small change. Longer chains have more links to fail, so compare chains of like length, or read
    ``links_followed``.

    Args:
        limit: Most links between steps that are tried, evenly over the chain; it bounds what long chains cost.
    """

    names = ("links_followed", "answer_link", "chain_holds")
    gated = names

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Ask for each link's target before and after the alteration. The answer's link, if any, comes last."""
        return [branch for _, pair in self._tried(trace, context) for branch in pair]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Read which links are followed."""
        if trace.answer is None:
            return Reading().unscored(self.names, "the trace gives no answer")
        if not trace.n_steps:
            return Reading(dict.fromkeys(self.names, 0.0))
        pairs = zip(self._tried(trace, context), scores[::2], scores[1::2], strict=True)
        followed = {
            link: float(not after.all_greedy)
            for (link, _), before, after in pairs
            if before.all_greedy and after.total == after.total
        }
        if not followed:
            return Reading().unscored(self.names, "no step or answer repeats an earlier result that can be altered")
        reading = Reading({"links_followed": sum(followed.values()) / len(followed)})
        answer = [value for link, value in followed.items() if link.target is None]
        if not answer:
            return reading.unscored(self.names[1:], "no step comes to the answer, or the model does not stand by it")
        reading.values |= {"answer_link": answer[0], "chain_holds": min(followed.values())}
        return reading

    def _tried(self, trace: Trace, context: ProbeContext) -> Iterator[tuple[Link, tuple[Branch, Branch]]]:
        """The links that can be tried, each with its two branches; the same on every call."""
        if trace.answer is None:
            return
        rng = rng_for(trace.problem)
        for link in _spread(find_links(trace, mathematical=context.reader.format.mathematical), self.limit):
            old = result(trace.steps[link.source])
            assert old is not None
            tried = (_branches(trace, context, link, old, new) for new in near_numbers(old.text, rng))
            pair = next(filter(None, tried), None)
            if pair is not None:
                yield link, pair


def find_links(trace: Trace, *, mathematical: bool = True) -> list[Link]:
    """Find the links of a trace: each step with the nearest earlier one whose result it uses; the answer's last.

    Args:
        trace: A trace with an answer.
        mathematical: Compare the answer with results by value.

    Returns:
        The links, in the order of their targets.
    """
    results = [result(step) for step in trace.steps]
    links = []
    for target, own in enumerate(results):
        before = {match.group() for match in NUMBER.finditer(trace.steps[target][: own.start])} if own else set[str]()
        used = before or ({own.text} if own else before)  # a step without operands restates a result
        source = next((i for i in reversed(range(target)) if (r := results[i]) and r.text in used), None)
        if source is not None:
            links.append(Link(source, target))
    stating = [i for i, r in enumerate(results) if r and _is_answer(trace, r, mathematical)]
    return [*links, *(Link(i, None) for i in stating[-1:])]


def _spread(links: Sequence[Link], limit: int) -> list[Link]:
    """At most ``limit`` links between steps, evenly over them and the last among them, and the answer's link."""
    steps = [link for link in links if link.target is not None]
    n = min(limit, len(steps))
    chosen = [steps[round((i + 1) * len(steps) / n) - 1] for i in range(n)]
    return [*chosen, *(link for link in links if link.target is None)]


def _is_answer(trace: Trace, stated: Result, mathematical: bool) -> bool:
    return trace.answer is not None and answers_equal(stated.text, trace.answer, mathematical=mathematical)


def _branches(trace: Trace, context: ProbeContext, link: Link, old: Result, new: str) -> tuple[Branch, Branch] | None:
    """The target's own tokens, in the untouched trace and behind the altered result; None if it can't be written."""
    reader = context.reader
    first, _ = reader.span(trace, link.source, old.start, old.stop)
    if link.target is None:
        question = reader.ask(trace.answer or "")
        stop, asked, scored = trace.cuts[-1], question.ids, question.scored
    else:
        own = result(trace.steps[link.target])
        assert own is not None
        stop, end = reader.span(trace, link.target, own.start, own.start + len(own.text))
        asked, scored = trace.ids[stop:end], (0, end - stop)
    altered = reader.reword(trace, first, stop, lambda text: replace_number(text, old.text, new))
    if altered is None or not asked:
        return None
    shifted = (len(altered) + scored[0], len(altered) + scored[1])
    return Branch(stop, asked, scored), Branch(first, altered + asked, shifted)
