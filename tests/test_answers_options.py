"""Options whose texts are letters themselves, as blood types and grades are."""

from __future__ import annotations

from typing import Any

import pytest

from reasoning_guard.answers import answer_is_correct, answer_names, option_index, options_named
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.probes.base import ProbeContext
from reasoning_guard.probes.hints import wrong_answer
from reasoning_guard.problems import Problem, asks_letters, load_problems
from reasoning_guard.reader import TraceReader
from tokenizers_on_the_spot import gpt2_style

BLOOD = ("AB", "A", "B", "O")
QUESTION = "Who takes from all?\n(A) AB (B) A (C) B (D) O\n"


def blood(answer: Any, format: str = "choice") -> Problem:
    (problem,) = load_problems([{"question": QUESTION, "options": BLOOD, "answer": answer}], format=format)
    return problem


def test_where_answers_are_letters_the_letter_wins() -> None:
    assert option_index("A", BLOOD) == 1
    assert option_index("A", BLOOD, letters=True) == 0
    assert option_index("AB", BLOOD, letters=True) == 0
    assert option_index("O", BLOOD, letters=True) == 3, "no option has this letter"
    assert options_named("(B)", BLOOD, letters=True) == [False, True, False, False]
    assert answer_names("A", BLOOD, letters=True) == ("A", "AB")
    assert answer_is_correct("A", "AB", BLOOD, letters=True)
    assert not answer_is_correct("A", "B", BLOOD, letters=True)


@pytest.mark.parametrize("answer", [0, "AB"])
def test_a_model_that_answers_by_letter_is_read_by_letter(answer: Any) -> None:
    reader, problem = TraceReader(gpt2_style(), "choice"), blood(answer)
    reader.check([problem])
    assert problem.answer == "A"
    right, wrong = (reader.read_text(problem, f" It takes all. The answer is ({letter}).") for letter in "AB")
    assert right.correct
    assert not wrong.correct
    assert reader.options(problem) == ("A", "B", "C", "D")
    assert reader.named(problem, "A") == [True, False, False, False]
    hinted = {wrong_answer(blood(0), ProbeContext(reader=reader, traces=[right]))} | {
        wrong_answer(Problem(prompt=f"{n}", options=BLOOD, answer="A"), ProbeContext(reader=reader, traces=[right]))
        for n in range(30)
    }
    assert hinted == {"B", "C", "D"}, "never toward the right answer"


def test_a_text_that_no_letter_names_is_found_and_one_that_a_letter_names_is_refused() -> None:
    assert blood("O").answer == "D"
    with pytest.raises(ConfigurationError, match="both the letter of one option and the text of another"):
        blood("A")


def test_where_answers_are_texts_the_text_wins() -> None:
    reader, problem = TraceReader(gpt2_style(), "plain"), blood(0, "plain")
    assert problem.answer == "AB"
    assert reader.options(problem) == BLOOD
    assert reader.named(problem, "A") == [False, True, False, False]
    assert blood("A", "plain").answer == "A"
    assert blood(1, "plain").answer == "A"


def test_letters_in_another_order_are_letters_to_a_format_that_reads_nothing_longer() -> None:
    reader = TraceReader(gpt2_style(), "choice")
    problem = Problem(prompt="Best grade?\n(A) B (B) A\n", options=("B", "A"), answer="B")
    assert reader.options(problem) == ("A", "B")
    assert reader.named(problem, "B") == [False, True]
    assert not asks_letters(("B", "A"), TraceReader(gpt2_style(), "plain").format)
