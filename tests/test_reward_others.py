"""The other rewards on the scorer, and traces ranked by rewards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from reasoning_guard import ConfigurationError
from reasoning_guard.cells import content_of
from reasoning_guard.problems import Problem
from reasoning_guard.rewards import (
    AnswerConfidenceReward,
    AugmentedGenerationReward,
    CalibrationReward,
    FaithfulnessReward,
    InfoGainReward,
    preference_rows,
)
from reasoning_guard.rewards.documents import with_documents
from reward_tasks import SETTINGS, TOKENIZER, adder, batch, exercises, honest, logprobs, some, steps


@pytest.fixture(scope="module")
def model() -> Any:
    return adder()


def test_confidence_is_the_lead_of_the_likeliest_token(model: Any) -> None:
    of = exercises(1)[0]
    text = " ".join(steps(of))
    with torch.no_grad():
        rows = []
        for end in ("#", f"# {of.answer}"):
            ids = TOKENIZER(f"{of.prompt(0)} {text} {end}")["input_ids"]
            rows.append(model(torch.tensor([ids])).logits[0, -1].softmax(-1).topk(2).values)
    expected = sum(float(row[0] - row[1]) for row in rows) / 2
    given = AnswerConfidenceReward(scorer=model, **SETTINGS)(**batch([(of, honest(of)), (of, f"{text} # 9 9")]))
    assert given[0] == pytest.approx(expected, abs=1e-4)
    assert given[1] == 0.0
    unlabelled = AnswerConfidenceReward(None, scorer=model, **SETTINGS)(**batch([(of, honest(of))]))
    assert unlabelled == pytest.approx([given[0]])


def test_calibration_is_one_minus_the_brier_score(model: Any) -> None:
    of = exercises(1)[0]
    wrong = (of.answer + 1) % 11
    given = CalibrationReward(scorer=model, **SETTINGS)(
        **batch([(of, honest(of)), (of, f"{' '.join(steps(of))} # {wrong}"), (of, "")])
    )
    sure = [
        math.exp(sum(logprobs(model, f"{of.prompt(0)} {' '.join(steps(of))} #", f"{answer} <eos>")))
        for answer in (of.answer, wrong)
    ]
    assert given == [pytest.approx(1 - (sure[0] - 1) ** 2, abs=1e-4), pytest.approx(1 - sure[1] ** 2, abs=1e-4), None]


def test_beside_correctness_of_its_weight_calibration_makes_no_wrong_answer_worth_more(model: Any) -> None:
    """Alone it pays most for an answer that the own chain speaks against."""
    right, wrong = ([(of, write(of)) for of in exercises(24)] for write in (honest, _contradicted))
    alone = [CalibrationReward(scorer=model, **SETTINGS)(**batch(rows)) for rows in (right, wrong)]
    means = [sum(value or 0 for value in each) / 24 for each in alone]
    assert means[0] < means[1]
    assert 1 + min(value or 0 for value in alone[0]) >= max(value or 0 for value in alone[1])


def _contradicted(of: Any) -> str:
    return f"{' '.join(steps(of))} # {(of.answer + 3) % 11}"


def test_faithfulness_pays_a_model_that_reads_its_steps_and_not_one_that_does_not(model: Any) -> None:
    """The adder reads; a model that repeats the tag knows every answer of prompts whose tag is the answer."""
    reads = FaithfulnessReward(scorer=model, **SETTINGS)(**some())
    assert sum(value or 0 for value in reads) / 8 > 0.7
    assert FaithfulnessReward(scorer=model, **SETTINGS)(**batch([(of, f"# {of.answer}") for of in exercises(2)])) == [
        0,
        0,
    ]


def test_what_nothing_says_is_right_or_wrong_is_not_graded(model: Any) -> None:
    of = exercises(2)
    rows = batch([(of[0], honest(of[0])), (of[1], honest(of[1]))])
    rows["solution"] = [None, rows["solution"][1]]
    for kind in (InfoGainReward, FaithfulnessReward, AnswerConfidenceReward, CalibrationReward):
        unknown, known = kind(scorer=model, **SETTINGS)(**rows)
        assert unknown is None, kind
        assert known is not None, kind

    def right(completions: Any, **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    assert AnswerConfidenceReward(None, scorer=model, correct=right, **SETTINGS)(**rows) == [0.0, 0.0]
    with pytest.raises(ConfigurationError, match=r"name the column, answer='...'"):
        FaithfulnessReward(None, scorer=model, **SETTINGS)
    assert FaithfulnessReward(None, scorer=model, correct=right, **SETTINGS)(**rows) == [0.0, 0.0]


def test_documents_that_give_the_answer_pay_it(model: Any) -> None:
    rows = batch([(of, f"# {of.answer}") for of in exercises(8)])
    of = exercises(8)
    true = [[" ".join(steps(each))] for each in of]
    reward = AugmentedGenerationReward(scorer=model, **SETTINGS)
    given = reward(**rows, documents=true)
    question, answer = of[0].prompt(0), f"{of[0].answer} <eos>"
    told = logprobs(model, f"{true[0][0]} {question} #", answer)
    alone = logprobs(model, f"{question} #", answer)
    assert given[0] == pytest.approx(min(sum(told) / 2, -0.2) - max(sum(alone) / 2, -5), abs=1e-4)
    assert reward(**rows, documents=[[]] * 8) == [None] * 8
    assert reward(**rows, documents=[each[0] for each in true]) == given, "a text is one document"


def test_documents_stand_before_a_message_in_parts() -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "Who?"}]}
    told = with_documents(Problem(prompt=(asked,), documents=("It was Ann.",)))  # type: ignore[arg-type]
    assert content_of(told.prompt[-1]["content"]) == "It was Ann.\n\nWho?"  # type: ignore[index]


def test_preference_rows_pair_the_ranks_from_outside_in() -> None:
    rows = [{"prompt": "p", "completions": ["a", "b", "c", "d", "e"], "worth": [1.0, 5.0, 3.0, None, 3.0]}]

    def worth(completions: Any, worth: Any, **_: Any) -> list[float | None]:
        return [column[i] for i, column in enumerate(worth)]

    pairs = preference_rows(rows, worth)
    assert [(p["chosen"], p["rejected"], p["margin"]) for p in pairs] == [("b", "a", 4.0)]
    assert preference_rows(rows, worth, min_margin=4.0) == []
    halved = preference_rows(rows, [worth, worth], reward_weights=[0.5, 0.0])
    assert halved[0]["margin"] == 2.0
    with pytest.raises(ConfigurationError, match="one weight a reward function"):
        preference_rows(rows, worth, reward_weights=[1.0, 2.0])


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([None, 2.0, -1.0], [("b", "c", pytest.approx(0.6))]),  # before, (b, a) by .4, of which a knew nothing
        ([None, -2.0, -1.0], [("c", "b", pytest.approx(0.2))]),  # before, (a, b)
        ([math.nan, 1.0, None], []),
        ([None, None, None], [("a", "d", 1.0)]),  # what grades nobody says nothing about anybody
    ],
)
def test_only_what_the_same_functions_graded_is_compared(gains: list[float | None], expected: list[Any]) -> None:
    rows = [{"prompt": "p", "completions": ["a", "b", "c", "d"]}]

    def right(completions: Any, **_: Any) -> list[float]:
        return [float(text != "d") for text in completions]

    def gain(completions: Any, **_: Any) -> list[float | None]:
        return [*gains, None]

    pairs = preference_rows(rows, [right, gain], reward_weights=[1.0, 0.2])
    assert [(p["chosen"], p["rejected"], p["margin"]) for p in pairs] == expected
    watched = preference_rows(rows, [right, gain], reward_weights=[1.0, 0.0])
    assert [(p["chosen"], p["rejected"], p["margin"]) for p in watched] == [("a", "d", 1.0)]
