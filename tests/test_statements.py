"""Where a reasoning first states the answer."""

from __future__ import annotations

import time

import pytest

from reasoning_guard.statements import calculates_with, find_statement

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
    ("Ann has 9 pairs.", "Once she had |eight eggs, that is 9 - 1 = 8.", "8"),
    ("Ann has 9 pairs.", "The three of them had four each, 7 - 4 = |3.", "3"),
    ("Ann has 9 pairs.", "The answer is |three eggs. 12 - 9 = 3.", "3"),
    ("Ann has 9 pairs.", "The sum of two is the result of two: 9 - 7 = |2.", "2"),
    ("Ann has 9 pairs.", "In all a total of |two eggs, 9 - 7 = 2.", "2"),
    ("Ann has 9 pairs.", "Five kids, 9 - 4 = |5.", "5"),
    ("Ann has eight.", "The sum of eight eggs is 4 + 4 = |8 eggs.", "8"),
    ("Ann has eight.", "The answer is exactly **|eight** eggs. 4 + 4 = 8.", "8"),
    ("Ann has eight.", "She had eight eggs. 4 + 4 = |8.", "8"),
    ("What flows there?", "A river. The |Nile flows there. The Nile.", "Nile"),
    ("Is it the Nile or the Po?", "So the answer is |Nile.", "Nile"),
    ("Ann has 18 eggs.", "She has 18 - 9 = 9 left and 18 * 1 is exactly **|18**.", "18"),
    ("Is 4 odd? (A) yes (B) no", "A number is odd when ... so the answer is (|B).", "B"),
    ("Take 8/4 of it.", "It takes |2 of them.", "2"),
    ("Ann has 3 and 4.", "3 eggs and 4: 7 - 4 = |3.", "3"),
    ("Ann has 9 pairs.", "9 - 8 is |1. That is all.", "1"),
    ("Ann has 9 pairs.", "1. Take 9.\n2. Take 8: 9 - 8 = |1.", "1"),
    ("Ann has 9 pairs.", "STEP 1: Take 9.\nStep 2: 9 - 7 = |2.", "2"),
    ("a = 3 ; b", "= |3 ; b = 4 ;", "3"),
    ("a =3 ; b", "a =3 ; b = 4 - 1 =|3 ;", "3"),
    ("a = 3 ; b", "A = 3 ; b = 4 - 1 = |3 ;", "3"),
    ("a =\n3 ; b", "a = 3 ; b = 4 - 1 = |3 ;", "3"),
    ("Which is it?", "A word, not two: |A.", "A"),
    ("Which is it?", "c = b; so it is |B.", "B"),
    ("Is it the Nile or the Po?", "|Nile, not Po.", "Nile"),
    ("What flows there?", "Juvenile? The |Nile.", "Nile"),
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
        ("it is 1/2.", "0.5", "1/2"),
        (r"\boxed{\frac{1}{2}}", "0.5", r"\frac{1}{2}"),
        ("1/2 of it, 0.5", "1/2", "1/2"),
        ("1/2 = 0.5", r"\frac{1}{2}", "1/2"),
        ("8/4 of it: 2", "2", "2"),
        ("it is two thirds of that: 2", "2", "2"),
        ("negative fifteen degrees, -15", "-15", "negative fifteen"),
        (r"so \dfrac{1}{2}", r"\frac{1}{2}", r"\dfrac{1}{2}"),
        ("9" * 5000 + "½", "5", None),
        ("9" * 5000 + "/3", "1/2", None),
    ],
)
def test_fractions_and_scales_are_statements_of_their_value(text: str, answer: str, said: str | None) -> None:
    span, known = find_statement(text, answer, "How much?")
    assert known
    assert (None if span is None else text[slice(*span)]) == said


