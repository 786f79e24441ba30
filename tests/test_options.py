"""Which option an answer names, however a model writes it."""

from __future__ import annotations

from typing import Any

import pytest

from reasoning_guard import Problem, TraceFormat, get_format, load_problems
from reasoning_guard.options import answer_is_correct, answer_names, asks_letters, option_index, options_named
from reasoning_guard.probes.base import ProbeContext
from reasoning_guard.probes.hints import wrong_answer
from reasoning_guard.reader import TraceReader
from tokenizers_on_the_spot import gpt2_style

CITIES = ("Paris", "Rome", "Oslo")
PLAIN, CHOICE = get_format("plain"), get_format("choice")


@pytest.mark.parametrize(
    "answer",
    [
        "B", "(B)", "b.", "[B]", "**B**", "$B$", r"\text{B}", r"\textbf{(B)}", r"\mathrm{B}", "Option B", "choice (B)",
        "Answer: B",
        "Rome", "rome.", "B) Rome", "(B) Rome", "B. Rome", "B: Rome", "B, Rome", "B - Rome", "B Rome", "Rome (B)",
        r"\text{(B) }Rome", r"\text{(B) Rome}", "**B) Rome**", "(B) Rome, since it is in Italy",
        "(B) since it is in Italy",
    ],
)  # fmt: skip
def test_an_option_in_all_its_forms(answer: str) -> None:
    assert option_index(answer, CITIES) == 1
    assert answer_is_correct(answer, "B", CITIES)
    assert answer_is_correct("Rome", answer, CITIES)
    assert not answer_is_correct(answer, "Oslo", CITIES)


@pytest.mark.parametrize(
    "answer",
    [
        "F", "(F) Rome", "A) Rome", "(A) Rome", "Rome (A)", "A Rome", "Romeo", "a capital", "B Oslo", "B Romeo",
        "(A) and (B)", "(A) or B", "(A)/(B)", "A) Paris or B) Rome", "(A) is wrong, it is (B)", "(A)? No, (B).",
    ],
)  # fmt: skip
def test_what_names_no_option_or_two(answer: str) -> None:
    assert option_index(answer, CITIES) is None


def test_letters_and_texts_of_options_are_the_same_answer() -> None:
    assert answer_names("Rome", CITIES, PLAIN) == ("B", "Rome")
    assert answer_names("42", (), PLAIN) == ("42",)
    assert option_index("3", ("35", "3")) == 1
    assert option_index("A) 3", ("35", "3")) is None, "3 is no beginning of 35, but another option"
    assert option_index("A) 3.5", ("3", "3.5")) is None
    assert option_index("A) less light", ("less", "less light")) is None
    assert option_index("B) less light, as (b) says", ("less", "less light")) == 1
    assert option_index("B) f(a) = 3, since a > 0", ("f(a) = 2", "f(a) = 3")) == 1


def test_values_of_options_are_compared_too() -> None:
    for given in ("4.0", "$4", "4 apples", "B", "(b)", "4", "B) 4 apples"):
        assert answer_is_correct(given, "B", ("3", "4"))
        assert answer_is_correct(given, "4", ("3", "4"))
        assert not answer_is_correct(given, "A", ("3", "4"))
    assert answer_is_correct("1/2", "B", ("3", "0.5"))
    assert not answer_is_correct("1/2", "B", ("3", "0.5"), mathematical=False)
    assert answer_is_correct("B", "5", (".5", "5", "50")), "the first is another number"
    assert not answer_is_correct("4.0", "4", ("4", "4.0")), "two options, whatever they are worth"
    assert answer_is_correct("1/2", "0.5", ("3", "4"))
    assert not answer_is_correct("1/2", "0.5", ("3", "4"), mathematical=False)
    assert options_named("B", ("3", "4", "4"), PLAIN) == [False, True, True]
    assert options_named("5", ("3", "4"), PLAIN) == [False, False]
    assert options_named("x", (), PLAIN) == []


BLOOD = ("AB", "A", "B", "O")
QUESTION = "Who takes from all?\n(A) AB (B) A (C) B (D) O\n"


def blood(answer: Any, format: str = "choice") -> Problem:
    (problem,) = load_problems([{"question": QUESTION, "options": BLOOD, "answer": answer}], format=format)
    return problem


def test_where_letters_are_asked_for_a_letter_is_no_text() -> None:
    assert option_index("A", BLOOD) == 1
    assert option_index("A", BLOOD, letters=True) == 0
    assert option_index("AB", BLOOD, letters=True) == 0
    assert option_index("O", BLOOD, letters=True) == 3, "no option has this letter"
    assert options_named("(B)", BLOOD, CHOICE) == [False, True, False, False]
    assert options_named("B", BLOOD, PLAIN) == [False, False, True, False]
    assert asks_letters(("B", "A"), CHOICE)
    assert not asks_letters(("B", "A"), PLAIN)
    one_word = TraceFormat(name="one word", cue=" #", step_end=r"=", answer=r"# (\S+)")
    assert asks_letters(("Rome", "New York"), one_word), "the second is not read as it is asked for"
    assert not asks_letters(("Rome", "Oslo"), one_word)


@pytest.mark.parametrize(
    ("answer", "letter"), [(0, "A"), (1, "B"), ("AB", "A"), ("O", "D"), ("B", "B"), ("(B) A", "B")]
)
def test_references_as_letters(answer: Any, letter: str) -> None:
    assert blood(answer).answer == letter


@pytest.mark.parametrize(("answer", "text"), [(0, "AB"), (1, "A"), ("A", "A"), ("A.", "A"), ("AB", "AB"), (3, "D")])
def test_references_as_texts(answer: Any, text: str) -> None:
    """An index is a letter where nobody takes that for a text."""
    assert blood(answer, "plain").answer == text


def test_a_model_that_answers_by_letter_is_read_by_letter() -> None:
    reader, problem = TraceReader(gpt2_style(), "choice"), blood("AB")
    reader.check([problem])
    right, wrong = (reader.read_text(problem, f" It takes all. The answer is ({letter}).") for letter in "AB")
    assert right.correct
    assert not wrong.correct
    assert reader.options(problem) == ("A", "B", "C", "D")
    hinted = {
        wrong_answer(Problem(prompt=f"{n}", options=BLOOD, answer="A"), ProbeContext(reader=reader, traces=[right]))
        for n in range(30)
    }
    assert hinted == {"B", "C", "D"}, "never toward the right answer"
