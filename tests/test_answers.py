from __future__ import annotations

import sys
import threading
import time

import pytest

from reasoning_guard.answers import (
    answer_is_correct,
    answer_names,
    answers_equal,
    option_index,
    options_named,
)
from reasoning_guard.plain_numbers import plain_number
from reasoning_guard.statements import calculates_with, find_statement

NO_MATH_VERIFY = "expressions are compared by math-verify, which comes with the extra math"
EQUAL = [
    ("18", "18"),
    ("1,234", "1234"),
    ("$18", "18"),
    ("$18.00", "18"),
    ("72.0", "72"),
    ("1/2", "0.5"),
    ("50%", "50"),
    ("−3", "-3"),
    ("-$3", "-3"),
    ("18 dollars", "18"),
    ("18 eggs per day.", "18"),
    ("3 million", "3,000,000"),
    ("x = 5", "5"),
    ("**18**", "18"),
    (".5", "1/2"),
    ("$.50", "0.5"),
    ("2½", "2.5"),
    ("2 1/2", "5/2"),
    ("½", "1/2"),
    (r"2\frac{1}{2}", "2.5"),
    ("3 millions", "3,000,000"),
    ("2 dozen eggs", "24"),
    ("5 kg", "5"),
    ("5 kg", "5 kilograms"),
    ("5 L", "5 litres"),
    ("5 hrs", "5 hours"),
    ("10 AM", "10 a.m."),
    ("5 apples", "5 pieces of fruit"),
    ("3 quarters", "3"),
    ("5 months", "5"),
    ("3 times", "3"),
    ("7 times a week", "7"),
    ("5 or so", "5"),
    ("5 to go", "5"),
    ("5 feet", "5"),
    ("The  Nile", "the nile."),
    ("\uff11\uff18", "18"),
]
DIFFERENT = [
    ("18", "118"),
    ("18", "1"),
    ("18.5", "18"),
    ("1,800", "18"),
    ("-3", "3"),
    ("3 or 4", "3"),
    ("18th", "18"),
    ("Paris", "Pairs"),
    ("3 million", "3"),
    ("1/0", "0"),
    ("", "0"),
    (".5", "5"),
    ("$.50", "50"),
    ("2½", "10.5"),
    ("10²", "102"),
    ("2 and a half", "2"),
    ("3 or four", "3"),
    ("10 to one", "10"),
    ("2 pi", "2"),
    ("2 x", "2"),
    ("5 squared", "5"),
    ("3 trillion", "3"),
    ("5 hundredths", "5"),
    ("2 thirds", "2"),
    ("5 dollars and fifty cents", "5"),
    ("10 AM", "10 PM"),
    ("5 May", "5 June"),
    ("5 kg", "5 g"),
    ("2 hours", "2 minutes"),
    ("2 hours and a half", "2"),
    ("5 ms", "5 s"),
    ("5 lbs", "5 kg"),
    ("5 inches", "5 feet"),
]
EXPRESSIONS = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", "1/2"),
    ("x+1", "1 + x"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("(1,2)", "(1, 2)"),
    (r"$\frac{3}{4}$", "0.75"),
    ("10²", "100"),
]


@pytest.mark.parametrize(("given", "reference"), EQUAL)
def test_equal(given: str, reference: str) -> None:
    assert answers_equal(given, reference, mathematical=True)
    assert answers_equal(reference, given, mathematical=True)


@pytest.mark.parametrize(("given", "reference"), DIFFERENT)
def test_different(given: str, reference: str) -> None:
    assert not answers_equal(given, reference, mathematical=True)
    assert not answers_equal(reference, given, mathematical=True)


def test_text_is_compared_as_text_unless_mathematical() -> None:
    assert not answers_equal("1/2", "0.5", mathematical=False)
    assert answers_equal(" YES. ", "yes", mathematical=False)


@pytest.mark.parametrize(("given", "reference"), EXPRESSIONS)
def test_expressions_are_left_to_math_verify(given: str, reference: str) -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    assert answers_equal(given, reference)
    assert not answers_equal(given, "17")


def test_expressions_are_compared_off_the_main_thread() -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(answers_equal(r"\frac{1}{4}", "0.25")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "hard", ["9^{9^{9^9}}", "9**9**9**9", "100000!", "9^(9^9)", "(((2^999)^999)^999)", "7^99999999"]
)
def test_what_would_never_finish_is_not_computed(hard: str) -> None:
    start = time.monotonic()
    assert not answers_equal(hard, "3")
    assert time.monotonic() - start < 5


def test_without_math_verify_plain_numbers_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert answers_equal("$1,234.00", "1234")
    assert not answers_equal(r"\sqrt{4}", "2")


