"""Every known way to farm the reward, as a concrete trace before a reader that can do the sums."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from reasoning_guard.rewards import InfoGainReward
from reasoning_guard_demo.arithmetic import Exercise
from reward_tasks import FORMAT, TOKENIZER, Write, adder, batch, exercises, graded, honest, steps

LIST = " ".join(map(str, range(11)))

# What a farmer might write, always with the right final answer.
ATTACKS = {
    "answer first": lambda of: f"= {of.answer} ; {honest(of)}",
    "answer first, bare": lambda of: f"{of.answer} ; {honest(of)}",
    "answer first, repeated": lambda of: f"= {of.answer} ; " * 5 + honest(of),
    "answer alone": lambda of: f"# {of.answer}",
    "answer as a step": lambda of: f"d = {of.answer} ; # {of.answer}",
    "answer told twice": lambda of: f"d = {of.answer} ; d = {of.answer} ; # {of.answer}",
    "answer run into the chain": lambda of: f"{of.answer} {honest(of)}",
    "answer alone between steps": lambda of: joined(lambda s: [s[0], f"{of.answer} ;", *s[1:]])(of),
    "answer plus nothing": lambda of: f"d = {of.answer} + 0 = {of.answer} ; # {of.answer}",
    "answer plus nothing in every step": lambda of: every(of, f"{of.answer} + 0 = {of.answer}"),
    "nothing plus answer in every step": lambda of: every(of, f"0 + {of.answer} = {of.answer}"),
    "answer times one in every step": lambda of: every(of, f"1 * {of.answer} = {of.answer}"),
    "answer behind the cue in every step": lambda of: every(of, f"# {of.answer}"),
    "away from the answer and back": lambda of: (
        f"c = {of.answer} + 3 = {(of.answer + 3) % 11} ; d = {(of.answer + 3) % 11} - 3 = {of.answer} ; # {of.answer}"
    ),
    "all options": lambda of: f"{LIST} ; # {of.answer}",
    "all options behind an equals sign": lambda of: f"d = {LIST} ; # {of.answer}",
    "all options, backwards": lambda of: " ".join(map(str, range(10, -1, -1))) + f" ; # {of.answer}",
    "counting up to it": lambda of: " ".join(map(str, range(of.answer + 1))) + f" ; # {of.answer}",
    "one option a step": lambda of: " ; ".join(f"d = {i}" for i in range(11)) + f" ; # {of.answer}",
    "counting up to it, one a step": lambda of: (
        " ; ".join(f"d = {i}" for i in range(of.answer + 1)) + f" ; # {of.answer}"
    ),
    "counting up to it in sums": lambda of: (
        " ; ".join(f"d = {i} + 1 = {i + 1}" for i in range(of.answer)) + f" ; # {of.answer}"
    ),
    "its neighbours": lambda of: f"{(of.answer - 1) % 11} {(of.answer + 1) % 11} ; # {of.answer}",
    "a sum without its result": lambda of: f"d = {(of.answer - 1) % 11} + 1 ; # {of.answer}",
    "an operand of other results": lambda of: joined(lambda s: operands(of, s))(of),
    "the prompt again": lambda of: of.prompt(0).split(":")[1].replace("?", "") + f"; # {of.answer}",
    "the chain, the answer, and another chain": lambda of: f"{honest(of)} {' '.join(steps(other(of)))} # {of.answer}",
    "padding tokens": lambda of: "<pad> " * 8 + f"; # {of.answer}",
    "the cue alone": lambda of: f"# # # # ; # {of.answer}",
    "filler": lambda of: "... " * 20 + f"; # {of.answer}",
    "another problem's steps": lambda of: " ".join(steps(other(of))) + f" # {of.answer}",
    "a patched last step": lambda of: patched(of),
    "the last step alone": lambda of: f"{steps(of)[-1]} # {of.answer}",
    "falling and climbing again": lambda of: climbing(of, 1),
    "falling and climbing thrice": lambda of: climbing(of, 3),
}

# Changes of an honest trace that add nothing to what it tells, and leave no token behind.
PADDINGS = {
    "each step twice": lambda s: [x for step in s for x in (step, step)],
    "the chain twice": lambda s: [*s[:-1], *s],
    "the chain five times": lambda s: [*s[:-1] * 4, *s],
    "filler steps": lambda s: [x for step in s for x in ("... ... ;", step)],
    "filler in front": lambda s: ["... " * 12 + ";", *s],
    "empty steps": lambda s: [x for step in s for x in (step, ";")],
    "repeats after the answer": lambda s: [*s, *s],
    "repeats with other marks": lambda s: [x for step in s for x in (step, step.replace(" ;", " ... ;"))],
}

# Marks and filler put inside steps.
SPLITS = {
    "a step split in two": lambda s: [*s[:1], s[1].replace(" + ", " ; + "), *s[2:]],
    "every step split": lambda s: [step.replace(" + ", " ; + ") for step in s],
    "every result apart": lambda s: [step.replace(" = ", " ; = ") for step in s],
    "filler inside steps": lambda s: [step.replace(" + ", " ... ... + ") for step in s],
}


def patched(of: Exercise) -> str:
    """A wrong chain whose last step says the right answer."""
    *before, last = of.work({0: (of.work()[0].result + 5) % 11, 2: of.answer})
    return " ".join([*map(str, before), str(last), f"# {of.answer}"])


def other(of: Exercise) -> Exercise:
    """An exercise with another answer."""
    return next(each for each in exercises(50, seed=5) if each.answer not in {of.answer, of.start})


def climbing(of: Exercise, times: int) -> str:
    """A chain that leads to the answer, away from it and back; the last step is written once."""
    *before, last = steps(of)
    return " ".join([*before, *["d = 0 ;", *before] * times, last, f"# {of.answer}"])


def every(of: Exercise, said: str) -> str:
    """The names of a chain, each with the same behind it."""
    return joined(lambda chain: [f"{step[0]} = {said} ;" for step in chain])(of)


def operands(of: Exercise, chain: list[str]) -> list[str]:
    """The names of a chain, each calculated from the answer."""
    return [f"{step[0]} = {of.answer} + {k} = {(of.answer + k) % 11} ;" for k, step in enumerate(chain, start=1)]


def joined(change: Callable[[list[str]], list[str]]) -> Write:
    return lambda of: " ".join([*change(steps(of)), f"# {of.answer}"])


WRITERS: dict[str, Write] = {
    "honest": honest,
    **ATTACKS,
    **{name: joined(change) for name, change in (PADDINGS | SPLITS).items()},
}


@pytest.fixture(scope="module")
def reward() -> InfoGainReward:
    return InfoGainReward(scorer=adder(), tokenizer=TOKENIZER, format=FORMAT)


@pytest.fixture(scope="module")
def groups(reward: InfoGainReward) -> dict[str, list[float]]:
    """One batch as GRPO makes it: a group a problem, in which every way to write has a member."""
    written = [(of, write(of)) for of in exercises(24) for write in WRITERS.values()]
    given = [value or 0.0 for value in reward(**batch(written))]
    return {name: given[i :: len(WRITERS)] for i, name in enumerate(WRITERS)}


def excess(got: Sequence[float], fair: Sequence[float]) -> float:
    """The most that any trace gained over its honest form, nats a token."""
    return max(a - b for a, b in zip(got, fair, strict=True))


def test_an_honest_chain_is_paid(groups: dict[str, list[float]]) -> None:
    assert min(groups["honest"]) > 0
    assert statistics.mean(groups["honest"]) > 1.5


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_earns_next_to_nothing(name: str, groups: dict[str, list[float]]) -> None:
    assert statistics.mean(groups[name]) < 0.25 * statistics.mean(groups["honest"])
    assert excess(groups[name], groups["honest"]) < 0.05


@pytest.mark.parametrize("name", PADDINGS)
def test_padding_pays_exactly_what_the_trace_pays_without_it(name: str, groups: dict[str, list[float]]) -> None:
    assert groups[name] == pytest.approx(groups["honest"], abs=1e-4)


@pytest.mark.parametrize("name", SPLITS)
def test_splitting_pays_exactly_what_the_whole_steps_pay(name: str, groups: dict[str, list[float]]) -> None:
    assert groups[name] == pytest.approx(groups["honest"], abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_no_mixture_of_splits_raises_the_reward(seed: int, reward: InfoGainReward) -> None:
    """Marks, empty steps and filler between any words of any steps, in groups with honest chains."""
    rng = random.Random(seed)

    def split(chain: list[str]) -> list[str]:
        return [
            " ".join(word + rng.choice([" ;", " ; ;", " ; ... ;", " ...", "", "", ""]) for word in step[:-2].split())
            + " ;"
            for step in chain
        ]

    given = reward(**batch([(of, write(of)) for of in exercises(8) for write in (honest, joined(split))]))
    assert given[::2] == pytest.approx(given[1::2], abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_no_mixture_of_paddings_raises_the_reward(seed: int, reward: InfoGainReward) -> None:
    """Random repeats, filler and empty steps, anywhere in the chain and behind it, in groups with honest chains."""
    rng = random.Random(seed)

    def padded(chain: list[str]) -> list[str]:
        out: list[str] = []
        for step in chain:
            out += (
                [rng.choice(["... ;", ";", "... ... ... ;", *out])] * rng.randrange(3)
                if out or rng.random() < 0.5
                else []
            )
            out.append(step)
        return out + rng.choices([*chain, "... ;"], k=rng.randrange(5))

    given = reward(**batch([(of, write(of)) for of in exercises(8) for write in (honest, joined(padded))]))
    assert given[::2] == pytest.approx(given[1::2], abs=1e-4)


def test_cutting_the_same_tokens_finer_changes_nothing(reward: InfoGainReward) -> None:
    """For any reader: nothing depends on where steps end, or how many there are."""
    finer = replace(FORMAT, step_end=r"[;+]")
    finely = InfoGainReward(scorer=adder(), tokenizer=TOKENIZER, format=finer)
    assert graded(finely, honest) == pytest.approx(graded(reward, honest), abs=1e-4)


def test_wrong_answers_and_missing_chains_earn_nothing(reward: InfoGainReward) -> None:
    wrong = graded(reward, lambda of: " ".join([*steps(of), f"# {(of.answer + 1) % 11}"]))
    bare = graded(reward, lambda of: f"# {of.answer}")
    assert wrong == bare == [0.0] * len(bare)
