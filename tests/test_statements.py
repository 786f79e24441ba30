"""Statements in other notations than the reference's, negative numbers, and texts that only look like statements."""

from __future__ import annotations

import time

import pytest

from reasoning_guard.statements import find_statement

PROMPT = "It was 7 degrees and fell by 12. How warm is it?"

# text with the statement marked by bars, answer
STATED = [
    ("The temperature is |-5| degrees.", "-5"),
    ("So the answer is |-5|.", "-5"),
    ("x equals |−5|", "-5"),
    ("She owes: |-$5|", "-5"),
    ("That is |- 5|.", "-5"),
    ("7 - 12 = |- $5|", "-5"),
    ("7 - 12 = $|-5|$", "-5"),
    ("It is **|-5|** now, minus 12.", "-5"),
    ("It falls to |-5| in the end.", "-5"),
    ("He has |-5| dollars.", "-5"),
    ("|-5|", "-5"),
    ("7 - 12 gives |-5|, between -9 and 3.", "-5"),
    ("It is |negative 5|.", "-5"),
    ("7 minus 12 is |minus five|.", "-5"),
    ("So x = |–5|.", "-5"),
    (r"x = |-\frac{1}{2}|", "-1/2"),
    (r"x = |\frac{-1}{2}|", "-1/2"),
    ("-7 + 3 is -4, and - 4 + 9 = |5|", "5"),
    (r"so it is |\frac12|.", "1/2"),
    (r"so it is |\tfrac{1}{2}|.", "0.5"),
    ("so it is |1/2|.", "0.5"),
    ("so it is |one half|.", "0.5"),
    ("so it is |half|.", "1/2"),
    ("that gives |two and a half|.", "2.5"),
    ("it is |three-quarters|.", "3/4"),
    (r"that is |2\frac{1}{2}| cups", "5/2"),
    ("46*7kg = |322|kg", "322"),
    ("a bag of |18|KG", "18"),
    ("an area of |18|cm²", "18"),
    ("He counts |one hundred twenty-five| eggs.", "125"),
    ("He counts |One Hundred and Twenty Five|.", "125"),
    ("about |two thousand and one| eggs", "2001"),
    ("he has |a hundred| of them", "100"),
    ("that is |a dozen|.", "12"),
    ("so it is |1{,}234|", "1234"),
    (r"so it is |1,\!234|", "1234"),
    ("so it is _|18|_", "18"),
    ("It costs $|18|.", r"\$18"),
    ("It is |18| cm long.", r"18\text{ cm}"),
    ("It has |90| degrees.", r"90^\circ"),
    ("It lies in |Paris|.", r"\text{Paris}"),
    ("The point is |(1, 2)|.", "(1,2)"),
    ("The point is |(1,2)|.", "(1, 2)"),
    (r"The point is |\left(1, 2\right)|.", "(1,2)"),
    ("f = |x^2 + 1|.", "x^2+1"),
    ("f = |x^{2}+1|.", "x^2 + 1"),
    (r"It is |2 \sqrt{3}|.", r"2\sqrt{3}"),
    (r"It is |2\sqrt3|.", r"2\sqrt{3}"),
    (r"It is |\dfrac{\sqrt{3}}{2}|.", r"\frac{\sqrt{3}}{2}"),
    (r"It is -2\sqrt{3} or |2\sqrt{3}|.", r"2\sqrt{3}"),
]

NOT_STATED = [
    ("The temperature is -5 degrees.", "5"),
    ("So the answer is - 5.", "5"),
    ("It is negative five.", "5"),
    ("10 - 5 apples", "-5"),
    ("10 -5 apples", "-5"),
    ("10 apples -5 apples", "-5"),
    ("10% -5", "-5"),
    ("x -5", "-5"),
    ("(a) -5", "-5"),
    ("10-5, pages 10-5, covid-5, 10–5", "-5"),
    ("They need:\n- 5 eggs\n- 3 cups", "-5"),
    ("minus 5 of them", "-5"),
    ("3m + 2 = 11, 3x, 3k", "3"),
    ("$3 / 2 eggs = $1", "1.5"),
    ("1/2 of 9", "0.5"),
    ("half of it", "0.5"),
    ("At $3 a dozen, they sell", "12"),
    ("One hundred twenty. Twenty and a half.", "20"),
    (r"\frac{1}{23}", "1/2"),
    (r"It is \sqrt{32} or 12\sqrt{3}.", r"2\sqrt{3}"),
    ("(11, 2), (1, 23)", "(1,2)"),
    ("It is (1, 2, 3).", "(1,2)"),
]


@pytest.mark.parametrize(("marked", "answer"), STATED)
def test_what_equals_the_answer_states_it(marked: str, answer: str) -> None:
    before, said, _ = marked.split("|")
    text = marked.replace("|", "")
    assert find_statement(text, answer, PROMPT) == ((len(before), len(before) + len(said)), True)


@pytest.mark.parametrize(("text", "answer"), NOT_STATED)
def test_what_only_looks_like_the_answer_states_nothing(text: str, answer: str) -> None:
    assert find_statement(text, answer, PROMPT) == (None, True)


def test_what_the_prompt_holds_in_other_words_is_an_operand() -> None:
    prompt = "Ann has one hundred and twenty eggs, 15kg of flour and three dozen pans."
    assert find_statement("She has 120 - 20 eggs left, 120 - 20 = 100", "120", prompt) == (None, True)
    assert find_statement("15 kg + 5 kg = 20 kg", "15", prompt) == (None, True)
    assert find_statement("20 kg - 5 kg = 15kg", "15", prompt) == ((15, 17), True)
    assert find_statement("She has 36 - 2 pans.", "36", prompt) == (None, True)


PIECES = ["1", "1,000,", " ", "\n", "-", "$", "{", "(", "x ", "= ", "is about ", r"\frac{1}{2}", r"\frac", "1/2 ", "½"]


@pytest.mark.parametrize("piece", [*PIECES, "5) x\n", "one ", "a hundred ", "twenty-", "5kg ", r"\left(", "negative "])
@pytest.mark.parametrize("answer", ["18", "5", "-5", "0.5", "(1,2)", r"\frac{\sqrt{3}}{2}"])
def test_twenty_thousand_characters_take_no_time(piece: str, answer: str) -> None:
    text = "4) x\n" + piece * (20_000 // len(piece))
    start = time.process_time()
    find_statement(text, answer, "5 pens, 0.5, (1,2)")
    assert time.process_time() - start < 1
