"""When two answers are the same.

Mathematics goes to `math-verify <https://github.com/huggingface/Math-Verify>`_ when that is installed; plain numbers
and texts are compared here, so that the common cases do not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasoning_guard.expressions import expressions_equal
from reasoning_guard.plain_numbers import composed, read_number


def answers_equal(given: str, reference: str, *, mathematical: bool = True) -> bool:
    """Whether two answers say the same.

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


def answer_is_correct(given: str, reference: str, options: Sequence[str] = (), *, mathematical: bool = True) -> bool:
    """Like :func:`answers_equal`; with ``options``, a letter and the text of its option are the same answer.

    Example:
        >>> answer_is_correct("B", "4", ("3", "4")), answer_is_correct("$4.00", "B", ("3", "4"))
        (True, True)
    """
    one, other = (option_index(answer, options, mathematical=mathematical) for answer in (given, reference))
    if one is not None and other is not None:
        return one == other
    return answers_equal(given, reference, mathematical=mathematical)


def option_index(answer: str, options: Sequence[str], *, mathematical: bool = False) -> int | None:
    """Index of the option that ``answer`` names by its text or by its letter ("B", "(B)", "b."), or None.

    Args:
        answer: An answer.
        options: The options' texts; of equal ones the first is meant.
        mathematical: Where neither text nor letter names one, compare values too.
    """
    texts = [normalise(option) for option in options]
    if normalise(answer) in texts:
        return texts.index(normalise(answer))
    letter = re.fullmatch(r"\s*\(?([A-Za-z])[).:]*\s*", answer)
    index = ord(letter.group(1).upper()) - ord("A") if letter else len(options)
    if index < len(options):
        return index
    return next((i for i, option in enumerate(options) if mathematical and answers_equal(answer, option)), None)


def options_named(answer: str, options: Sequence[str], *, mathematical: bool = True) -> list[bool]:
    """For each option whether ``answer`` names it: by its text, its letter or its value. Equal texts are one option.

    Example:
        >>> options_named("B", ("3", "4", "4")), options_named("5", ("3", "4"))
        ([False, True, True], [False, False])
    """
    index = option_index(answer, options, mathematical=mathematical)
    text = None if index is None else normalise(options[index])
    return [normalise(option) == text for option in options]


def answer_names(answer: str, options: Sequence[str] = ()) -> tuple[str, ...]:
    """``answer`` and, with ``options``, its letter and its text."""
    index = option_index(answer, options)
    return (answer,) if index is None else (chr(ord("A") + index), options[index])


def normalise(text: str) -> str:
    r"""``text`` without what does not change an answer: case, Unicode form, white space, wrapping and trailing marks.

    Example:
        >>> normalise("  **The  Nile**. "), normalise("$1,000$"), normalise("Nile!"), normalise("$.50")
        ('the nile', '1000', 'nile', '.50')
    """
    text = " ".join(composed(text).casefold().split())
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = text.rstrip(" .,;:!?*$\"'`")
    return re.sub(r"\A(?:[ ,;:!?*$\"'`]|\.(?!\d))+", "", text)
