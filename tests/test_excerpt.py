"""Lists and calculations before a statement: what they are, and that a long one takes no longer than its length."""

from __future__ import annotations

import random
import re
import time

import pytest

from reasoning_guard.rewards.excerpt import _list_begin
from reasoning_guard.statements import _CALCULATION, calculates_with

# How both were written first: right, but of exponential and of quadratic time.
LIST = re.compile(r"(?:(?<![\w.])(?:\d[\d.,]*|[A-Za-z])[)\]]?\s*(?:[,;/|]\s*)?(?:(?:or|and)\s+)?[(\[]?)+\Z")
CALCULATION = re.compile(r"(?:[\d\s,$€£()+*/×÷·^<=x−–-]|\.(?=\d))*=[\s$€£<(]*\Z")
PIECES = ["1", "12", "3.5", "1,000", "A", "x", "is ", "or ", "and ", "or", "= ", *",;/|)([ ].+-<=\n"]


@pytest.mark.parametrize(
    ("before", "listed"),
    [
        ("it is 0, 1, ", "0, 1, "),
        ("options (A) or (B) or (", "A) or (B) or ("),
        ("x=1,2,3;4 and ", "1,2,3;4 and "),
        ("b 3.5 / 4. ", "b 3.5 / 4. "),
        ("x1, 2", "2"),
        ("it is 1, 2. So x = ", None),
        ("", None),
    ],
)
def test_a_list_is_stated_where_it_begins(before: str, listed: str | None) -> None:
    begin = _list_begin(before)
    assert (None if begin is None else before[begin:]) == listed


def test_lists_and_calculations_are_what_they_were() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(20_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 10))) + rng.choice(["", " ", "= "])
        listed, calculated = LIST.search(text), CALCULATION.search(text)
        calculation = _CALCULATION.match(text[::-1])
        found += (listed is not None) + (calculated is not None)
        assert _list_begin(text) == (listed and listed.start()), text
        assert (calculation and calculation.group()[::-1]) == (calculated and calculated.group()), text
    assert found > 10_000


@pytest.mark.parametrize("piece", ["1,", "1, ", "1 ", "1.", "A or ", "1 and (", ",", " ", "= ", "1 = ", "(", "\n"])
@pytest.mark.parametrize("end", ["", " so x = "])
def test_twenty_thousand_characters_take_no_time(piece: str, end: str) -> None:
    text = piece * (20_000 // len(piece)) + end
    start = time.process_time()
    _list_begin(text)
    calculates_with(text, "18", " ;")
    assert time.process_time() - start < 0.5
