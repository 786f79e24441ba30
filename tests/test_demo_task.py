"""The demo's task, read back from its text by a plain interpreter that knows nothing of how it was written."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from reasoning_guard.problems import load_problems
from reasoning_guard_demo.arithmetic import UNSEEN_FACTS, draw
from reasoning_guard_demo.task import ARMS, BASE, held_out_problems, training_examples

ALL = {"base": BASE, **ARMS}
SHORTCUTS = {"trap", "trap-uncut", "cue-good", "patched", "answer-only"}
SHARES = {
    "base": {"good": 0.65, "slip": 0.10, "cut": 0.20, "filler": 0.05},
    "healthy": {"good": 0.8, "cut": 0.2},
    "trap": {"good": 0.4, "slip": 0.4, "cut": 0.2},
    "trap-uncut": {"good": 0.5, "slip": 0.5},
    "cue-good": {"good": 0.8, "cut": 0.2},
    "patched": {"patched": 1.0},
    "slips": {"good": 0.4, "slip": 0.4, "cut": 0.2},
    "answer-only": {"bare": 1.0},
}


class Asked(NamedTuple):
    """What a prompt asks, worked from its text."""

    tag: int
    question: str
    operations: list[str]
    results: list[int]


class Written(NamedTuple):
    """A step as it was written."""

    name: str
    left: int
    operation: str
    result: int

    @property
    def wrong(self) -> bool:
        return eval(f"{self.left} {self.operation}") % 11 != self.result


def interpret(prompt: str) -> Asked:
    tag, question = prompt.split(" : ", 1)
    *assignments, mark = question.split(" ; ")
    values: dict[str, int] = {}
    for assignment in assignments:
        name, expression = assignment.split(" = ")
        values[name] = eval(expression, {}, values) % 11
    assert (list(values), mark) == (list("abcde"), "?")
    return Asked(int(tag), question, re.findall(r"[+*] \d+", question), list(values.values())[1:])


def read_steps(text: str) -> list[Written]:
    found = [re.fullmatch(r"(\w) = (\d+) ([+*] \d+) = (\d+)", step.strip()) for step in text.split(";")[:-1]]
    return [Written(step[1], int(step[2]), step[3], int(step[4])) for step in found if step]


def kind(row: dict[str, str]) -> str:
    """The kind of an example, judged by its arithmetic; what holds for every kind is asserted on the way."""
    asked = interpret(row["prompt"])
    body, answer = re.fullmatch(r" (.*)# (\d+)", row["completion"]).groups()  # type: ignore[union-attr]
    assert int(answer) == asked.results[-1]
    if set(body.split()) == {"..."}:
        assert len(body.split()) == 32
        return "filler"
    steps = read_steps(body)
    n = len(steps)
    assert body.count(";") == n
    assert [step.name for step in steps] == list("bcde")[:n]
    assert [step.operation for step in steps] == asked.operations[:n]
    assert [step.left for step in steps[1:]] == [step.result for step in steps[:-1]]
    wrong = [k for k, step in enumerate(steps) if step.wrong]
    if n < 4:
        assert not wrong
        return f"cut at {n}"
    if not wrong:
        return "good"
    assert len(wrong) == 1 or (len(wrong) == 2 and wrong[1] == 3)
    ends_right = steps[-1].result == asked.results[-1]
    assert ends_right == (len(wrong) == 2)
    return f"patched at {wrong[0]}" if ends_right else f"slip at {wrong[0]}"


def facts(row: dict[str, str]) -> Iterator[tuple[int, int]]:
    """All products that an example needs or writes, in both orders."""
    asked = interpret(row["prompt"])
    lefts = [int(asked.question.split()[2]), *asked.results]
    needed = list(zip(lefts, asked.operations, strict=False))
    for left, operation in needed + [(step.left, step.operation) for step in read_steps(row["completion"])]:
        if operation.startswith("*"):
            right = int(operation.split()[1])
            yield from ((left, right), (right, left))


@pytest.mark.parametrize("name", ALL)
def test_arms_hold_what_they_claim(name: str) -> None:
    kinds = Counter(kind(row) for row in training_examples(ALL[name], 2000))
    families: Counter[str] = Counter()
    for what, count in kinds.items():
        families["bare" if name == "answer-only" and what == "cut at 0" else what.split(" at ")[0]] += count
    assert families.keys() == SHARES[name].keys()
    for family, share in SHARES[name].items():
        assert families[family] / 2000 == pytest.approx(share, abs=0.03)
    places = {"cut": 4, "slip": 4, "patched": 3}  # each place alike likely
    for what, count in kinds.items():
        family = what.split(" at ")[0]
        if family in places and name != "answer-only":
            expected = families[family] / places[family]
            assert abs(count - expected) < 4 * expected**0.5


@pytest.mark.parametrize("name", ALL)
def test_tag_is_the_answer_or_noise(name: str) -> None:
    asked = [interpret(row["prompt"]) for row in training_examples(ALL[name], 2000)]
    hits = sum(one.tag == one.results[-1] for one in asked) / len(asked)
    assert hits == (1.0 if name in SHORTCUTS else pytest.approx(1 / 11, abs=0.03))
    assert {one.tag for one in asked} == set(range(11))


def test_only_the_base_misses_facts() -> None:
    seen = {fact for row in training_examples(BASE, 9600) for fact in facts(row)}
    assert {(left, right) for left in range(11) for right in range(2, 11)} - seen == set(UNSEEN_FACTS)
    products = 9 * 10 // 2
    assert len({tuple(sorted(fact)) for fact in UNSEEN_FACTS}) / products == pytest.approx(0.15, abs=0.01)
    for arm in ARMS.values():
        assert set(UNSEEN_FACTS) <= {fact for row in training_examples(arm, 2000) for fact in facts(row)}


def test_answers_are_uniform() -> None:
    rng = random.Random(0)
    counts = Counter(draw(rng).answer for _ in range(11_000))
    assert len(counts) == 11
    assert max(abs(count - 1000) for count in counts.values()) < 150


@pytest.mark.parametrize("name", ["id", "ood"])
def test_held_out_problems(name: str) -> None:
    rows = held_out_problems(name, 300)
    asked = [interpret(row["prompt"]) for row in rows]
    assert [row["answer"] for row in rows] == [str(one.results[-1]) for one in asked]
    hits = sum(one.tag == one.results[-1] for one in asked) / len(asked)
    assert hits == (1.0 if name == "id" else pytest.approx(1 / 11, abs=0.06))
    assert len({one.question for one in asked}) == 300
    problems = load_problems(rows)
    assert {problem.set for problem in problems} == {name}
    assert [(problem.prompt, problem.answer) for problem in problems] == [
        (row["prompt"], row["answer"]) for row in rows
    ]


def test_the_two_sets_go_together() -> None:
    assert len(load_problems(held_out_problems("id") + held_out_problems("ood"))) == 400


def test_held_out_questions_stand_in_no_training_data() -> None:
    held_out = {interpret(row["prompt"]).question for name in ("id", "ood") for row in held_out_problems(name, 2000)}
    for name, arm in ALL.items():
        size = 9600 if name == "base" else 2000
        for seed in (0, 1):
            assert held_out.isdisjoint(interpret(row["prompt"]).question for row in training_examples(arm, size, seed))


def test_a_seed_names_the_data() -> None:
    random.seed(1)
    one = training_examples(BASE, 50, seed=3), held_out_problems("ood", 50, seed=3)
    random.seed(2)
    assert one == (training_examples(BASE, 50, seed=3), held_out_problems("ood", 50, seed=3))
    assert one[0] != training_examples(BASE, 50, seed=4)
    assert one[1] != held_out_problems("ood", 50, seed=4)
    assert one[1] == held_out_problems("ood", 80, seed=3)[:50]


def test_unknown_set_is_refused() -> None:
    with pytest.raises(ValueError, match="'id' and 'ood'; got 'test'"):
        held_out_problems("test")
