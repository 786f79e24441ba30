"""Find which of a problem's options an answer names: by text, letter, both or value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reasoning_guard.answers import answers_equal, normalise

if TYPE_CHECKING:
    from reasoning_guard.formats import TraceFormat

_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"(?:(?:option|choice|answer)\b\s*:?\s*)?[(\[]?([a-z])[)\].:]*", re.IGNORECASE)
_LETTER_FIRST = re.compile(r"[(\[]?([a-z])(?:([)\]])[.:,]?|[.:,]|\s+[-–]|(?=\s))\s*(\S.*)", re.IGNORECASE | re.DOTALL)
_LETTER_ELSE = re.compile(r"(?<![^\W_])([a-z])[)\]]|\A(?:and|or|&|/|,)\s*[(\[]?([a-z])\W*\Z", re.IGNORECASE)
_LETTER_LAST = re.compile(r"(.*\S)\s*[(\[]([a-z])[)\]]", re.IGNORECASE | re.DOTALL)


def answer_is_correct(
    given: str, reference: str, options: Sequence[str] = (), *, mathematical: bool = True, letters: bool = False
) -> bool:
    """Grade like :func:`~reasoning_guard.answers.answers_equal`; an option's letter and its text are the same answer.

    Args:
        given: What the model answered.
        reference: The right answer.
        options: The options' texts, if there are any.
        mathematical: Compare values, not only texts.
        letters: As in :func:`option_index`.

    Example:
        >>> answer_is_correct("B", "4", ("3", "4")), answer_is_correct("$4.00", "B", ("3", "4"))
        (True, True)
    """
    one, other = (
        option_index(answer, options, mathematical=mathematical, letters=letters) for answer in (given, reference)
    )
    if one is not None and other is not None:
        return one == other
    return answers_equal(given, reference, mathematical=mathematical)


def option_index(
    answer: str, options: Sequence[str], *, mathematical: bool = False, letters: bool = False
) -> int | None:
    r"""Find the option that ``answer`` names by its text, its letter ("B", "(B)", "Option B") or both, or None.

    Args:
        answer: An answer.
        options: The options' texts. Of equal ones the first is meant.
        mathematical: If neither text nor letter names an option, compare values too.
        letters: Letters are asked for, so "A" is the first option and not the one whose text is "A" (blood types,
            grades).

    Example:
        >>> [option_index(answer, ("Oslo", "Rome")) for answer in ("B", "rome.", r"\text{(B) Rome}", "A) Rome")]
        [1, 1, 1, None]
    """
    if not options:
        return None
    texts = [normalise(option) for option in options]
    text = texts.index(normalise(answer)) if normalise(answer) in texts else None
    bare = _WRAPPED.sub(r"\1", answer).strip(" \t\n*_$\"'").rstrip(".")
    alone = _LETTER.fullmatch(bare)
    letter = _index(alone.group(1), options) if alone else None
    for found in (letter, text) if letters else (text, letter):
        if found is not None:
            return found
    if (found := _named_by_both(bare, texts)) is not None:
        return found
    return next((i for i, option in enumerate(options) if mathematical and answers_equal(answer, option)), None)


def same_answer(given: str, other: str, options: Sequence[str], format: TraceFormat) -> bool:
    """Say whether two answers are the same, by the problem's options, if it has any, and by the format."""
    letters = asks_letters(options, format)
    return answer_is_correct(given, other, options, mathematical=format.mathematical, letters=letters)


def options_named(answer: str, options: Sequence[str], format: TraceFormat) -> list[bool]:
    """Say for each option whether ``answer`` names it (:func:`option_index`). Equal texts are one option.

    Example:
        >>> from reasoning_guard import get_format
        >>> options_named("B", ("3", "4", "4"), get_format("plain"))
        [False, True, True]
    """
    letters = asks_letters(options, format)
    index = option_index(answer, options, mathematical=format.mathematical, letters=letters)
    text = None if index is None else normalise(options[index])
    return [normalise(option) == text for option in options]


def answer_names(answer: str, options: Sequence[str], format: TraceFormat) -> tuple[str, ...]:
    """Return ``answer`` and, if there are options, its letter and its text."""
    index = option_index(answer, options, letters=asks_letters(options, format))
    return (answer,) if index is None else (letter_of(index), options[index])


def asked_options(options: Sequence[str], format: TraceFormat) -> tuple[str, ...]:
    """Return options as a format asks for them: their texts, or their letters for "choice"."""
    return tuple(map(letter_of, range(len(options)))) if asks_letters(options, format) else tuple(options)


def letter_of(index: int) -> str:
    """Return the letter of an option: "A" for 0."""
    return chr(ord("A") + index)


def asks_letters(options: Sequence[str], format: TraceFormat) -> bool:
    """Say whether a format can read only the letters of these options, not their texts, and so asks for letters.

    Texts that are single letters themselves count as readable if two such letters would be.
    """
    texts = [text * 2 if len(text) == 1 and text.isalpha() else text for text in options]
    return not all(format.answer_in(format.asked(text)) == text for text in texts)


def _index(letter: str, options: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(options) else None


def _named_by_both(bare: str, texts: Sequence[str]) -> int | None:
    """Index of "(B) Rome", "B. Rome" or "Rome (B)"; None where the text is another option's, or names another one."""
    if match := _LETTER_LAST.fullmatch(bare):
        index = _index(match.group(2), texts)
        if index is not None and normalise(match.group(1)) == texts[index]:
            return index
    if not (match := _LETTER_FIRST.fullmatch(bare)) or (index := _index(match.group(1), texts)) is None:
        return None
    said = normalise(match.group(3))
    text = max((text for text in texts if _begins(said, text)), key=len, default=None)
    if text != texts[index] and (text is not None or match.group(2) is None):
        return None
    others = (found.group(1) or found.group(2) for found in _LETTER_ELSE.finditer(said[len(text or "") :].strip()))
    return None if any(_index(letter, texts) not in (None, index) for letter in others) else index


def _begins(said: str, text: str) -> bool:
    return said.startswith(text) and not re.match(r"\w|[.,]\d", said[len(text) :])
