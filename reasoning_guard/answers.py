"""Decide whether two answers are the same.

Mathematics goes to `math-verify <https://github.com/huggingface/Math-Verify>`_ if that is installed. Plain numbers and
texts are compared here, so the common cases do not depend on it.
"""

from __future__ import annotations

import re

from reasoning_guard.expressions import expressions_equal
from reasoning_guard.plain_numbers import composed, read_number

_CLOCK = re.compile(r"(?<=\d)\s?([ap])\.?\s?m\b\.?")
_BASE = re.compile(r"[\s$]*\w+\s*_\s*\{?\s*(\d+)\s*\}?[\s$.]*", re.ASCII)


def answers_equal(given: str, reference: str, *, mathematical: bool = True) -> bool:
    """Say whether two answers mean the same.

    Args:
        given: What the model answered.
        reference: The right answer.
        mathematical: Compare values ("1/2" equals "0.5", "$1,234.00" equals "1234", "50%" equals "50"), not only texts.

    Returns:
        True when the texts are equal after normalisation (Unicode form, case, white space, thousands commas, wrapping
        and trailing marks, "a.m." for "AM"), or when both are plain numbers of equal value and not of different units
        ("5 kg" and "5 g"; "5" and "5 kg" are equal), or when math-verify finds them equal. The base of a number may
        be left out where the reference says it ("101" for "101_2"), and not the other way round.

    Example:
        >>> answers_equal("$1,234.00", "1234"), answers_equal("18", "118"), answers_equal("Paris.", "paris")
        (True, False, True)
    """
    texts = normalise(given), normalise(reference)
    if texts[0] == texts[1]:
        return True
    if not mathematical:
        return False
    one, other = read_number(given), read_number(reference)
    if one is not None and other is not None:
        return one.value == other.value and not one.differs_in_unit(other)
    one_half, other_half = map(_CLOCK.findall, texts)
    if one_half and other_half and one_half != other_half:
        return False
    if (base := _base(given)) and base != _base(reference):
        return False
    return expressions_equal(composed(given), composed(reference))


def normalise(text: str) -> str:
    r"""Remove what does not change an answer: case, Unicode form, white space, wrapping and trailing marks.

    Example:
        >>> normalise("  **The  Nile**. "), normalise("$1,000$"), normalise("Nile!"), normalise("$.50")
        ('the nile', '1000', 'nile', '.50')
    """
    text = _CLOCK.sub(r" \1m", " ".join(composed(text).casefold().split()))
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = text.rstrip(" .,;:!?*$\"'`")
    return re.sub(r"\A(?:[ ,;:!?*$\"'`]|\.(?!\d))+", "", text)


def _base(text: str) -> str | None:
    """The base that a number says it is written in ("101_2")."""
    match = _BASE.fullmatch(composed(text))
    return None if match is None else match[1]
