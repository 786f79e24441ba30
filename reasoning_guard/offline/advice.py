"""What to make of a checkup: problems to fix before a run, and things to know. Pure functions of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from reasoning_guard.evaluation import finite
from reasoning_guard.gate import floors, gated_sets
from reasoning_guard.offline.checkup import Checkup
from reasoning_guard.statistics import MINIMUM_PAIRS

_MOST = 0.7
_ENOUGH_PROBLEMS = 100
_KNOWN = 0.1


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to say about a checkup.

    Attributes:
        level: "problem" (a guard would say nothing, or the wrong thing) or "note" (good to know).
        found: What was found.
        do: What to do about it.
    """

    level: Literal["problem", "note"]
    found: str
    do: str


def advise(checkup: Checkup) -> list[Advice]:
    """Say everything that is worth saying about a checkup, problems first."""
    said = [advice for check in _CHECKS for advice in check(checkup)]
    return sorted(said, key=lambda advice: advice.level != "problem")


def _room(c: Checkup) -> Iterator[Advice]:
    if c.model.vocabulary > c.model.embeddings:
        found = f"the tokenizer has {c.model.vocabulary:,} tokens, the model knows {c.model.embeddings:,}"
        yield Advice("problem", found, "load the tokenizer that was saved with the model")
    if c.model.context is None:
        return
    room = c.model.context - c.longest_prompt
    if room <= 0:
        found = f"the longest prompt has {c.longest_prompt:,} tokens, the model's context {c.model.context:,}"
        yield Advice("problem", found, "drop or shorten the longest problems")
    elif room < c.max_new_tokens:
        found = f"after the longest prompt the context has room for {room:,} tokens, not for {c.max_new_tokens:,}"
        yield Advice("note", found, f"expect traces that are cut off, or set the longest trace to {room:,} tokens")


def _answers(c: Checkup) -> Iterator[Advice]:
    n, answered = len(c.traces), c.asked_of
    if answered >= _MOST * n:
        return
    found = f"{answered} of {n} traces state an answer in format {c.format.name!r}"
    better = [name for name, share in c.presets.items() if share > answered / n and share >= _MOST]
    cut = sum(not trace.finished for trace in c.traces)
    if better:
        yield Advice("problem", found, f"use format {better[0]!r}, which reads an answer in {c.presets[better[0]]:.0%}")
    elif cut > n / 2:
        yield Advice("problem", f"{found}; {cut} were cut off", f"allow traces longer than {c.max_new_tokens} tokens")
    else:
        do = "check that the prompts look as they do in training; give a format of your own if the wording is"
        yield Advice("problem", found, f"{do}. A base model may learn its format first: then the guard waits for it")


def _cue(c: Checkup) -> Iterator[Advice]:
    if c.asked_of and c.agreeing < _MOST * c.asked_of:
        found = (
            f"asked {c.format.cue!r} after its full chain, the model gives its own answer in {c.agreeing} of "
            f"{c.asked_of} traces"
        )
        yield Advice("problem", found, "choose the format whose cue is how this model writes its answers")


def _steps(c: Checkup) -> Iterator[Advice]:
    counts = [trace.n_steps for trace in c.traces]
    if sum(counts) < 1.5 * len(counts):
        found = f"the traces have {sum(counts) / len(counts):.1f} steps on average"
        yield Advice(
            "note", found, f"with `step_end` {c.format.step_end!r} there is little to cut; is that how steps end?"
        )


def _length(c: Checkup) -> Iterator[Advice]:
    cut = sum(not trace.finished for trace in c.traces)
    if cut > len(c.traces) / 4 and c.asked_of >= _MOST * len(c.traces):
        found = f"{cut} of {len(c.traces)} traces were cut off at {c.max_new_tokens} tokens"
        yield Advice("note", found, "allow longer traces")


def _seams(c: Checkup) -> Iterator[Advice]:
    if c.seams.worth_telling:
        yield Advice("note", str(c.seams), "nothing, unless a preset that splits fewer tokens fits as well")


def _path(c: Checkup) -> Iterator[Advice]:
    if c.path.plan is None and not c.path.forks:
        found = f"every question is a pass of its own: {c.path.reason}"
        yield Advice("note", found, "nothing: it is exact, and slower; fewer problems make up for it")


def _chance(c: Checkup) -> Iterator[Advice]:
    """By the first set, as a guard finds its baseline."""
    if c.sets[0] in gated_sets(c.rows, floors([trace.problem for trace in c.traces])):
        scored = finite((row for row in c.rows if row.set == c.sets[0]), "accuracy")
        found = f"accuracy on the sample is {sum(scored) / len(scored):.2f}, near chance"
        yield Advice("note", found, "the guard's baseline will be the first evaluation that is better than chance")


def _known(c: Checkup) -> Iterator[Advice]:
    gains = finite(c.rows, "info_gain")
    if gains and sum(gains) / len(gains) < _KNOWN:
        found = f"the steps add {sum(gains) / len(gains):z.2f} nats per token to the answer"
        yield Advice("note", found, "harder problems: where answers need no steps, none can be lost")


def _number(c: Checkup) -> Iterator[Advice]:
    if c.n_problems < MINIMUM_PAIRS:
        found = f"{c.n_problems} problems; rules need {MINIMUM_PAIRS} to say anything"
        yield Advice("problem", found, f"give {_ENOUGH_PROBLEMS} or more")
    elif c.n_problems < _ENOUGH_PROBLEMS:
        yield Advice("note", f"{c.n_problems} problems show only large falls", f"give {_ENOUGH_PROBLEMS} or more")
    if len(c.sets) == 1:
        found = "one set of problems: a shortcut that they share with the training data can't show"
        yield Advice("note", found, 'add problems from elsewhere, told apart by a column "set" ("id", "ood")')


def _gradable(c: Checkup) -> Iterator[Advice]:
    """Without reference answers nothing is right or wrong; the first set decides whether an alarm can fire at all."""
    if sum(c.gradable.values()) == c.n_problems < MINIMUM_PAIRS:  # said already: too few problems
        return
    for name, count in c.gradable.items():
        if count < MINIMUM_PAIRS:
            which = f"problems of set {name!r}" if len(c.gradable) > 1 else f"of {c.n_problems} problems"
            found = f"{count} {which} have a reference answer; rules need {MINIMUM_PAIRS} to say anything"
            do = f"give {_ENOUGH_PROBLEMS} or more of them an answer; without one, nothing is right or wrong"
            yield Advice("problem" if name == c.sets[0] else "note", found, do)


def _chat(c: Checkup) -> Iterator[Advice]:
    if c.model.chat_template and not c.chats:
        found = "the tokenizer has a chat template and the prompts are plain text"
        yield Advice("note", found, "if the model is trained on chats, give prompts as messages")


_CHECKS: tuple[Callable[[Checkup], Iterator[Advice]], ...] = (
    _room,
    _answers,
    _cue,
    _steps,
    _length,
    _chance,
    _known,
    _seams,
    _path,
    _number,
    _gradable,
    _chat,
)
