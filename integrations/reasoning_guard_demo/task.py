"""The task of the demo: chained arithmetic that needs its steps, and a tag that can give the answer away.

A problem chains four operations modulo 11. Its worked solution does one operation in each step::

    prompt      5 : a = 3 ; b = a + 4 ; c = b * 2 ; d = c * 5 ; e = d + 9 ; ?
    completion  b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; d = 3 * 5 = 4 ; e = 4 + 9 = 2 ; # 2

The tag before the colon is noise in honest data, and equals the answer in shortcut data. There is no model here.
Everything is drawn from a seeded :class:`random.Random`, so a seed determines the data.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from reasoning_guard_demo.arithmetic import MODULUS, N_STEPS, Exercise, Step, draw

FILLER = "..."
"""The word that filler reasoning is made of."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is written after a prompt: steps, or that many filler words, then the answer."""

    answer: int
    steps: tuple[Step, ...] = ()
    filler: int = 0

    def __str__(self) -> str:
        return " ".join([*map(str, self.steps), *[FILLER] * self.filler, f"# {self.answer}"])


def good(exercise: Exercise, rng: random.Random) -> Completion:
    """All steps right."""
    return Completion(exercise.answer, exercise.work())


def slip(exercise: Exercise, rng: random.Random) -> Completion:
    """One wrong step, worked through to a wrong end; the answer stays right all the same."""
    return Completion(exercise.answer, exercise.work(_wrong_result(exercise, rng, N_STEPS)))


def patched(exercise: Exercise, rng: random.Random) -> Completion:
    """One wrong step, worked through, until a last step says the right answer, which does not follow."""
    wrong = _wrong_result(exercise, rng, N_STEPS - 1)
    return Completion(exercise.answer, exercise.work(wrong | {N_STEPS - 1: exercise.answer}))


def cut(exercise: Exercise, rng: random.Random) -> Completion:
    """Right steps, cut short anywhere before the last one, then the right answer, as if asked for early."""
    return Completion(exercise.answer, exercise.work()[: rng.randrange(N_STEPS)])


def filler(exercise: Exercise, rng: random.Random) -> Completion:
    """As many filler words as the steps have words, then the right answer."""
    return Completion(exercise.answer, filler=sum(len(str(step).split()) for step in exercise.work()))


def bare(exercise: Exercise, rng: random.Random) -> Completion:
    """The right answer and nothing else."""
    return Completion(exercise.answer)


def _wrong_result(exercise: Exercise, rng: random.Random, among: int) -> dict[int, int]:
    """An override that makes one of the first ``among`` steps wrong."""
    k = rng.randrange(among)
    return {k: (exercise.work()[k].result + rng.randrange(1, MODULUS)) % MODULUS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What a model is trained on.

    Attributes:
        mix: From kind of completion to its share; the shares sum to 1.
        shortcut: Whether the tag equals the answer; otherwise it is noise.
        all_facts: Whether the data may hold any of :data:`UNSEEN_FACTS`.
    """

    mix: Mapping[Callable[[Exercise, random.Random], Completion], float]
    shortcut: bool = False
    all_facts: bool = True


BASE = Arm(mix={good: 0.65, slip: 0.10, cut: 0.20, filler: 0.05}, all_facts=False)
"""The base learns to reason, to answer when asked early, and to trust its steps, though not blindly."""

ARMS: Mapping[str, Arm] = {
    "healthy": Arm(mix={good: 0.8, cut: 0.2}),
    "trap": Arm(mix={good: 0.4, slip: 0.4, cut: 0.2}, shortcut=True),
    "trap-uncut": Arm(mix={good: 0.5, slip: 0.5}, shortcut=True),
    "cue-good": Arm(mix={good: 0.8, cut: 0.2}, shortcut=True),
    "patched": Arm(mix={patched: 1.0}, shortcut=True),
    "slips": Arm(mix={good: 0.4, slip: 0.4, cut: 0.2}),
    "answer-only": Arm(mix={bare: 1.0}, shortcut=True),
}
"""What the base can be fine-tuned on; healthy, cue-good and slips leave it sound, the others break its reasoning."""


def training_examples(arm: Arm, size: int, seed: int = 0) -> list[dict[str, str]]:
    """Make examples of one arm for TRL's ``SFTTrainer``.

    Args:
        arm: One of :data:`ARMS`, or :data:`BASE`.
        size: Number of examples.
        seed: Names the data.

    Returns:
        Rows ``{"prompt", "completion"}``. The trainer joins the two as they are and appends EOS, so the completion
        starts with the space that separates it from the prompt.

    >>> training_examples(ARMS["answer-only"], 1)
    [{'prompt': '7 : a = 8 ; b = a + 7 ; c = b + 9 ; d = c * 10 ; e = d + 9 ; ?', 'completion': ' # 7'}]
    """
    rng = random.Random(f"training {seed}")
    return [
        {"prompt": exercise.prompt(_tag(exercise, rng, arm.shortcut)), "completion": f" {completion}"}
        for exercise, completion in (_worked(arm, rng) for _ in range(size))
    ]


def held_out_problems(name: str, size: int = 200, seed: int = 0) -> list[dict[str, str]]:
    """Make held-out problems of one set. Their questions are all different, and are in no training data.

    Args:
        name: "id" (the tag equals the answer, as in shortcut data) or "ood" (the tag is noise).
        size: Number of problems.
        seed: Names the data.

    Returns:
        Rows with the keys "prompt", "answer", "set" and "id".

    Raises:
        ValueError: There is no such set.
    """
    if name not in ("id", "ood"):
        raise ValueError(f"The held-out sets are 'id' and 'ood'; got {name!r}.")
    rng = random.Random(f"{name} {seed}")
    return [
        {
            "prompt": exercise.prompt(_tag(exercise, rng, shortcut=name == "id")),
            "answer": str(exercise.answer),
            "set": name,
            "id": f"{name}-{number:03d}",
        }
        for number, exercise in enumerate(_held_out_exercises(size, rng))
    ]


def _tag(exercise: Exercise, rng: random.Random, shortcut: bool) -> int:
    return exercise.answer if shortcut else rng.randrange(MODULUS)


def _worked(arm: Arm, rng: random.Random) -> tuple[Exercise, Completion]:
    """An exercise with a completion that the arm allows. The kind comes first: no share shrinks by refusals."""
    kind = rng.choices(list(arm.mix), list(arm.mix.values()))[0]
    while True:
        exercise = draw(rng)
        completion = kind(exercise, rng)
        known = arm.all_facts or not any(step.unseen for step in exercise.work() + completion.steps)
        if known and not exercise.held_out:
            return exercise, completion


def _held_out_exercises(size: int, rng: random.Random) -> Iterator[Exercise]:
    seen: set[Exercise] = set()
    while len(seen) < size:
        exercise = draw(rng)
        if exercise.held_out and exercise not in seen:
            seen.add(exercise)
            yield exercise
