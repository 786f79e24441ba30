"""Where a reasoning first states the answer: as a number in any form, or in its words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from reasoning_guard.mentions import (
    Mention,
    as_fractions,
    begun,
    in_figures,
    is_negated,
    marked,
    spelled,
    stands_in_any_text,
    written_out,
)
from reasoning_guard.plain_numbers import composed, plain_number, without_latex

_OPERAND = r"\s*[$€£]?(?:\d|\.\d|[(\\]|[a-zA-Z]\b)"
_OPERATOR = re.compile(
    rf"(?:\*\*(?=\D))?[\s$€£%°]*(?:[-−–+*/×÷^·]{_OPERAND}|x\s*[\d$(]|\\(?:times|cdot|div)\b|"
    r"(?:plus|minus|times)\s+[$(]?[\d.]|(?:divided|multiplied)\s+by\b)"
)
_CALCULATION = re.compile(r"[\s$€£<(]*+=(?:[\d\s,$€£()+*/×÷·^<=x−–-]|(?<=\d)\.)*+")
"""The calculation that a text ends in, read from its end."""
_LIST_MARK = re.compile(r"[.):][^\S\n]+\S")
_LINE_BEGINS = re.compile(r"(?:\A|\n)[^\S\n]*(?:\**step\s+|#+\s*|\()?\Z", re.IGNORECASE)
_CLOSED = re.compile(r"[*)\]}\"']*\s*(?:[.,;:!\n]|\Z)")
_GOES_ON = re.compile(rf"{_OPERATOR.pattern}|[^.,;:!?\n]{{0,40}}[=≈]|\s+(?:of|as|the|his|her|its|their)\b")
_ALONE_BEHIND = re.compile(r"[\s.,;:!*$)\]}]*(?:[.,;:!\n]|\Z)|\s*[^\W\d_]\w{0,2}\s*=")
_WRITTEN_AS_FRACTION = re.compile(r"\d\s*/\s*\d|\\[dt]?frac")
_FORMULA = re.compile(r"[\d\\^_{}=+*/()\[\]<>]")
_SAYS_NOTHING = r"[\s{}~$]|\\(?:[,;:!> ]|(?:left|right|displaystyle)(?![a-zA-Z]))"
"""Spaces and braces of LaTeX: "x^{2} + 1" is "x^2+1"."""
_BETWEEN = rf"(?:{_SAYS_NOTHING})*+"
_TOKEN = re.compile(rf"(?:{_SAYS_NOTHING})|(\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|[^\W\d_]+|\S)")
_SPELLINGS = {
    **dict.fromkeys((r"\frac", r"\dfrac", r"\tfrac"), r"\\[dt]?frac(?![a-zA-Z])"),
    **dict.fromkeys((r"\le", r"\leq", "≤"), r"(?:\\leq?(?![a-zA-Z])|≤)"),
    **dict.fromkeys((r"\ge", r"\geq", "≥"), r"(?:\\geq?(?![a-zA-Z])|≥)"),
    **dict.fromkeys((r"\pi", "π"), r"(?:\\pi(?![a-zA-Z])|π)"),
    **dict.fromkeys(("-", "−"), "[-−]"),
    "(": r"(?:\\left\s*)?\(",
    "[": r"(?:\\left\s*)?\[",
}
_VAGUE_WORDS = frozenset({"yes", "no", "true", "false", "none"})

Span = tuple[int, int]


def find_statement(text: str, answer: str, prompt: str, *, mathematical: bool = True) -> tuple[Span | None, bool]:
    """Where a reasoning first states the answer.

    A mention is a whole number or word: 18 is not mentioned by "118", "18.5" or "1,800", but by "18.0", "$18", "18%"
    and "eighteen". It *states* the answer when it stands in the place of a result (behind "=", "is", "equals", ":" and
    the like, no operator behind it), when it stands alone (no operand, no part of a sentence), or when the prompt does
    not hold it. A minus before a number is its sign, unless it follows an operand ("10 - 5", "x -5"). What is no plain
    number is found however its spaces and its LaTeX are written. A mention of what the prompt holds is otherwise an
    operand, and the statement begins with that operand where the same calculation only leads back to it ("8 + 0 = 8").
    For words that the prompt holds this can't be told.

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
        return _find_words(text, without_latex(answer).strip(" $") or answer.strip(), prompt)
    fraction = _WRITTEN_AS_FRACTION.search(composed(answer)) is not None
    held = any(mention.value == number for mention in _read(prompt, fraction)) or number in spelled(prompt)
    mentions = [mention for mention in _read(text, fraction) if mention.value == number]
    if mathematical:
        mentions += [mention for mention in _results(text, held, number) if mention.value == number]
    numbering = _numbering_begins(text, number)
    for mention in sorted(mentions):
        literal = text[mention.start : mention.end] == answer.strip().replace("$", "")
        if (mathematical or literal) and _states(text, mention, prompt, held, numbering):
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
    number, operands = plain_number(answer), in_figures(calculation_before(before))
    goes_on = _OPERATOR.match(behind) is not None or behind.lstrip().startswith("=")
    return goes_on or any(mention.value == number for mention in operands)