def test_plain_numbers_are_exact() -> None:
    assert plain_number("0.1") * 3 == plain_number("0.3")


def test_letters_and_texts_of_options_are_the_same_answer() -> None:
    options = ("Paris", "Rome", "Oslo")
    assert answer_is_correct("(B)", "Rome", options)
    assert answer_is_correct("rome.", "B", options)
    assert not answer_is_correct("C", "Rome", options)
    assert option_index("F", options) is None
    assert answer_names("Rome", options) == ("B", "Rome")
    assert answer_names("42") == ("42",)


def test_values_of_options_are_compared_too() -> None:
    for given in ("4.0", "$4", "4 apples", "B", "(b)", "4"):
        assert answer_is_correct(given, "B", ("3", "4"))
        assert answer_is_correct(given, "4", ("3", "4"))
        assert not answer_is_correct(given, "A", ("3", "4"))
    assert answer_is_correct("1/2", "B", ("3", "0.5"))
    assert not answer_is_correct("1/2", "B", ("3", "0.5"), mathematical=False)
    assert answer_is_correct("B", "5", (".5", "5", "50")), "the first is another number"
    assert options_named("B", ("3", "4", "4")) == [False, True, True]
    assert options_named("5", ("3", "4")) == [False, False]
    assert options_named("x", ()) == []


CHAIN = "7 : a = 3 ; b = a + 4 ; c = b * 2 ; d = c * 5 ; ?"

STATED = [
    # prompt, reasoning with the place marked by a bar, answer
    (CHAIN, "b = 3 + 4 = 7 ; c = 7 * 2 = |3 ; d = 3 * 5 = 4 ;", "3"),
    (CHAIN, "|3 . b = 3 + 4 = 7 ; c = 7 * 2 = 3 ;", "3"),
    (CHAIN, "b = 3 + 4 = |7 ;", "7"),
    ("Ann has 16 eggs and eats three.", "16 - 3 = |13 eggs. 13 * 2 = 26.", "13"),
    ("Ann has 16 eggs and eats three.", "16 - 3 = 13. 13 - 10 = |3.", "3"),
    ("Ann has 9 pairs.", "118 and 18.5 and 1,800 and 18th, 9*2=<<9*2=|18>>18", "18"),
    ("Ann has 9 pairs.", "She gets $|18.00 in all.", "18"),
    ("Ann has 9 pairs.", "We look for |18: 9 * 2.", "18"),
    ("Ann has 1,000.", "1000 - 1 = 999, 999 + 1 = |1,000", "1000"),
    (CHAIN, "b = 3 + 4 = 7 ; |3 ; c = 7 * 2 = 3 ;", "3"),
    (CHAIN, "|3 b = 3 + 4 = 7 ; c = 7 * 2 = 3 ;", "3"),
    (CHAIN, "b = # |3 ; c = 7 * 2 = 3 ;", "3"),
    ("Ann has 3 and 4.", "1. Take 3.\n2. Add 4.\n3. Take 4 away: |3.", "3"),
    ("Ann has 3 and 4.", "Step 1: Take 4.\nStep 2: Add 3.\nStep 3: 7 - 4 = |3.", "3"),
    ("Ann runs 9 times.", "So 108 / 12 = |9 times a day.", "9"),
    ("Ann has one hundred pairs.", "One hundred twenty is 10 dozens, |20 less is 100.", "20"),
    ("Ann has 9 pairs.", "This one, the first. Part one: no one. 9 - 8 = |1.", "1"),
    ("Ann has 9 pairs.", "It comes to |eighteen eggs. 9 * 2 = 18.", "18"),
    ("Ann has 9 pairs and adds 7.", "|Twenty-five. 9 * 2 + 7 = 25.", "25"),
    ("Ann has 9 pairs.", "In two steps: 9 - 7 is |two. That is 2.", "2"),
    ("Ann has two pairs.", "The two pairs are 2 * 2 = 4, less 2 is |2.", "2"),
    ("Add 5 and 3.", "3 - 5 = -2, then 2 - 5 = |-3.", "-3"),
    ("Add 3 and 4.", "4 - 3, = -3, then = |3.", "3"),
    ("What flows there?", "A river. The |Nile flows there. The Nile.", "Nile"),
    ("Is it the Nile or the Po?", "So the answer is |Nile.", "Nile"),
    ("Ann has 18 eggs.", "She has 18 - 9 = 9 left and 18 * 1 is exactly **|18**.", "18"),
    ("Is 4 odd? (A) yes (B) no", "A number is odd when ... so the answer is (|B).", "B"),
]


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("x = 1/2", "1/2", "1/2"),
        ("x = 1 / 2 .", "1/2", "1 / 2"),
        ("x = -3/4 .", "-3/4", "-3/4"),
        ("3/4 of it, 1/2 of it", "1/2", "1/2"),
        ("x = 1/2", r"\frac{1}{2}", "1/2"),
        (r"so \frac{1}{2} it is", "1/2", r"\frac{1}{2}"),
        ("2 1/2 cups", "2 1/2", "2 1/2"),
        ("so 2½ cups", "2.5", "2½"),
        ("about 3 million people", "3 million", "3 million"),
        ("about 3 million people", "3000000", "3 million"),
        ("3,000,000 people", "3 million", "3,000,000"),
        ("3 / 4 = 0.75", "0.75", "0.75"),
        ("3 million", "3", None),
        ("2 cups, then 2 pi", "2 pi", "2 pi"),
        ("6/8", "1/2", None),
        ("1/0", "1/2", None),
        ("9" * 5000 + "½", "5", None),
        ("9" * 5000 + "/3", "1/2", None),
    ],
)
def test_fractions_and_scales_are_statements_of_their_value(text: str, answer: str, said: str | None) -> None:
    span, known = find_statement(text, answer, "How much?")
    assert known
    assert (None if span is None else text[slice(*span)]) == said


