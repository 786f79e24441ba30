"""Where a text holds a number: in figures, as a fraction, with its sign, in words; and where a result would stand."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from reasoning_guard.plain_numbers import GLUED_UNIT, LONGEST_NUMBER, NUMBER, SCALE, SCALES, TENS, UNITS

_ONES, _SMALL = "|".join(UNITS.split()[1:10]), "|".join(sorted(UNITS.split(), key=len, reverse=True))
_TENS = "|".join(["twenty", *TENS.split()[:-1]])
_BELOW_100 = rf"(?:(?:{_TENS})(?:(?:-|\s+)(?:{_ONES})\b)?|(?:{_SMALL}))"
_BELOW_1000 = rf"(?:(?:{_BELOW_100}|an?)\s+hundred\b(?:\s+(?:and\s+)?{_BELOW_100}\b)?|{_BELOW_100})"
_LARGE = rf"(?:{_BELOW_1000}|an?)\s+(?:thousand|million|billion|dozen)\b"
_SPELLED = re.compile(
    rf"\b(?=[aefnostz])(?:{_LARGE}(?:\s+(?:and\s+)?{_LARGE})*(?:\s+(?:and\s+)?{_BELOW_1000}\b)?|{_BELOW_1000}\b)",
    re.IGNORECASE,
)
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # fmt: skip
_SPELLED_FRACTION = re.compile(
    rf"\b(?=[aefhnostz])(?:(?P<whole>{_BELOW_1000})\s+and\s+)?(?:(?P<count>an?|{_ONES})(?:-|\s+)(?P<part>{'|'.join(_PARTS)})s?"
    r"|(?P<half>half))\b",
    re.IGNORECASE,
)
_WORD_NUMBERS = {
    **{word: Fraction(value) for value, word in enumerate(UNITS.split())},
    **{word: Fraction(10 * value) for value, word in enumerate(TENS.split(), start=3)},
    **dict.fromkeys(("once", "single"), Fraction(1)),
    **dict.fromkeys(("twice", "double", "pair", "couple", "both"), Fraction(2)),
    **dict.fromkeys(("thrice", "triple"), Fraction(3)),
    **{"dozen": Fraction(12), "half": Fraction(1, 2), "quarter": Fraction(1, 4), "thousand": Fraction(1000)},
}
_PART_OF_A_NUMBER = re.compile(
    r"[-\s]*(?:hundred|thousand|million|billion|dozen|percent|[a-z]+th\b)|\s+and\s+(?:an?|one)\s+(?:half|third|quarter)",
    re.IGNORECASE,
)
_HUNDREDS_BEFORE = re.compile(r"(?:hundred|thousand)(?:\s+and)?\s+\Z", re.IGNORECASE)
_OFTEN_WRITTEN_OUT = 12
"""Words up to this one stand in any text ("in two steps")."""

_FIGURES = rf"\d{{1,3}}(?:(?:\{{,\}}|,\\!)\d{{3}})+(?!\d)(?:\.\d+)?|{NUMBER}"
_MENTION = re.compile(
    rf"(?<![^\W_])(?<!\w_)(?<!\.)(?<!\d,)(?:{_FIGURES})(?:(?=(?i:{GLUED_UNIT}))|(?!_?[^\W_]|\.\d|,\d{{3}}))"
)
_SCALE_BEHIND = re.compile(rf"\s*{SCALE}(?!-)", re.IGNORECASE)
_VULGAR_FRACTION = re.compile(r"(?<![\w.])(?P<whole>\d+)?(?P<part>[¼-¾⅐-⅞])(?!\w)")
_FRACTION = re.compile(r"(?<![\w./])(?<!\d,)(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\w/]|\.\d)")
_LATEX_FRACTION = re.compile(
    r"(?<![\w./])(?:(?<!\d,)(?P<whole>\d+)(?P<gap>\s*))?(?P<frac>\\[dt]?frac)\s*"
    r"(?:\{\s*(?P<minus>[-−]?)\s*(?P<over>\d+)\s*\}|(?P<over_1>\d))\s*(?:\{\s*(?P<under>\d+)\s*\}|(?P<under_1>\d))"
    r"(?![\w/]|\.\d)"
)

_MINUS = re.compile(
    r"(?:(?P<sign>[-−–])|(?<!\w)(?:minus|(?P<negative>negative))(?=[^\S\n]))(?P<gap>[^\S\n]*)(?:\\?[$€£¥])?\Z",
    re.IGNORECASE,
)
_BETWEEN_SIGN_AND_NUMBER, _SIGN_ENDS = " \t\\$€£¥", frozenset("-−–eEsS")
_JOINED = re.compile(r"[\w)\]}%°²³][$€£¥]?\Z")
_OPERAND_BEFORE = re.compile(
    r"(?:[)\]}%°²³]|\d[.,]?|\d[^\S\n]*(?!(?:and|or|to|by|than|then|at|of|in|with|from)\b)[^\W\d_]+"
    r"|(?<![^\W_])[^\W\d_])[$€£¥*]*[^\S\n]+\Z",
    re.IGNORECASE,
)
"""What a minus behind a space subtracts from: a number, perhaps with its unit, a symbol, or something in brackets."""
_NEAR = 30
"""Characters before a number that tell its sign."""

_DECORATION = r"(?:[\s$€£¥*_({\[\"'‘“#?|>]|\\boxed\{|\\\(|\\\[|\\text\{|\\left\b)*+"
_MARKER = re.compile(
    r"(?:=|≈|:|→|->|=>|####|\\boxed\{|\b(?:is|are|was|were|be|equal\s+to|equals?|gets?|got|gives?|gave|makes?|made|"
    r"yields?|leaves?|totals?|becomes?|comes?\s+to|amounts?\s+to|result|answer)\b)"
    rf"(?:\s*+\b(?:about|exactly|only|just|then|thus|therefore|approximately|simply|now|indeed|option)\b)*{_DECORATION}",
    re.IGNORECASE,
)
_BEGINNINGS = (re.compile(rf"(?:\A|[;.!?\n]){_DECORATION}"), re.compile(r"(?<=\d)\s+"))


class Mention(NamedTuple):
    """A number in a text.

    Attributes:
        start: Its first character, the sign included.
        end: One past its last character.
        value: What it is.
    """

    start: int
    end: int
    value: Fraction


@lru_cache(maxsize=16)
def marked(text: str) -> frozenset[int]:
    """Places right behind "=", "is", ":" and the like, where a result stands."""
    return frozenset(match.end() for match in _MARKER.finditer(text))


@lru_cache(maxsize=16)
def begun(text: str) -> frozenset[int]:
    """Places where a sentence or a line begins, and those behind a number and a space."""
    return frozenset(match.end() for pattern in _BEGINNINGS for match in pattern.finditer(text))


def in_figures(text: str) -> Iterator[Mention]:
    """Numbers in figures, with the scale behind them."""
    for match in _MENTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER:
            continue
        value, end = Fraction(re.sub(r"[^\d.]", "", match.group())), match.end()
        if scale := _SCALE_BEHIND.match(text, end):
            value, end = value * SCALES[scale["scale"].casefold()], scale.end()
        yield _signed(text, match.start(), end, value)
    for match in _VULGAR_FRACTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER:
            continue
        value = Fraction(unicodedata.numeric(match["part"])).limit_denominator(10) + int(match["whole"] or 0)
        yield _signed(text, match.start(), match.end(), value)


def as_fractions(text: str) -> Iterator[Mention]:
    """Fractions and mixed numbers, which elsewhere are calculations."""
    for match in _FRACTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER or not int(match["under"]):
            continue
        value = Fraction(int(match["over"]), int(match["under"]))
        if match["whole"] is not None:
            yield _signed(text, match.start(), match.end(), value + int(match["whole"]))
        yield _signed(text, match.start("over"), match.end(), value)
    for match in _LATEX_FRACTION.finditer(text):
        over, under = match["over"] or match["over_1"], match["under"] or match["under_1"]
        if len(match.group()) > LONGEST_NUMBER or not int(under):
            continue
        value = Fraction(int(over), int(under))
        if match["whole"] is not None and not match["minus"]:
            yield _signed(text, match.start(), match.end(), value + int(match["whole"]))
        if not match["whole"] or match["gap"]:
            yield _signed(text, match.start("frac"), match.end(), -value if match["minus"] else value)


def written_out(text: str) -> Iterator[Mention]:
    """Numbers in words, whole ones and fractions."""
    for match in _SPELLED.finditer(text):
        before, behind = text[max(0, match.start() - _NEAR) : match.start()], text[match.end() : match.end() + _NEAR]
        if not (_PART_OF_A_NUMBER.match(behind) or _HUNDREDS_BEFORE.search(before)):
            yield _signed(text, match.start(), match.end(), _value(match.group()))
    for match in _SPELLED_FRACTION.finditer(text):
        part = Fraction(1, _PARTS[(match["part"] or "half").casefold()])
        value = _value(match["whole"] or "") + (_value(match["count"]) if match["count"] else 1) * part
        yield _signed(text, match.start(), match.end(), value)


def stands_in_any_text(mention: Mention) -> bool:
    """Whether this number in words is small enough, or a fraction, to stand in any text ("in two steps", "half")."""
    return abs(mention.value) <= _OFTEN_WRITTEN_OUT or mention.value.denominator > 1


def spelled(text: str) -> set[Fraction]:
    """Numbers that a text holds in words, those that are told in other words ("twice") too."""
    single = {_WORD_NUMBERS[word] for word in re.findall(r"[a-z]+", text.casefold()) if word in _WORD_NUMBERS}
    return single | {mention.value for mention in written_out(text)}


def is_negated(text: str, start: int) -> bool:
    """Whether what begins at ``start`` has a minus before it that is its sign."""
    return _sign(text, start) is not None


def _value(words: str) -> Fraction:
    total, current = 0, 0
    for word in re.findall(r"[a-z]+", words.casefold()):
        if word == "hundred":
            current *= 100
        elif word in SCALES:
            total, current = total + current * SCALES[word], 0
        elif word != "and":
            current += 1 if word in ("a", "an") else int(_WORD_NUMBERS[word])
    return Fraction(total + current)


def _signed(text: str, start: int, end: int, value: Fraction) -> Mention:
    sign = _sign(text, start)
    return Mention(start, end, value) if sign is None else Mention(sign, end, -value)


def _sign(text: str, start: int) -> int | None:
    """Where the minus stands that is the sign of the number at ``start``; one behind an operand subtracts."""
    near = text[max(0, start - _NEAR) : start]
    match = _MINUS.search(near) if near.rstrip(_BETWEEN_SIGN_AND_NUMBER)[-1:] in _SIGN_ENDS else None
    if match is None:
        return None
    before, place = near[: match.start()], start - len(near) + match.start()
    if match["negative"]:
        return place
    if match["sign"] is None or match["gap"]:
        return place if place in marked(text) and "\n" not in before[len(before.rstrip()) :] else None
    if before[-1:].isspace():
        return place if place in marked(text) or not _OPERAND_BEFORE.search(before) else None
    return None if _JOINED.search(before) else place
