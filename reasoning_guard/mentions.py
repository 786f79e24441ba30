"""Numbers that a text mentions, with their places: in figures, as fractions, in words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from reasoning_guard.number_words import IN_WORDS, PART_OF_A_NUMBER, VALUES, value_in_words
from reasoning_guard.plain_numbers import GLUED_UNIT, LATEX_FRACTION, LONGEST_NUMBER, NUMBER, SCALE, SCALES, figures

_SHORT_WORDS = {
    **VALUES,
    **dict.fromkeys(("once", "single"), 1),
    **dict.fromkeys(("twice", "double", "pair", "couple", "both"), 2),
    **dict.fromkeys(("thrice", "triple"), 3),
    **{"dozen": 12, "half": Fraction(1, 2), "quarter": Fraction(1, 4), "hundred": 100, "thousand": 1000},
}

_BEGINS = (
    r"(?:(?<![\w.])|(?!\.)(?:(?<=[^\W\d]\.)|(?<=\.\.)|(?<=\b(?:USD|EUR|GBP|CHF|CAD|AUD|INR|JPY|CNY))|(?<=\b(?:Rs|RM))))"
    r"(?:(?<!\d,)|(?=\d{1,2}(?!\d)))"
)
"""Where a number may begin: not within a word or another number; "eggs.18", "...18" and "17,18" lack a space."""
_NO_WORD = r"(?:arc|a)?(?:sin|cos|tan|sec|csc|cot|log|exp|sqrt|mod|lim|min|max)|ths?\b"
_GLUED = rf"(?:{GLUED_UNIT}|(?!{_NO_WORD})[^\W\d_]{{3,}}(?!\w))"
"""Words that may stand right behind a number."""
_IN_FIGURES = re.compile(rf"{_BEGINS}(?:{NUMBER})(?!(?!(?i:{_GLUED}))\w|\.\d|,\d{{3}})")
_SPACED = re.compile(r"(?<![\w.])(?<!\d[ ,])[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?!\w|\.\d|[ ,]\d)")
"""``80 000``, which may as well be two numbers."""
_SCALE_BEHIND = re.compile(rf"\s*{SCALE}(?!-)", re.IGNORECASE)
_VULGAR_FRACTION = re.compile(r"(?<![\w.])(?P<whole>\d+)?(?P<part>[¼-¾⅐-⅞])(?!\w)")
_FRACTION = re.compile(
    r"(?<![\w./])(?<!\d,)(?:(?P<whole>\d+)(?:\s+|(?P<mixed>(?=\\))))?(?:(?P<over>\d+)\s*/\s*(?P<under>\d+)|"
    rf"{LATEX_FRACTION})(?![\w/]|\.\d)"
)
_NEGATIVE_WORD = re.compile(
    r"(?:\bnegative|(?:=|\b(?:is|are|was|be|equals?|gets?|gives?))\s+(?P<minus>minus))\s+\Z", re.I
)
_OPERAND = re.compile(r"[\w)\]}%]\Z")
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}\Z")
_SAYS = re.compile(r"\b(?:is|are|was|were|be|equals?|gets?|got|gives?|becomes?|to|of|by|at|and|or)\Z", re.IGNORECASE)


class Mention(NamedTuple):
    """A number in a text.

    Attributes:
        start: Its first character, its sign included.
        end: Where it ends, its scale ("million") included.
        value: Its value.
    """

    start: int
    end: int
    value: Fraction


def numbers(text: str) -> Iterator[Mention]:
    """Find numbers in figures. Each is a whole number, so 18 is not in "118", "18.5", "1,800" or "18th".

    Example:
        >>> [str(mention.value) for mention in numbers("18kg is -5, 2½ and 3 million")]
        ['18', '-5', '3000000', '5/2']
    """
    for match in _IN_FIGURES.finditer(text):
        if len(number := _shortened(match.group())) > LONGEST_NUMBER:
            continue
        value, end = figures(number), match.end()
        if scale := _SCALE_BEHIND.match(text, end):
            value, end = value * SCALES[scale["scale"].casefold()], scale.end()
        yield from _signed(text, match.start(), end, value)
    for match in _SPACED.finditer(text):
        if len(match.group()) <= LONGEST_NUMBER:
            yield from _signed(text, match.start(), match.end(), figures(match.group()))
    for match in _VULGAR_FRACTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER:
            continue
        value = Fraction(unicodedata.numeric(match["part"])).limit_denominator(10) + int(match["whole"] or 0)
        yield from _signed(text, match.start(), match.end(), value)


def fractions(text: str) -> Iterator[Mention]:
    r"""Find fractions, "1/2" and "\frac{1}{2}", with and without a whole number before them.

    Example:
        >>> [str(mention.value) for mention in fractions(r"2 1/2 or -\dfrac{3}{4}")]
        ['5/2', '1/2', '-3/4']
    """
    for match in _FRACTION.finditer(text):
        over, under = ((match[a] or match[b]).strip("{}") for a, b in (("over", "above"), ("under", "below")))
        if len(match.group()) > LONGEST_NUMBER or not int(under):
            continue
        value = Fraction(int(over), int(under))
        if match["whole"] is not None:
            yield from _signed(text, match.start(), match.end(), value + int(match["whole"]))
        if match["mixed"] is not None:  # 2\frac{1}{2} is no 1/2; "2 1/2" may be two numbers
            continue
        begin = match.start("over") if match["over"] else text.index("\\", match.start())
        yield from _signed(text, begin, match.end(), value)


def in_words(text: str) -> Iterator[Mention]:
    """Find numbers in words, up to the trillions.

    Example:
        >>> [str(mention.value) for mention in in_words("Twenty-five, one hundred and two, the fifth of two thousand")]
        ['25', '102', '2000']
    """
    for match in IN_WORDS.finditer(text):
        if not PART_OF_A_NUMBER.match(text, match.end()):
            yield from _signed(text, match.start(), match.end(), Fraction(value_in_words(match.group())))


def named(text: str) -> set[Fraction]:
    """Return the values that the words of a text name, including "twice", "half" and "dozen"."""
    single = {_SHORT_WORDS[word] for word in re.findall(r"[a-z]+", text.casefold()) if word in _SHORT_WORDS}
    return {Fraction(value) for value in single} | {mention.value for mention in in_words(text)}


def _signed(text: str, start: int, end: int, value: Fraction) -> Iterator[Mention]:
    """The number with its sign; without it too where a dash may be a mark ("eggs -18"; that begins a line)."""
    before = text[max(0, start - 30) : start]
    word = _NEGATIVE_WORD.search(before)
    bare = re.sub(r"\\?[$€£¥]\Z", "", before)
    ahead = bare[:-1].rstrip(" \t") if bare[-1:] in ("-", "−", "–") else None
    if word is not None:
        sign = len(before) - word.start("minus" if word["minus"] else 0)
        yield Mention(start - sign, end, -value)
    elif ahead is None:
        yield Mention(start, end, value)
    elif not _OPERAND.search(ahead) or (len(ahead) < len(bare) - 1 and _WORD.search(ahead)):
        yield Mention(start - len(before) + len(bare) - 1, end, -value)
        if ahead.endswith("\n") or (_OPERAND.search(ahead) and not _SAYS.search(ahead)):
            yield Mention(start, end, value)
    else:  # "b -5" and "3 -5" subtract
        yield Mention(start, end, value)


def _shortened(number: str) -> str:
    """A number in figures without zeros that say nothing."""
    whole, point, behind = number.partition(".")
    return (whole.lstrip("0") or "0") + point + (behind.rstrip("0") or "0" if point else "")
