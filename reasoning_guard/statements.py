"""Find where a reasoning first states the answer: as a number in any form, or in its words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from reasoning_guard.legible import legible
from reasoning_guard.mentions import Mention, fractions, in_words, named, numbers
from reasoning_guard.plain_numbers import composed, plain_number

_OFTEN_WRITTEN_OUT = 5
"""Words up to this one stand in any text ("in two steps")."""
_EQUALS = re.compile(r"[\s})\]$]*(?:=|≈|\\approx)")
_DECORATION = (
    r"(?:[\s$€£¥*_`+({\[\"'‘“#?|>]|\\(?:boxed|text|math|mbox)[a-z]{0,2}\{|\\\(|\\\[|(?:USD|EUR|GBP|Rs\.?|RM)(?=\s*\Z))*"
)
_MARKER = re.compile(
    r"(?:=|≈|:|→|->|=>|####|\\boxed\{|\b(?:is|are|was|were|be|equals?|equal\s+to|gets?|got|gives?|gave|makes?|made|"
    r"yields?|leaves?|totals?|becomes?|comes?\s+to|amounts?\s+to|result|answer)\b)"
    rf"(?:\s*\b(?:about|exactly|only|just|then|thus|therefore|approximately|simply|now|indeed|option)\b)*{_DECORATION}-?\Z",
    re.IGNORECASE,
)
_SURELY_TOLD = re.compile(
    rf"(?:=|≈|####|\\boxed\{{|\banswer:|\b(?:answer|result|total|sum)\s+is\b|\btotal\s+of\b)(?:\s+\w+ly\b)?{_DECORATION}\Z",
    re.IGNORECASE,
)
_OPERAND = r"\s*[$€£]?(?:\d|\.\d|[(\\]|[a-zA-Z]\b)"
_OPERATOR = re.compile(
    rf"(?:\*\*(?=\D))?[\s$€£%°]*(?:[-−–+*/×÷^·]{_OPERAND}|x\s*[\d$(]|\\(?:times|cdot|div)\b|"
    r"(?:plus|minus|times)\s+[$(]?[\d.]|(?:divided|multiplied)\s+by\b)"
)
_CALCULATION = re.compile(r"[\s$€£<(]*+=(?:[\d\s,$€£()+*/×÷·^<=x−–-]|(?<=\d)\.)*+")
"""The calculation that a text ends in, read from its end."""
_ITEM = re.compile(
    r"^[^\S\n]*(?:\**step\s+|#+\s*|\()?(?P<number>[1-9][0-9]{0,3})[.):][^\S\n]+\S", re.IGNORECASE | re.MULTILINE
)
_ALONE_BEFORE = re.compile(rf"(?:(?:\A|[;.!?\n]){_DECORATION}-?|\d\s+)\Z")
_ALONE_BEHIND = re.compile(r"[\s.,;:!*$)\]}]*(?:[.,;:!\n]|\Z)|\s*[^\W\d_]\w{0,2}\s*=")
_BLANK = re.compile(r"\s|\\[,;:! ]|\\(?:left|right)(?![a-zA-Z])\.?|~")
_PARTS = re.compile(rf"\\\\|{_BLANK.pattern}|\\[a-zA-Z]+|[^\W_]+|.", re.DOTALL)
"""What a text consists of: line ends of LaTeX, blanks, commands, words, marks."""
_FRACTIONS = frozenset({r"\frac", r"\dfrac", r"\tfrac"})
_VAGUE_WORDS = frozenset({"yes", "no", "true", "false", "none"})

Span = tuple[int, int]


def find_statement(text: str, answer: str, prompt: str, *, mathematical: bool = True) -> tuple[Span | None, bool]:
    """Find where a reasoning first states the answer.

    A mention is a whole number or word: 18 is not mentioned by "118", "18.5" or "1,800", but by "18.0", "$18", "18%"
    and "eighteen". Invisible characters, tags and special tokens hide nothing. A mention *states* the answer in three
    cases: if it stands in the place of a result (behind "=", "is", "equals", ":" and the like, with no operator behind
    it), if it stands alone (no operand, no part of a sentence), or if the prompt does not hold it. Otherwise, a mention
    of what the prompt holds is an operand. The statement begins with that operand if the same calculation only leads
    back to it ("8 + 0 = 8"). For words that the prompt holds, this can't be told.

    Args:
        text: The reasoning.
        answer: The reference answer.
        prompt: What the model read.
        mathematical: Find numbers by value ("18.0" mentions "18"), not by text.

    Returns:
        The span of the first statement in characters, or None; and whether that is known.

    Example:
        >>> steps = "b = 3 + 4 = 7 ; c = 7 * 2 = 3 ;"
        >>> find_statement(steps, "3", "7 : a = 3 ; b = a + 4 ; c = b * 2 ; ?")
        ((28, 29), True)
    """
    span, known = _find(text, answer, prompt, mathematical)
    seen = legible(text) if known else None
    if seen is None:
        return span, known
    other, known = _find(seen.text, answer, prompt, mathematical)
    spans = [each for each in (span, other and seen.written(*other)) if each is not None and known]
    return min(spans, default=None), known


def _find(text: str, answer: str, prompt: str, mathematical: bool) -> tuple[Span | None, bool]:
    number = plain_number(answer) if mathematical or any(map(str.isdigit, answer)) else None
    if number is None:
        return _find_words(text, answer.strip(), prompt)
    prompted = [*numbers(prompt), *(fractions(prompt) if number.denominator > 1 else ())]
    held = any(mention.value == number for mention in prompted) or number in named(prompt)
    mentions = [mention for mention in (*numbers(text), *_fractions(text, answer)) if mention.value == number]
    if mathematical:
        mentions += [mention for mention in _written_out(text, held) if mention.value == number]
    items = _items(text)
    for mention in sorted(mentions):
        literal = text[mention.start : mention.end] == answer.strip().replace("$", "")
        if (mathematical or literal) and mention.start not in items and _states(text, mention, prompt, held):
            return (mention.start, mention.end), True
    return None, True


def calculates_with(before: str, answer: str, behind: str) -> bool:
    """Say whether an answer is part of the calculation that states it: "8 + 0 = 8" only leads back to the 8.

    Args:
        before: The text up to the first statement of the answer.
        answer: The answer.
        behind: The text behind that statement.

    Example:
        >>> calculates_with("b = 0 + 8 = ", "8", " ;"), calculates_with("b = 3 + 5 = ", "8", " ; c = 8 * 2 = 5 ;")
        (True, False)
    """
    calculation, number = _CALCULATION.match(before[::-1]), plain_number(answer)
    operands = numbers(calculation.group()[::-1]) if calculation else ()
    goes_on = _OPERATOR.match(behind) is not None or behind.lstrip().startswith("=")
    return goes_on or any(mention.value == number for mention in operands)


def _fractions(text: str, answer: str) -> Iterator[Mention]:
    """Fractions that may state ``answer``: all where it is one; else those with no result behind ("3/4 = 0.75")."""
    written = "/" in composed(answer) or "frac" in answer
    for mention in fractions(text):
        if written or (mention.value.denominator > 1 and not _EQUALS.match(text, mention.end)):
            yield mention


def _written_out(text: str, held: bool) -> Iterator[Mention]:
    """Numbers in words; small ones, and those that the prompt holds, only where they stand as a result."""
    for mention in in_words(text):
        before, behind = text[max(0, mention.start - 80) : mention.start], text[mention.end : mention.end + 12]
        told = _MARKER.search(before) or _ALONE_BEFORE.search(before)
        closed = re.match(r"[*)\]}\"']*\s*(?:[.,;:!\n]|\Z)", behind)
        if (told and closed) or _SURELY_TOLD.search(before) or not (held or abs(mention.value) <= _OFTEN_WRITTEN_OUT):
            yield mention


def _states(text: str, mention: Mention, prompt: str, held: bool) -> bool:
    if not held:
        return True
    if _OPERATOR.match(text, mention.end):
        return False
    before = text[max(0, mention.start - 80) : mention.start]
    if _ALONE_BEFORE.search(before) and _ALONE_BEHIND.match(text, mention.end):
        return True
    return _MARKER.search(before) is not None and not _restated(before, text[mention.start : mention.end], prompt)


def _items(text: str) -> set[int]:
    """Where the numbers of a list's items stand: each begins a line, and they count from 1 on.

    A list that began anywhere would make two lines of an answer: "17. So.", "18. Thus."
    """
    places: set[int] = set()
    counted: set[str] = {"0"}
    for match in _ITEM.finditer(text):
        number = match["number"]
        if str(int(number) - 1) in counted:
            counted.add(number)
            places.add(match.start("number"))
    return places


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
    """``answer`` with any white space between its words and marks, none included where no two words would become one.

    LaTeX's own spaces, sizes of brackets and of fractions make no difference either.
    """
    parts = [part for part in _PARTS.findall(answer) if not _BLANK.fullmatch(part)]
    pattern = _pattern_of(parts[0]) if parts else re.escape(answer)
    for one, other in pairwise(parts):
        apart = one[-1].isalnum() and (other[0].isalpha() if one[0] == "\\" else other[0].isalnum())
        pattern += (rf"(?:{_BLANK.pattern})+" if apart else rf"(?:{_BLANK.pattern})*") + _pattern_of(other)
    left = r"(?<!\w)" if answer[:1].isalnum() else ""
    right = r"(?!\w)" if answer[-1:].isalnum() else ""
    return re.compile(left + pattern + right, 0 if len(answer) == 1 else re.IGNORECASE)


def _pattern_of(part: str) -> str:
    return r"\\[dt]?frac" if part in _FRACTIONS else re.escape(part)