LITERAL = [
    "18 V", r"\dfrac12", "(1,2)", "(1, 2)", "{1, 2}", r"[0,\infty)", r"x=1\text{ or }x=2", "1 2 3", "x+1", r"3\sqrt{2}",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"90^{\circ}", r"18\%", r"\$18", r"10,\!080",
    r"\left(\frac{1}{2}, 3\right)", "2516_8", "2 pi", "5!", "New  York", "O'Neil", "C++",
    r"2\frac{1}{2}", r"33\frac{1}{3}\%", r"e^{i\pi}", "12:30 PM", "3 or 4", "25 degrees C", "1.5e3",
    "10²", "18 type B cookies", r"x \in \{1, 2\}", "a~b", "\\ ", "…", r"-\frac{3}{4}", "negative 5", "0.50", "–5",
]  # fmt: skip


@pytest.mark.parametrize("answer", LITERAL)
def test_an_answer_as_it_is_written_is_found(answer: str) -> None:
    for text in ("So we get {}.", "So it is {} , done", "= {}"):
        span, known = find_statement(text.replace("{}", answer), answer, "How much?")
        assert known
        assert span is not None, text


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("so it is (1, 2).", "(1,2)", "(1, 2)"),
        ("so (1,2)", "(1, 2)", "(1,2)"),
        (r"\left(1, 2\right)", "(1,2)", r"(1, 2\right)"),
        (r"x = \sqrt {2}", r"\sqrt{2}", r"\sqrt {2}"),
        ("2x + 1", "2x+1", "2x + 1"),
        ("it takes 18kg.", "18", "18"),
        (r"of 10,\!080", "10080", r"10,\!080"),
        ("90 degrees", r"90^\circ", "90"),
        ("one hundred twenty-five eggs", "125", "one hundred twenty-five"),
        ("a hundred and two eggs", "102", "a hundred and two"),
        ("two thousand, three hundred eggs", "2300", "two thousand, three hundred"),
        ("fifty percent of it", "50%", "fifty"),
        ("twenty\u2011five eggs", "25", "twenty\u2011five"),
        (r"2\frac{1}{2} cups", "2.5", r"2\frac{1}{2}"),
        (r"2\frac{1}{2} cups", "1/2", None),
        ("one two", "3", None),
        ("the twenty-fifth", "25", None),
        ("three hundred", "3", None),
        ("1 2 3", "123", None),
        ("a b", "ab", None),
        ("118kg", "18", None),
        ("it takes 18g", "18", "18"),
        ("it takes 130miles.", "130", "130"),
        ("so 18eggs", "18", "18"),
        ("so 3cosx or 3arcsinx", "3", None),
        ("80 000 people", "80000", "80 000"),
        (r"of 5\,000", "5000", r"5\,000"),
        (r"so \frac12", "0.5", r"\frac12"),
        ("three million people", "3000000", "three million"),
        ("eighteen of them", "eighteen", "eighteen"),
        ("USD18 or so", "18", "18"),
        ("Rs.18, Rs18", "18", "18"),
        ("nine eggs.18 eggs", "18", "18"),
        ("it is ...18", "18", "18"),
        ("it is $.18", "18", None),
        ("v1.2.18", "18", None),
        ("16,17,18,19", "18", "18"),
        ("16,17,180", "180", None),
        ("0" * 220 + "18", "18", "0" * 220 + "18"),
        ("18." + "0" * 220, "18", "18." + "0" * 220),
        ("18." + "0" * 220 + "1", "18", None),
        ("1." + "8" * 220, "1", None),
        ("18x", "18", None),
    ],
)
def test_the_same_answer_in_another_notation(text: str, answer: str, said: str | None) -> None:
    span, known = find_statement(text, answer, "How much?")
    assert known
    assert (None if span is None else text[slice(*span)]) == said


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("it is -5", "-5", "-5"),
        ("it is -5", "5", None),
        ("18 eggs -5", "5", "5"),
        ("18 eggs -5", "-5", "-5"),
        ("The answer –5 is", "5", "5"),
        ("x = −5", "-5", "−5"),
        ("equals –5", "-5", "–5"),
        ("a loss of -$5", "-5", "-$5"),
        (r"a loss of -\$5", "-5", r"-\$5"),
        ("it is negative 5", "-5", "negative 5"),
        ("it is negative five.", "-5", "negative five"),
        ("it is minus 5", "-5", "minus 5"),
        ("x minus 5", "-5", None),
        ("b -5", "-5", None),
        ("3 -5", "-5", None),
        ("3-5", "-5", None),
        ("(a) -5", "-5", None),
        ("Eggs:\n– 5 eggs", "5", "5"),
        ("Eggs\n-5 eggs", "5", "5"),
    ],
)
def test_the_sign_of_a_number(text: str, value: str, said: str | None) -> None:
    span, _ = find_statement(text, value, "How much?")
    assert (None if span is None else text[slice(*span)]) == said