@pytest.mark.parametrize(("prompt", "marked", "answer"), STATED)
def test_first_statement(prompt: str, marked: str, answer: str) -> None:
    text, place = marked.replace("|", ""), marked.index("|")
    span, known = find_statement(text, answer, prompt)
    assert known
    assert span is not None
    assert span[0] == place
    said = ("eighteen", "Twenty-five", "two") if answer.isdigit() else ()
    assert text[slice(*span)] in (answer, f"{answer}.00", *said, f"{int(answer):,}" if answer.isdigit() else answer)


CALCULATED = [
    ("d = 3 + 0 = ", "3", " ;", True),
    ("d = 0 + 3 = ", "3", " ;", True),
    ("1 * 1 * 3.0 = ", "3", "", True),
    ("eats 2*1=<<2*1=", "2", ">>2 eggs", True),
    ("b = ", "3", " + 4 = 7 ;", True),
    ("b = 0 + ", "3", " = 3 ;", True),
    ("Ann keeps 3. 8 - 5 = ", "3", " eggs.", False),
    ("c = 7 * 2 = ", "3", " ; d = 3 * 5", False),
    ("The answer is ", "3", ".", False),
]


@pytest.mark.parametrize(("before", "answer", "behind", "so"), CALCULATED)
def test_a_calculation_that_leads_back_to_its_operand(before: str, answer: str, behind: str, so: bool) -> None:
    assert calculates_with(before, answer, behind) is so


NOT_STATED = [
    ("Ann has 9.", "In two steps, and one more.", "2"),
    (CHAIN, "b = 3 + 4 = 7 ; c = 3 * 2 ;", "3"),
    (CHAIN, "a = 3 ; b = 3 + 4 = 7 ;", "3"),
    ("Ann has 9 pairs.", "118, 18.5, 1,800, 18th and 218.", "18"),
    ("Ann eats three.", "Without the 3 eggs of breakfast", "3"),
    ("What flows there?", "Rivers, Niles.", "Nile"),
    ("Ann has 9.", "", "18"),
    ("Pick one: (A) 1 (B) 2", "A number is a B-side.", "C"),
]


@pytest.mark.parametrize(("prompt", "text", "answer"), NOT_STATED)
def test_never_stated(prompt: str, text: str, answer: str) -> None:
    assert find_statement(text, answer, prompt) == (None, True)


@pytest.mark.parametrize(
    ("prompt", "text", "answer"),
    [
        ("Who is older, Ann or Bob?", "Ann turned 5 and Bob turned 7. The answer is Bob.", "Bob"),
        ("Are there eggs?", "There are no eggs. The answer is no.", "no"),
        ("Pick: (A) 1 (B) 2", "Take (B), it fits.", "B"),
    ],
)
def test_words_that_the_prompt_holds_cannot_be_told(prompt: str, text: str, answer: str) -> None:
    assert find_statement(text, answer, prompt) == (None, False)


def test_value_or_text_of_a_number() -> None:
    assert find_statement("it is 18.0 or 18", "18", "", mathematical=True) == ((6, 10), True)
    assert find_statement("it is 18.0 or 18", "18", "", mathematical=False) == ((14, 16), True)


def test_sixty_thousand_characters_take_no_time() -> None:
    for text in ("17 " * 20_000, "-" * 60_000, " " * 60_000, "1," * 30_000, "9" * 60_000):
        start = time.process_time()
        find_statement(text, "18", "17")
        assert time.process_time() - start < 2