def calculation_before(text: str) -> str:
    """The calculation that ``text`` ends in, up to its "="; empty where it ends in none.

    Example:
        >>> calculation_before("She has 8 + 0 = ")
        ' 8 + 0 = '
    """
    match = _CALCULATION.match(text[::-1])
    return match.group()[::-1] if match else ""


def _read(text: str, fraction: bool) -> Iterator[Mention]:
    """Numbers in figures; fractions too for answers that are written as one: elsewhere they are calculations."""
    yield from in_figures(text)
    if fraction:
        yield from as_fractions(text)


def _results(text: str, held: bool, number: Fraction) -> Iterator[Mention]:
    """Numbers in words; small ones, those that the prompt holds, and fractions only where they stand as a result."""
    for mention in written_out(text):
        price = text[mention.start : mention.start + 2].casefold() in ("a ", "an")  # "at $3 a dozen"
        told = mention.start in marked(text) or (mention.start in begun(text) and not price)
        if (told and _CLOSED.match(text, mention.end)) or not (held or stands_in_any_text(mention)):
            yield mention
    if number.denominator > 1:
        for mention in as_fractions(text):
            if mention.start in marked(text) and not _GOES_ON.match(text, mention.end):
                yield mention


def _states(text: str, mention: Mention, prompt: str, held: bool, numbering: int | None) -> bool:
    if _numbers_a_line(text, mention, numbering):
        return False
    if not held:
        return True
    if _OPERATOR.match(text, mention.end):
        return False
    if mention.start in begun(text) and _ALONE_BEHIND.match(text, mention.end):
        return True
    before = text[max(0, mention.start - 80) : mention.start]
    return mention.start in marked(text) and not _restated(before, text[mention.start : mention.end], prompt)


def _numbers_a_line(text: str, mention: Mention, numbering: int | None) -> bool:
    """Whether a number is that of a list's item: it begins a line, and is the first or follows the one before it."""
    before = text[max(0, mention.start - 20) : mention.start]
    if not (_LIST_MARK.match(text, mention.end) and _LINE_BEGINS.search(before)):
        return False
    return numbering is not None and numbering <= mention.start


def _numbering_begins(text: str, number: Fraction) -> int | None:
    """From where on ``number`` may number a line: behind the line that the number before it numbers."""
    if number == 1:
        return 0
    last = rf"(?:\A|\n)[^\S\n]*(?:\**step\s+|#+\s*|\()?{number - 1}[.):]"
    first = re.search(last, text, re.IGNORECASE)
    return None if first is None else first.end()


def _restated(before: str, mention: str, prompt: str) -> bool:
    """Whether the prompt says the same with the same words ("a = 3"): then it is read, not found out."""
    words = before.split()
    phrase = " ".join([*words[-2:], mention]) if before[-1:].isspace() else " ".join(words[-2:]) + mention
    return len(words) > 1 and phrase.casefold() in " ".join(prompt.split()).casefold()


def _find_words(text: str, answer: str, prompt: str) -> tuple[Span | None, bool]:
    pattern = _pattern(answer)
    formula = _FORMULA.search(answer) is not None
    letter, vague = len(answer) == 1, answer.casefold() in _VAGUE_WORDS
    held = letter or vague or pattern.search(prompt) is not None
    for match in pattern.finditer(text):
        if formula and is_negated(text, match.start()):
            continue
        before, after = text[max(0, match.start() - 80) : match.start()], text[match.end() : match.end() + 10]
        closed = re.match(r"[*)\]}\"']*\s*(?:[.,;:!?\n]|\Z)", after) is not None
        told = match.start() in marked(text) or not before.strip(" \n\t*$(\"'")
        if not held or (told and (closed or not (letter or vague))):
            return match.span(), True
        if not letter or (before.endswith("(") and after.startswith(")")):
            return None, False
    return None, True


def _pattern(answer: str) -> re.Pattern[str]:
    """Finds an answer that is no plain number: its words, or a formula however it is spaced and spelled."""
    parts = _tokens(answer) if _FORMULA.search(answer) else []
    if parts:
        between, spelled_parts = _BETWEEN, [_spelling(part) for part in parts]
    else:
        parts = answer.split() or [""]
        between, spelled_parts = r"\s+", [re.escape(part) for part in parts]
    left = r"(?<!\w)" if parts[0][:1].isalnum() else ""
    right = r"(?!\w)" if parts[-1][-1:].isalnum() else ""
    closing = re.search(r"(?<!\\)\}*\Z", answer)
    right += r"(?:\s*\})?" * (len(closing.group()) if closing else 0)
    return re.compile(left + between.join(spelled_parts) + right, 0 if len(answer) == 1 else re.IGNORECASE)


def _tokens(formula: str) -> list[str]:
    r"""Its pieces, without spaces and braces; "\frac12" is "\frac{1}{2}"."""
    apart = re.sub(r"(frac\s*\d)(?=\d)", r"\1 ", formula)
    return [token for token in _TOKEN.findall(apart) if token]


def _spelling(token: str) -> str:
    """Pattern for the ways to write a piece of a formula."""
    if token in _SPELLINGS:
        return _SPELLINGS[token]
    return re.escape(token) + (r"(?![a-zA-Z])" if token[0] == "\\" and token[-1].isalpha() else "")