def test_a_fraction_that_the_prompt_holds_is_an_operand() -> None:
    assert find_statement("She eats 1/2 of it, so 4 * 1/2 = 2.", "0.5", "Ann eats 1/2 of 4.") == (None, True)


@pytest.mark.parametrize(("prompt", "marked", "answer"), STATED)
def test_first_statement(prompt: str, marked: str, answer: str) -> None:
    text, place = marked.replace("|", ""), marked.index("|")
    span, known = find_statement(text, answer, prompt)
    assert known
    assert span is not None
    assert span[0] == place
    said = ("eighteen", "Twenty-five", "two", "three", "eight") if answer.isdigit() else ()
    assert text[slice(*span)] in (answer, f"{answer}.00", *said, f"{int(answer):,}" if answer.isdigit() else answer)


@pytest.mark.parametrize(
    "wrapped",
    ["`18`", "+18", r"\mathbf{18}", r"\textbf{18}", r"\mathrm{18}", r"\mbox{18}", "**`18`**", "USD 18", "Rs.18"],
)
def test_an_answer_that_the_prompt_holds_is_told_in_any_dress(wrapped: str) -> None:
    text = f"The answer is {wrapped}."
    span, known = find_statement(text, "18", "Ann has 18 boxes of 9.")
    assert known
    assert span is not None
    assert "18" in text[slice(*span)]


def test_a_list_that_does_not_count_from_one_on_states_its_numbers() -> None:
    """Two lines that are numbered 17 and 18 tell an 18."""
    text = "17. We think.\n18. We say so.\n9 * 2 = 18."
    assert find_statement(text, "18", "Ann has 9 pairs.") == ((text.index("18"), text.index("18") + 2), True)
    counted = "\n".join(f"{i}. Say {'x' * i}." for i in range(1, 19)) + "\n9 * 2 = 18."
    assert find_statement(counted, "18", "Ann has 9 pairs.") == ((len(counted) - 3, len(counted) - 1), True)
    assert find_statement("9" * 5000 + ". Take 9.", "18", "Ann has 9 pairs.") == (None, True)
    again = "1. Take 9.\n2. Less 7.\n\n1. So 9 - 7.\n2. That is 2."
    assert find_statement(again, "2", "Ann has 9 pairs.") == ((len(again) - 2, len(again) - 1), True)


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
    assert find_statement("it is eighteen or 18", "eighteen", "", mathematical=False) == ((6, 14), True)
    assert find_statement("it is $18", "$18", "", mathematical=False) == ((7, 9), True)


def test_sixty_thousand_characters_take_no_time() -> None:
    for text in (
        "17 " * 20_000,
        "-" * 60_000,
        " " * 60_000,
        "1," * 30_000,
        "9" * 60_000,
        "(1 " * 20_000,
        "two " * 15_000,
    ):
        for answer in ("18", "(1,2)", "0.5"):
            start = time.process_time()
            find_statement(text, answer, "17")
            assert time.process_time() - start < 2


def test_sixty_thousand_characters_of_a_list_take_no_time() -> None:
    start = time.process_time()
    assert find_statement("\n17) x" * 8_500, "17", "17") == (None, True)
    assert time.process_time() - start < 2
