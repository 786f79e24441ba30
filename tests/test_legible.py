"""What is not shown hides no statement: invisible marks, tags, special tokens, digits in circles."""

from __future__ import annotations

import random

import pytest

from reasoning_guard.legible import legible
from reasoning_guard.statements import find_statement

HIDDEN = [
    "1\u200b8", "1\u20608", "1\u00ad8", "\u200d18\ufe0f", "1\ufe0f\u20e38\ufe0f\u20e3", "⑱", "¹⁸", "₁₈", "_18_",
    "__18__", "__eighteen__",
    "<b>18</b>", "<b>1</b>8", "1<pad>8", "1<|im_end|>8", "1{}8", r"1\!8", "**1****8**", "eight\u200been",
]  # fmt: skip


@pytest.mark.parametrize("written", HIDDEN)
def test_an_answer_is_seen_through_what_is_not_shown(written: str) -> None:
    text = f"We think of {written} here. 9 * 2 = 18."
    span, known = find_statement(text, "18", "Ann has 9 pairs.")
    assert known
    assert span is not None
    said = text[slice(*span)]
    assert said.strip("\u200d\ufe0f\u20e3_*<>/b") in written
    assert span[0] < text.index(written) + len(written)
    assert find_statement(text, "18", "Ann has 18 pairs.") == ((text.rindex("18"), len(text) - 1), True)


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("2¹⁸ and x₁₈, (3)¹⁸, CO₂", None),
        ("2 < a and b > 3, 9*2=<<9*2=18>>18", None),
        ("snake_case, x_18, 2**8", None),
        ("a <b>c</b>", "a c"),
        ("① Take 9.", "1) Take 9."),
        ("", None),
    ],
)
def test_what_is_shown_stays(written: str, seen: str | None) -> None:
    found = legible(written)
    assert (None if found is None else found.text) == seen


def test_places_lead_back_to_what_is_written() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice(["1", "a", " ", "\u200b", "⑱", "<b>", "_", "¹", "é", "{}"]) for _ in range(12))
        found = legible(text)
        if found is None:
            continue
        assert len(found.places) == len(found.text) + 1
        assert list(found.places) == sorted(found.places)
        assert found.places[-1] == len(text)
        for i, character in enumerate(found.text):
            start, end = found.written(i, i + 1)
            assert text[start] == character or text[start] in "⑱¹"
            assert end == start + 1


def test_what_marks_would_join_is_seen_apart_too() -> None:
    """To a reader who knows no tags the 18 stands there; to others 185 does."""
    assert find_statement("so 18<b>5</b>", "18", "") == ((3, 5), True)
    assert find_statement("so 18<b>5</b>", "185", "") == ((3, 9), True)


def test_an_answer_in_words_is_seen_too_and_doubt_about_it_stays() -> None:
    assert find_statement("The _Ni\u200ble_ flows.", "Nile", "What flows there?") == ((5, 10), True)
    assert find_statement("There are _no_ eggs. So: no.", "no", "Are there no eggs?") == (None, False)


def test_digits_in_circles_number_lines() -> None:
    text = "① Take 8.\n② Take 4.\n③ Less 5: 8 - 5 = 3."
    assert find_statement(text, "3", "Ann has 9.") == ((text.rindex("3"), len(text) - 1), True)
