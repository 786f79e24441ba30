"""InfoGain as a reward: what it gives, against plain forwards of the test's own."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reasoning_guard import TraceReader
from reasoning_guard.problems import Problem
from reasoning_guard.rewards import (
    InfoGainReward,
)
from reasoning_guard.rewards.excerpt import cleaned
from reasoning_guard.rewards.forms import FORMS, Levels
from reward_tasks import FORMAT, SETTINGS, TOKENIZER, adder, batch, exercises, honest, logprobs, some, steps
from tokenizers_on_the_spot import gpt2_style


@pytest.fixture(scope="module")
def model() -> Any:
    return adder()


def test_info_gain_is_what_independent_forwards_say(model: Any) -> None:
    """One problem alone: filler of 8 and 32 tokens is the placebo (128 are beyond this model's context)."""
    of = exercises(1)[0]
    prompt, answer, text = of.prompt(0), str(of.answer), " ".join(steps(of))
    given = InfoGainReward(scorer=model, **SETTINGS)(**batch([(of, honest(of))]))
    fillers = [logprobs(model, f"{prompt} {'... ' * n} #", answer)[0] for n in (8, 32)]
    baseline = max(logprobs(model, f"{prompt} #", answer)[0], sum(fillers) / 2)
    before = text.removesuffix(f" {answer} ;").split()
    said = [i for i, word in enumerate(before) for c in word if c.isalnum()]  # the word of each letter or digit
    parts = [" ".join(before[: said[len(said) * i // 4 - 1] + 1]) for i in (1, 2, 3)]
    levels = [logprobs(model, f"{prompt} {part} #", answer)[0] for part in parts]
    end = logprobs(model, f"{prompt} {text} #", answer)[0]
    best = min(max(*levels, logprobs(model, f"{prompt} {' '.join(before)}", answer)[0]), end)
    assert given == [pytest.approx(max(0.0, best - baseline), abs=1e-4)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("watermark", 2.0), ("total", 1.5), ("share", 0.5),
        ("rlpr", math.exp(-1.5) - math.exp(-3)), ("verifree", math.exp(-3) - math.exp(-6)),
    ],
)  # fmt: skip
def test_the_forms(form: Any, expected: float) -> None:
    """Two tokens, equally likely; the baseline is the better of nothing (-3) and a placebo (-4)."""
    levels = Levels(((-3.0,) * 2,), ((-4.0,) * 2,), ((-1.0,) * 2, (-2.0,) * 2), (-1.5,) * 2, (-0.1,) * 2, 2)
    assert levels.reward(form) == pytest.approx(expected)


def test_the_baseline_is_the_mean_of_the_placebos_where_that_is_above_the_prompt_alone() -> None:
    """One other text that happens to fit is no baseline."""
    found = [Levels(((-3.0,),), others, (), (-1.0,), (-1.0,), 1).baseline(sum) for others in (
        (), ((-0.1,), (-9.0,)), ((-1.0,), (-2.0,)),
    )]  # fmt: skip
    assert found == [-3.0, -3.0, -1.5]


@pytest.mark.parametrize("places", [(), ((-2.0,), (-2.5,))])
def test_the_highest_level_may_be_the_one_right_before_the_statement(places: tuple[tuple[float, ...], ...]) -> None:
    assert Levels(((-3.0,),), (), places, (-1.0,), (-0.5,), 1).reward("watermark") == pytest.approx(2.0)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_pays_for_what_the_end_of_the_text_does_not_bear_out(form: Any) -> None:
    levels = Levels(((-3.0,),), (), ((-0.1,),), (-0.1,), (-3.0,), 1)
    assert levels.reward(form) == pytest.approx(0.0)


def test_a_gap_anywhere_leaves_nothing_to_pay_for() -> None:
    whole = ((-3.0,), (-2.0,)), ((-4.0,), (-5.0,)), ((-1.0,), (-2.0,)), (-1.5,), (-0.1,), 1
    assert Levels(*whole).finite
    gaps = ((-3.0,), (math.nan,)), ((-4.0,), (-math.inf,)), ((math.nan,), (-2.0,)), (math.nan,), (-math.inf,)
    assert not any(Levels(*whole[:i], gap, *whole[i + 1 :]).finite for i, gap in enumerate(gaps))


def test_a_share_of_next_to_nothing_pays_nothing() -> None:
    certain, open_ = (Levels(((lp, lp),), (), (), (lp / 2,) * 2, (lp / 2,) * 2, 2) for lp in (-0.04, -0.06))
    assert (certain.reward("share"), open_.reward("share")) == (0.0, pytest.approx(0.5))


def test_easy_tokens_beside_the_answer_raise_no_form() -> None:
    """The same answer with zeros behind it, "5.000", or before it: each is all but certain once the first is there."""
    bare, told = (math.log(0.02),), (math.log(0.9),)
    for form in FORMS:
        easy = (math.log(0.95),) * 9
        plain, *padded = (
            Levels((bare,), (), (), final, told, 1).reward(form) for final in (bare, bare + easy, easy + bare)
        )
        assert max(padded) <= plain + 1e-12, form


def test_a_misleading_text_costs_in_the_total_form_only() -> None:
    levels = Levels(((-1.0,),), (), (), (-4.0,), (-4.0,), 1)
    assert [levels.reward(form) for form in ("watermark", "total", "share", "rlpr", "verifree")] == [0, -3, 0, 0, 0]


def test_the_placebo_is_another_problems_chain(model: Any) -> None:
    """A reader that answers alike behind anybody's steps is paid for nothing."""
    blind = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    assert InfoGainReward(scorer=blind, **SETTINGS)(**some()) == pytest.approx([0.0] * 8)


def test_completion_ids_are_used_as_they_came(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says nothing, the ids say everything; a tokenizer that would encode completions is never asked to."""
    seen: list[str] = []
    inner = TraceReader.read_text
    monkeypatch.setattr(TraceReader, "read_text", lambda self, p, t: seen.append(t) or inner(self, p, t))
    wanted = InfoGainReward(scorer=model, **SETTINGS)(**some())
    blanked = InfoGainReward(scorer=model, **SETTINGS)(**{**some(), "completions": ["?"] * 8})
    assert blanked == wanted
    assert not seen
    without = {name: values for name, values in some().items() if name != "completion_ids"}
    assert InfoGainReward(scorer=model, **SETTINGS)(**without) == pytest.approx(wanted)
    assert len(seen) == 8


def test_one_scoring_call_a_batch_each_prompt_a_group(model: Any) -> None:
    reward, calls = InfoGainReward(scorer=model, **SETTINGS), []
    inner = reward._scorer.score_tree_groups
    reward._scorer.score_tree_groups = lambda groups: calls.append([len(g) for g in groups]) or inner(groups)
    reward(**batch([(of, honest(of)) for of in exercises(3) for _ in range(4)]))
    assert calls == [[4, 4, 4]]


def test_messages_and_plain_text_pay_alike(model: Any) -> None:
    plain = some()
    reward = InfoGainReward(scorer=model, **SETTINGS)
    messages = [[{"role": "assistant", "content": text}] for text in plain["completions"]]
    assert reward(**{**plain, "completions": messages}) == reward(**plain)


def test_a_batch_is_known_again_by_all_that_came_with_it(model: Any) -> None:
    """Loops of one's own hand the same list over again, with other answers or with other weights."""
    rows, read = some(), []

    def reward() -> InfoGainReward:
        made = InfoGainReward(scorer=model, **SETTINGS)
        look = made._look
        made._look = lambda *each: (read.append(1), look(*each))[1]  # type: ignore[method-assign]
        return made

    gain = reward()
    first = gain(**rows)
    assert gain(**rows) == first
    assert len(read) == 2, "nobody says at which step it is: the model may have been trained in between"
    others = {**rows, "solution": [*reversed(rows["solution"])]}
    assert gain(**others) == reward()(**others) != first
    read.clear()
    for state in (None, SimpleNamespace(global_step=3)):
        gain = reward()
        gain.lucky(**rows, trainer_state=state)
        assert gain(**rows, trainer_state=state) == first
    assert len(read) == 2, "two rewards of one call read the batch once"
    gain.lucky(**rows, trainer_state=state)
    assert len(read) == 2
    gain.lucky(**{**rows, "prompts": [*reversed(rows["prompts"])]}, trainer_state=state)
    assert len(read) == 3
    gain(**rows, trainer_state=state)
    gain(**rows, trainer_state=SimpleNamespace(global_step=4))
    assert len(read) == 5, "at the next step the model is another"


def test_the_gate_takes_a_reward_function(model: Any) -> None:
    def only_the_first(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        return [1.0, None] + [0.0] * (len(completions) - 2)

    given = InfoGainReward(scorer=model, correct=only_the_first, **SETTINGS)(**some())
    assert given[0]
    assert given[1:] == [0.0] * 7


def test_the_leak_penalty_takes_off_what_only_the_knowing_would_write(model: Any) -> None:
    free, strict = (InfoGainReward(scorer=model, leak_penalty=weight, **SETTINGS) for weight in (0.0, 1.0))
    given, punished = free(**some()), strict(**some())
    of = exercises(1)[0]
    text, cue = " ".join(steps(of)).removesuffix(f" {of.answer} ;"), f"# {of.answer}"
    plain = logprobs(model, of.prompt(0), text)
    told = logprobs(model, f"{of.prompt(0)} {cue}", text)
    differences = [b - a for a, b in zip(plain, told, strict=True)]
    expected = max(0.0, sum(differences) / len(differences) + 0.01 * max(differences))
    assert given[0] - punished[0] == pytest.approx(expected, abs=1e-4)


def test_behind_a_prompt_of_one_token_the_leak_penalty_costs_that_completion_alone(model: Any) -> None:
    """Nothing stands before the token that would be read again; the others are graded as they are without it."""
    rows = some(4)
    rows["prompts"][1] = ";"
    free, strict = (InfoGainReward(scorer=model, leak_penalty=weight, **SETTINGS)(**rows) for weight in (0.0, 0.1))
    assert [value is None for value in free] == [False] * 4
    assert [value is None for value in strict] == [False, True, False, False]


def test_a_cleaned_trace_keeps_its_own_tokens() -> None:
    reader = TraceReader(TOKENIZER, FORMAT)
    problem = Problem(prompt="3 : a = 1 ; b = a + 2 ; ?", answer="8")
    text = "b = 1 + 2 = 3 ; ... ; b = 1 + 2 = 3 ; 5 , 7 8 9 ; # 8".replace(" ,", "")
    trace = reader.read(problem, TOKENIZER(text)["input_ids"])
    clean = cleaned(trace, TOKENIZER)
    assert TOKENIZER.decode(clean.completion_ids) == "b = 1 + 2 = 3 ; 5 7 8 9 ;"
    assert TOKENIZER.decode(clean.ids[clean.cuts[0] : clean.statement]) == "b = 1 + 2 = 3 ;"
    plain = reader.read(problem, TOKENIZER("b = 1 + 2 = 3 ; # 8")["input_ids"])
    assert cleaned(plain, TOKENIZER) is plain


@pytest.mark.parametrize(
    ("written", "before"),
    [
        ("So it is sixteen, seventeen, eighteen eggs.", "So it is"),
        ("So it is Sixteen or Seventeen or Eighteen.", "So it is"),
        ("So 16,17,18 eggs.", "So"),
        ("It lies between sixteen and 18.", "It lies between"),
        ("Twenty-one, twenty, 19, 18.", ""),
        ("No tent, eighteen eggs.", "No tent,"),
        ("He sees one hundred and two, 18.", "He sees"),
    ],
)
def test_a_list_is_stated_where_it_begins_in_figures_and_in_words(written: str, before: str) -> None:
    reader = TraceReader(gpt2_style(), "gsm8k")
    trace = reader.read_text(Problem(prompt="How many eggs?\n", answer="18"), f"{written}\n#### 18")
    clean = cleaned(trace, reader.tokenizer)
    assert reader.tokenizer.decode(clean.ids[clean.cuts[0] : clean.statement]) == before
