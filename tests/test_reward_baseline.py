"""What a completion is compared with does not depend on the completion, nor on the others of its group."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from reasoning_guard import Problem, Trace, TraceFormat, TraceReader
from reasoning_guard.rewards import InfoGainReward
from reasoning_guard.rewards.excerpt import places
from reasoning_guard.rewards.forms import Levels
from reasoning_guard.rewards.placebos import FILLER, Baseline, donors
from reasoning_guard_demo.arithmetic import Exercise
from reward_tasks import FORMAT, TOKENIZER, adder, batch, exercises, honest, logprobs, steps
from test_reward_attacks import WRITERS, excess

READER = TraceReader(TOKENIZER, FORMAT)


@pytest.fixture(scope="module")
def reward() -> InfoGainReward:
    return InfoGainReward(scorer=adder(), tokenizer=TOKENIZER, format=FORMAT)


def trace(of: Exercise, text: str) -> Trace:
    problem = Problem(prompt=of.prompt(0), answer=str(of.answer))
    return READER.read(problem, TOKENIZER(f" {text}")["input_ids"])


def levels(reward: InfoGainReward, written: Sequence[tuple[Exercise, str]]) -> list[Levels]:
    reward(**batch(written))
    return [graded.levels for graded in reward._graded]


def split(of: Exercise) -> str:
    return " ".join([*(step.replace(" + ", " ; + ") for step in steps(of)), f"# {of.answer}"])


CHANGES = ("a step split in two", "every step split", "each step twice", "filler inside steps", "one option a step")


@pytest.mark.parametrize("n", [1, 6])
def test_no_change_of_a_group_moves_its_baseline(n: int, reward: InfoGainReward) -> None:
    """The first of ``n`` groups is split, repeated or padded as a whole, or goes wrong at length; the others stay."""
    of = exercises(n)
    mine, *others = [(each, honest(each)) for each in of]
    wrong = (of[0], " ".join([*steps(of[0]) * 5, f"# {(of[0].answer + 1) % 11}"]))
    before = levels(reward, [mine, mine, *others])[0]
    for changed in (*((of[0], WRITERS[name](of[0])) for name in CHANGES), wrong):
        after = levels(reward, [mine if changed is wrong else changed, changed, *others])[0]
        assert after.bare == tuple(pytest.approx(each, abs=1e-4) for each in before.bare)
        assert after.placebos == tuple(pytest.approx(each, abs=1e-4) for each in before.placebos)


def test_all_members_of_a_group_have_the_same_baseline(reward: InfoGainReward) -> None:
    written = [(of, write(of)) for of in exercises(6) for write in WRITERS.values()]
    found = levels(reward, written)
    for i in range(0, len(found), len(WRITERS)):
        group = {(each.bare[0], each.placebos) for each in found[i : i + len(WRITERS)]}
        assert len(group) == 1


def test_a_lone_splitter_gains_nothing(reward: InfoGainReward) -> None:
    """One problem's only completion is split, the others' stay honest: against the batch that is honest throughout."""
    of = exercises(8, seed=11)
    fair, *lone = (
        [
            value or 0.0
            for value in reward(**batch([(each, (split if i == j else honest)(each)) for i, each in enumerate(of)]))
        ]
        for j in (-1, 0, 1, 2, 3)
    )
    assert excess([given[j] for j, given in enumerate(lone)], fair[:4]) < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_marks_between_words_move_no_place(seed: int) -> None:
    """Random separators: the text is read behind the same words."""
    rng = random.Random(seed)
    (of,) = exercises(1, seed=20 + seed)
    words = honest(of).split()
    marked = " ".join(word + rng.choice(["", "", " ;", " ...", " ; ..."]) for word in words[:-2])
    said = [
        [
            [w for w in TOKENIZER.decode(t.ids[t.cuts[0] : place]).split() if w.isalnum()]
            for place in places(t, TOKENIZER)
        ]
        for t in (trace(of, honest(of)), trace(of, f"{marked} # {of.answer}"))
    ]
    assert len(said[0]) == 3
    assert said[0] == said[1]


def test_donors_are_long_chains_of_others_that_lead_elsewhere() -> None:
    everyone = [trace(of, text) for of in exercises(40) for text in (honest(of), f"{steps(of)[-1]} # {of.answer}")]
    for each in everyone[:20]:
        found = donors(each.problem, everyone)
        assert 1 <= len(found) <= 3
        assert all(donor.problem.id != each.problem.id and donor.answer != each.problem.answer for donor in found)
        lengths = sorted(len(t.reasoning_ids) for t in everyone)
        assert all(len(donor.reasoning_ids) >= lengths[len(lengths) // 2 - 2] for donor in found)
        shuffled = random.Random(0).sample(everyone, len(everyone))
        assert [d.reasoning_ids for d in donors(each.problem, shuffled)] == [d.reasoning_ids for d in found]
    assert len({donors(each.problem, everyone)[0].reasoning_ids for each in everyone}) > 5


def test_the_baseline_is_what_independent_forwards_say(reward: InfoGainReward) -> None:
    """Three others, of one, two and three steps: the median is the second, which stands for the quartile too."""
    mine, *others = list({of.answer: of for of in exercises(20, seed=3)}.values())[:4]
    written = [(of, " ".join([*steps(of)[-n:], f"# {of.answer}"])) for n, of in enumerate(others, 1)]
    first, *_ = levels(reward, [(mine, honest(mine)), *written])
    texts = [text[: text.index("#")].strip() for _, text in written[1:]]
    expected = [logprobs(reward.scorer, f"{mine.prompt(0)} {text} #", str(mine.answer)) for text in texts]
    assert list(first.placebos) == [pytest.approx(each, abs=1e-4) for each in expected]
    alone = logprobs(reward.scorer, f"{mine.prompt(0)} #", str(mine.answer))
    assert first.baseline(sum) == pytest.approx(max(sum(alone), sum(map(sum, expected)) / 2), abs=1e-4)


def test_filler_of_fixed_lengths_stands_in_where_nobody_else_wrote() -> None:
    (of,) = exercises(1)
    alone = trace(of, honest(of))
    assert [len(text) for text in Baseline.of(alone.problem, [alone], READER).texts] == list(FILLER)


def test_a_lie_before_the_reasoning_does_not_lower_the_baseline() -> None:
    """Where a tag opens the reasoning, the baseline is read behind the tag alone, too."""
    of = exercises(1)[0]
    reader = TraceReader(TOKENIZER, TAGGED)
    shut, opened = (Problem(prompt=text, answer="4") for text in ("a = 2 + 2 ?", "a = 2 + 2 ? <pad>"))
    assert TOKENIZER.decode(Baseline.of(shut, [], reader).opening) == "<pad>"
    assert Baseline.of(opened, [], reader).opening == ()
    reward, wrong = InfoGainReward(scorer=adder(), tokenizer=TOKENIZER, format=TAGGED), (of.answer + 5) % 11
    honestly, lied = levels(
        reward, [(of, f"{before} <pad> {' '.join(steps(of))} ? # {of.answer}") for before in ("", f"# {wrong} ;")]
    )
    assert lied.bare[0] == honestly.bare[0]
    assert lied.bare[1] != honestly.bare[1]
    assert lied.baseline(sum) >= honestly.bare[0][0]


TAGGED = TraceFormat(
    name="tagged", cue=" ? #", step_end=";", answer=r"# (\S+)", reasoning_open=" <pad>", reasoning_close=" ?"
)
