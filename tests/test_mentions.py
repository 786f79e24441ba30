"""Which numbers a text mentions, and which only look like one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from reasoning_guard.mentions import Mention, fractions, in_words, named, numbers


def values(found: Iterator[Mention]) -> list[str]:
    return [str(mention.value) for mention in found]


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (numbers, "18, 1,800 and 18.", ["18", "1800", "18"]),
        (numbers, "1,8005", []),
        (numbers, "1234,567", []),
        (numbers, "version 1.2.18", []),
        (numbers, "3 dozen eggs", ["36"]),
        (numbers, "3 dozen-egg boxes", ["3"]),
        (numbers, "2⅓, ⅛ and 4⅞", ["7/3", "1/8", "39/8"]),
        (fractions, "5/6 of it", ["5/6"]),
        (fractions, "on 5/6/2026", []),
        (fractions, "1/2.5", []),
        (in_words, "a thousand and two", ["1002"]),
        (in_words, "five eggs", ["5"]),
        (in_words, "five dozen, the fifth, the twenty-fifth, twenty-first", []),
        (in_words, "five billion", ["5000000000"]),
        (in_words, "three million, two hundred thousand and five eggs, a million", ["3200005", "1000000"]),
        (in_words, "million, 3 million", []),
        (in_words, "two billion, three million and one", ["2003000001"]),
        (in_words, "eighteen months, five with two", ["18", "5", "2"]),
        (numbers, "80\u2009000, 1\u00a0234\u00a0567.5 and 5\\,000", ["80000", "2469135/2", "5000"]),
        (numbers, "80 000 people", ["80", "0", "80000"]),
        (numbers, "80 00, 80 0000, 5 280 000x", ["80", "0", "80", "0", "5", "280"]),
        (fractions, r"\frac12, -\frac1{20}, \dfrac 3 4, 2\frac{1}3", ["1/2", "-1/20", "3/4", "7/3"]),
        (fractions, r"\frac123, \frac10", []),
    ],
)
def test_a_number_is_taken_whole(read: Callable[[str], Iterator[Mention]], text: str, expected: list[str]) -> None:
    assert values(read(text)) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a loss of -€5", -5), ("a loss of -£5", -5), ("she gets minus 5", -5), ("that gives minus 5", -5),
        ("it is -5", -5), ("the total-5", 5), (r"x = \pi -5", 5), ("50% -5", 5),
    ],
)  # fmt: skip
def test_a_minus_is_a_sign_unless_it_subtracts(text: str, value: int) -> None:
    *_, last = numbers(text)
    assert last.value == value


@pytest.mark.parametrize("text", ["the total -5", "the total –5", "Eggs\n-5"])
def test_a_dash_that_may_be_a_mark_leaves_both(text: str) -> None:
    assert sorted(mention.value for mention in numbers(text)) == [-5, 5]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("once a day", 1), ("a single egg", 1), ("twice", 2), ("double", 2), ("a pair", 2), ("a couple", 2),
        ("both", 2), ("thrice", 3), ("triple", 3), ("Dozen", 12), ("half", Fraction(1, 2)),
        ("a quarter", Fraction(1, 4)), ("hundreds, one hundred", 100), ("the thousand", 1000), ("sixty-six", 66),
    ],
)  # fmt: skip
def test_words_name_values(words: str, value: Fraction) -> None:
    assert Fraction(value) in named(words)
