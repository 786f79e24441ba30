"""Decide whether two answers are the same.

Mathematics goes to `math-verify <https://github.com/huggingface/Math-Verify>`_ if that is installed. Plain numbers and
texts are compared here, so the common cases do not depend on it.
"""

from __future__ import annotations

import re

from reasoning_guard.expressions import expressions_equal
from reasoning_guard.plain_numbers import composed, read_number


def answers_equal(given: str, reference: str, *, mathematical: bool = True) -> bool:
    """Say whether two answers mean the same.

    Args:
        given: What the model answered.
        reference: The right answer.
        mathematical: Compare values ("1/2" equals "0.5", "$1,234.00" equals "1234", "50%" equals "50"), not only texts.

    Returns:
        True when the texts are equal after normalisation (Unicode form, case, white space, thousands commas, wrapping
        and trailing marks), or when both are plain numbers of equal value and not of different units ("5 kg" and
        "5 g"; "5" and "5 kg" are equal), or when math-verify finds them equal.

    Example:
        >>> answers_equal("$1,234.00", "1234"), answers_equal("18", "118"), answers_equal("Paris.", "paris")
        (True, False, True)
    """
    if normalise(given) == normalise(reference):
        return True
    if not mathematical:
        return False
    one, other = read_number(given), read_number(reference)
    if one is not None and other is not None:
        return one.value == other.value and not one.differs_in_unit(other)
    return expressions_equal(composed(given), composed(reference))


def normalise(text: str) -> str:
    r"""Remove what does not change an answer: case, Unicode form, white space, wrapping and trailing marks.

    Example:
        >>> normalise("  **The  Nile**. "), normalise("$1,000$"), normalise("Nile!"), normalise("$.50")
        ('the nile', '1000', 'nile', '.50')
    """
    text = " ".join(composed(text).casefold().split())
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = text.rstrip(" .,;:!?*$\"'`")
    return re.sub(r"\A(?:[ ,;:!?*$\"'`]|\.(?!\d))+", "", text)
