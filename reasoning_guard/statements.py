"""Where a reasoning first states the answer: as a number in any form, or in its words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from reasoning_guard.plain_numbers import LONGEST_NUMBER, NUMBER, SCALE, SCALES, TENS, UNITS, composed, plain_number

_WORD_NUMBERS = {
    **{word: Fraction(value) for value, word in enumerate(UNITS.split())},
    **{word: Fraction(10 * value) for value, word in enumerate(TENS.split(), start=3)},
    **dict.fromkeys(("once", "single"), Fraction(1)),
    **dict.fromkeys(("twice", "double", "pair", "couple", "both"), Fraction(2)),
    **dict.fromkeys(("thrice", "triple"), Fraction(3)),
    **{"dozen": Fraction(12), "half": Fraction(1, 2), "quarter": Fraction(1, 4), "thousand": Fraction(1000)},
}

_SPELLED = re.compile(
    rf"\b(?P<tens>twenty|{'|'.join(TENS.split()[:-1])})(?:[-\s](?P<units>{'|'.join(UNITS.split()[1:10])}))?\b"
    rf"|\b(?P<small>{'|'.join(UNITS.split())})\b",
    re.IGNORECASE,
)
_PART_OF_A_NUMBER = re.compile(r"[-\s]*(?:hundred|thousand|million|billion|dozen|percent|[a-z]+th\b)", re.IGNORECASE)
_OFTEN_WRITTEN_OUT = 12
"""Words up to this one stand in any text ("in two steps")."""
_MENTION = re.compile(rf"(?<![\w.])(?<!\d,)(?:{NUMBER})(?![\w]|\.\d|,\d{{3}})")
_SCALE_BEHIND = re.compile(rf"\s*{SCALE}(?!-)", re.IGNORECASE)
_VULGAR_FRACTION = re.compile(r"(?<![\w.])(?P<whole>\d+)?(?P<part>[¼-¾⅐-⅞])(?!\w)")
_FRACTION = re.compile(
    r"(?<![\w./])(?<!\d,)(?:(?P<whole>\d+)\s+)?(?:(?P<over>\d+)\s*/\s*(?P<under>\d+)|\\[dt]?frac\s*\{(?P<above>\d+)\}\s*"
    r"\{(?P<below>\d+)\})(?![\w/]|\.\d)"
)
_DECORATION = r"(?:[\s$€£¥*_({\[\"'‘“#?|>]|\\boxed\{|\\\(|\\\[|\\text\{)*"
_MARKER = re.compile(
    r"(?:=|≈|:|→|->|=>|####|\\boxed\{|\b(?:is|are|was|were|be|equals?|equal\s+to|gets?|got|gives?|gave|makes?|made|"
    r"yields?|leaves?|totals?|becomes?|comes?\s+to|amounts?\s+to|result|answer)\b)"
    rf"(?:\s*\b(?:about|exactly|only|just|then|thus|therefore|approximately|simply|now|indeed|option)\b)*{_DECORATION}-?\Z",
    re.IGNORECASE,
)
_OPERAND = r"\s*[$€£]?(?:\d|\.\d|[(\\]|[a-zA-Z]\b)"
_OPERATOR = re.compile(
    rf"(?:\*\*(?=\D))?[\s$€£%°]*(?:[-−–+*/×÷^·]{_OPERAND}|x\s*[\d$(]|\\(?:times|cdot|div)\b|"
    r"(?:plus|minus|times)\s+[$(]?[\d.]|(?:divided|multiplied)\s+by\b)"
)
_CALCULATION = re.compile(r"[\s$€£<(]*+=(?:[\d\s,$€£()+*/×÷·^<=x−–-]|(?<=\d)\.)*+")
"""The calculation that a text ends in, read from its end."""
_LIST_MARK = re.compile(r"[.):][^\S\n]+\S")
_LINE_BEGINS = re.compile(r"(?:\A|\n)[^\S\n]*(?:\**step\s+|#+\s*|\()?\Z", re.IGNORECASE)
_ALONE_BEFORE = re.compile(rf"(?:(?:\A|[;.!?\n]){_DECORATION}-?|\d\s+)\Z")
_ALONE_BEHIND = re.compile(r"[\s.,;:!*$)\]}]*(?:[.,;:!\n]|\Z)|\s*[^\W\d_]\w{0,2}\s*=")
_VAGUE_WORDS = frozenset({"yes", "no", "true", "false", "none"})

Span = tuple[int, int]


def find_statement(text: str, answer: str, prompt: str, *, mathematical: bool = True) -> tuple[Span | None, bool]:
    """Where a reasoning first states the answer.

    A mention is a whole number or word: 18 is not mentioned by "118", "18.5" or "1,800", but by "18.0", "$18", "18%"
    and "eighteen". It *states* the answer when it stands in the place of a result (behind "=", "is", "equals", ":" and
    the like, no operator behind it), when it stands alone (no operand, no part of a sentence), or when the prompt does
    not hold it. A mention of what the prompt holds is otherwise an operand, and the statement begins with that operand
    where the same calculation only leads back to it ("8 + 0 = 8"). For words that the prompt holds this can't be told.

    Args:
        text: The reasoning.
        answer: The reference answer.
        prompt: What the model read.
        mathematical: Find numbers by value ("18.0" mentions "18"), not by their text.

    Returns:
        Span of the first statement in characters, or None; and whether that is known.

    Example:
        >>> steps = "b = 3 + 4 = 7 ; c = 7 * 2 = 3 ;"
        >>> find_statement(steps, "3", "7 : a = 3 ; b = a + 4 ; c = b * 2 ; ?")
        ((28, 29), True)
    """
    number = plain_number(answer)
    if number is None:
        return _find_words(text, answer.strip(), prompt)
    read = _numbers_and_fractions if "/" in composed(answer) or "frac" in answer else _numbers
    held = any(mention.value == number for mention in read(prompt)) or number in _spelled(prompt)
    mentions = [mention for mention in read(text) if mention.value == number]
    if mathematical:
        mentions += [mention for mention in _written_out(text, held) if mention.value == number]
    for mention in sorted(mentions):
        literal = text[mention.start : mention.end] == answer.strip().replace("$", "")
        if (mathematical or literal) and _states(text, mention, prompt, held):
            return (mention.start, mention.end), True
    return None, True


def calculates_with(before: str, answer: str, behind: str) -> bool:
    """Whether an answer is part of the calculation that states it: "8 + 0 = 8" only leads back to the 8.

    Args:
        before: The text up to the first statement of the answer.
        answer: The answer.
        behind: The text behind that statement.

    Example:
        >>> calculates_with("b = 0 + 8 = ", "8", " ;"), calculates_with("b = 3 + 5 = ", "8", " ; c = 8 * 2 = 5 ;")
        (True, False)
    """
    calculation, number = _CALCULATION.match(before[::-1]), plain_number(answer)
    operands = _numbers(calculation.group()[::-1]) if calculation else ()
    goes_on = _OPERATOR.match(behind) is not None or behind.lstrip().startswith("=")
    return goes_on or any(mention.value == number for mention in operands)


class _Mention(NamedTuple):
    start: int
    end: int
    value: Fraction


def _numbers(text: str) -> Iterator[_Mention]:
    for match in _MENTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER:
            continue
        value, end = Fraction(match.group().replace(",", "")), match.end()
        if scale := _SCALE_BEHIND.match(text, end):
            value, end = value * SCALES[scale["scale"].casefold()], scale.end()
        yield _signed(text, match.start(), end, value)
    for match in _VULGAR_FRACTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER:
            continue
        value = Fraction(unicodedata.numeric(match["part"])).limit_denominator(10) + int(match["whole"] or 0)
        yield _signed(text, match.start(), match.end(), value)


def _numbers_and_fractions(text: str) -> Iterator[_Mention]:
    """Fractions too, which elsewhere are calculations: for answers that are written as one."""
    yield from _numbers(text)
    for match in _FRACTION.finditer(text):
        if len(match.group()) > LONGEST_NUMBER or not int(under := match["under"] or match["below"]):
            continue
        value = Fraction(int(match["over"] or match["above"]), int(under))
        if match["whole"] is not None:
            yield _signed(text, match.start(), match.end(), value + int(match["whole"]))
        begin = match.start("over") if match["over"] else text.index("\\", match.start())
        yield _signed(text, begin, match.end(), value)


def _signed(text: str, start: int, end: int, value: Fraction) -> _Mention:
    signed = _is_signed(text[max(0, start - 20) : start])
    return _Mention(start - signed, end, -value if signed else value)


def _is_signed(before: str) -> bool:
    """Whether a minus right before a number is its sign; after an operand it subtracts."""
    return before[-1:] in ("-", "−") and not re.search(r"[\w)\]}%]\s*\Z", before[:-1])


def _written_out(text: str, held: bool) -> Iterator[_Mention]:
    """Numbers in words; small ones, and those that the prompt holds, only where they stand as a result."""
    for match in _SPELLED.finditer(text):
        words = [word.casefold() for word in match.group("tens", "units", "small") if word]
        value = sum((_WORD_NUMBERS[word] for word in words), Fraction())
        before, behind = text[max(0, match.start() - 80) : match.start()], text[match.end() : match.end() + 12]
        if _PART_OF_A_NUMBER.match(behind) or re.search(r"(?i:hundred|thousand)(?:\s+and)?\s+\Z", before):
            continue
        told = _MARKER.search(before) or _ALONE_BEFORE.search(before)
        closed = re.match(r"[*)\]}\"']*\s*(?:[.,;:!\n]|\Z)", behind)
        if (told and closed) or not (held or value <= _OFTEN_WRITTEN_OUT):
            yield _Mention(match.start(), match.end(), value)


def _spelled(text: str) -> set[Fraction]:
    return {_WORD_NUMBERS[word] for word in re.findall(r"[a-z]+", text.casefold()) if word in _WORD_NUMBERS}


def _states(text: str, mention: _Mention, prompt: str, held: bool) -> bool:
    if _numbers_a_line(text, mention):
        return False
    if not held:
        return True
    if _OPERATOR.match(text, mention.end):
        return False
    before = text[max(0, mention.start - 80) : mention.start]
    if _ALONE_BEFORE.search(before) and _ALONE_BEHIND.match(text, mention.end):
        return True
    return _MARKER.search(before) is not None and not _restated(before, text[mention.start : mention.end], prompt)


def _numbers_a_line(text: str, mention: _Mention) -> bool:
    """Whether a number is that of a list's item: it begins a line, and is the first or follows the one before it."""
    before = text[max(0, mention.start - 20) : mention.start]
    if not (_LIST_MARK.match(text, mention.end) and _LINE_BEGINS.search(before)):
        return False
    last = rf"(?:\A|\n)[^\S\n]*(?:\**step\s+|#+\s*|\()?{mention.value - 1}[.):]"
    return mention.value == 1 or re.search(last, text[: mention.start], re.IGNORECASE) is not None


def _restated(before: str, mention: str, prompt: str) -> bool:
    """Whether the prompt says the same with the same words ("a = 3"): then it is read, not found out."""
    words = before.split()
    phrase = " ".join([*words[-2:], mention]) if before[-1:].isspace() else " ".join(words[-2:]) + mention
    return len(words) > 1 and phrase.casefold() in " ".join(prompt.split()).casefold()


def _find_words(text: str, answer: str, prompt: str) -> tuple[Span | None, bool]:
    pattern = _words_pattern(answer)
    letter, vague = len(answer) == 1, answer.casefold() in _VAGUE_WORDS
    held = letter or vague or pattern.search(prompt) is not None
    for match in pattern.finditer(text):
        before, after = text[max(0, match.start() - 80) : match.start()], text[match.end() : match.end() + 10]
        closed = re.match(r"[*)\]}\"']*\s*(?:[.,;:!?\n]|\Z)", after) is not None
        marked = _MARKER.search(before) is not None or not before.strip(" \n\t*$(\"'")
        if not held or (marked and (closed or not (letter or vague))):
            return match.span(), True
        if not letter or (before.endswith("(") and after.startswith(")")):
            return None, False
    return None, True


def _words_pattern(answer: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in answer.split())
    left = r"(?<!\w)" if answer[:1].isalnum() else ""
    right = r"(?!\w)" if answer[-1:].isalnum() else ""
    return re.compile(left + words + right, 0 if len(answer) == 1 else re.IGNORECASE)
