"""When two answers are the same, and where a reasoning first states the answer.

Mathematics goes to `math-verify <https://github.com/huggingface/Math-Verify>`_ when that is installed; plain numbers
and texts are compared here, so that the common cases do not depend on it.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_LONGEST_NUMBER = 200
"""Characters; a broken model writes digits without end, and Python refuses to read more than 4,300."""

_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALE = rf"(?P<scale>{'|'.join(_SCALES)})s?\b"
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
_WORD_NUMBERS = {
    **{word: Fraction(value) for value, word in enumerate(_UNITS.split())},
    **{word: Fraction(10 * value) for value, word in enumerate(_TENS.split(), start=3)},
    **dict.fromkeys(("once", "single"), Fraction(1)),
    **dict.fromkeys(("twice", "double", "pair", "couple", "both"), Fraction(2)),
    **dict.fromkeys(("thrice", "triple"), Fraction(3)),
    **{"dozen": Fraction(12), "half": Fraction(1, 2), "quarter": Fraction(1, 4), "thousand": Fraction(1000)},
}

_NO_UNIT = (
    r"and|or(?!\s+so)|to(?!\s+go)|plus|minus|squared|cubed|pi|[xyz]|half|halves|thirds?|(?:fif|six|seven|eigh|nin|ten|hundred|thousand"
    r"|million)ths?|january|february|march|april|may|june|july|august|september|october|november|december"
)
"""Words behind a number that make something else of it."""
_PLAIN_NUMBER = re.compile(
    r"(?:[a-z]\s*=\s*)?(?P<sign>[-+−]?)\s*[$€£¥]?\s*(?P<minus>-?)(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    rf"(?P<number>{_NUMBER})(?:\s*/\s*(?P<denominator>\d+))?\s*(?:{_SCALE})?"
    rf"(?:\s*[%°$€£]|\s+(?!(?:{_NO_UNIT})\b)(?P<unit>[^\W\d][^\d]*))?"
)
_MORE_BEHIND = re.compile(
    rf"\band\s+(?:(?:a|an|one)\s+)?(?:half|quarter|{'|'.join([*_UNITS.split(), *_TENS.split()])})\b"
)
_QUANTITIES = (
    "am pm", "mg g kg lb oz", "mm cm m km inch foot yard mile", "ml l", "ms s min h day week month year",
    "cent dollar euro pound",
)  # fmt: skip
_SHORT = {
    "milligram": "mg", "gram": "g", "kilogram": "kg", "kilo": "kg", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "kilometer": "km", "milliliter": "ml", "liter": "l", "second": "s", "sec": "s", "minute": "min",
    "hour": "h", "hr": "h", "inche": "inch", "feet": "foot", "ounce": "oz",
}  # fmt: skip
_QUANTITY_OF = {unit: quantity for quantity in _QUANTITIES for unit in quantity.split()}

_SPELLED = re.compile(
    rf"\b(?P<tens>twenty|{'|'.join(_TENS.split()[:-1])})(?:[-\s](?P<units>{'|'.join(_UNITS.split()[1:10])}))?\b"
    rf"|\b(?P<small>{'|'.join(_UNITS.split())})\b",
    re.IGNORECASE,
)
_PART_OF_A_NUMBER = re.compile(r"[-\s]*(?:hundred|thousand|million|billion|dozen|percent|[a-z]+th\b)", re.IGNORECASE)
_OFTEN_WRITTEN_OUT = 12
"""Words up to this one stand in any text ("in two steps")."""
_MENTION = re.compile(rf"(?<![\w.])(?<!\d,)(?:{_NUMBER})(?![\w]|\.\d|,\d{{3}})")
_SCALE_BEHIND = re.compile(rf"\s*{_SCALE}(?!-)", re.IGNORECASE)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
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
_CALCULATION = re.compile(r"(?:[\d\s,$€£()+*/×÷·^<=x−–-]|\.(?=\d))*=[\s$€£<(]*\Z")
_LIST_MARK = re.compile(r"[.):][^\S\n]+\S")
_LINE_BEGINS = re.compile(r"(?:\A|\n)[^\S\n]*(?:\**step\s+|#+\s*|\()?\Z", re.IGNORECASE)
_ALONE_BEFORE = re.compile(rf"(?:(?:\A|[;.!?\n]){_DECORATION}-?|\d\s+)\Z")
_ALONE_BEHIND = re.compile(r"[\s.,;:!*$)\]}]*(?:[.,;:!\n]|\Z)|\s*[^\W\d_]\w{0,2}\s*=")
_VAGUE_WORDS = frozenset({"yes", "no", "true", "false", "none"})


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
    one, other = _read_number(given), _read_number(reference)
    if one is not None and other is not None:
        return one.value == other.value and not one.differs_in_unit(other)
    return _math_verify_equal(_composed(given), _composed(reference))


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
    text = " ".join(_composed(text).casefold().split())
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = text.rstrip(" .,;:!?*$\"'`")
    return re.sub(r"\A(?:[ ,;:!?*$\"'`]|\.(?!\d))+", "", text)


def _composed(text: str) -> str:
    """``text`` in one Unicode form (NFKC), which by itself would write 2½ as 21/2 and 10² as 102."""
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"⁻?[⁰¹²³⁴-⁹]+", lambda power: "^" + power.group(), text)
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/")


def plain_number(text: str) -> Fraction | None:
    """Value of a text that is one plain number with at most a currency, a unit or a percent sign, else None.

    "50%" is 50, "3 million" is 3,000,000, "18 dollars" is 18, "1/2" is a half; "3 or 4", "3 and a half", "18th", "2x",
    "2 pi" and "5 May" are no plain numbers.

    Example:
        >>> plain_number("$1,234.50"), plain_number("-1/2"), plain_number("2x")
        (Fraction(2469, 2), Fraction(-1, 2), None)
    """
    found = _read_number(text)
    return None if found is None else found.value


class _Number(NamedTuple):
    value: Fraction
    unit: str

    def differs_in_unit(self, other: _Number) -> bool:
        """Whether both are amounts of the same quantity in different units; of units not known here nobody can tell."""
        return self.unit != other.unit and _QUANTITY_OF.get(self.unit, "") == _QUANTITY_OF.get(other.unit)


def _read_number(text: str) -> _Number | None:
    bare = _LATEX_FRACTION.sub(r" \1/\2", _composed(text)).casefold().lstrip(" *:$").rstrip(" .,;:!*$")
    match = _PLAIN_NUMBER.fullmatch(bare) if len(bare) <= _LONGEST_NUMBER else None
    if match is None or (match["denominator"] and not int(match["denominator"])):
        return None
    words = match["unit"] or ""
    if _MORE_BEHIND.search(words):
        return None
    value = Fraction(match["number"].replace(",", "")) / int(match["denominator"] or 1) + int(match["whole"] or 0)
    value *= _SCALES.get(match["scale"] or "", 1)
    negative = (match["sign"] in ("-", "−")) != bool(match["minus"])
    return _Number(-value if negative else value, _unit(words))


def _unit(words: str) -> str:
    """The first of the words behind a number, in short."""
    word = next(iter(re.findall(r"[^\W\d_]+", words.replace(".", ""))), "")
    word = re.sub(r"(?<=lit)re|(?<=met)re", "er", word)
    singular = word if word in _QUANTITY_OF else word.removesuffix("s")
    return _SHORT.get(singular, singular)


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
    read = _numbers_and_fractions if "/" in _composed(answer) or "frac" in answer else _numbers
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
    calculation, number = _CALCULATION.search(before), plain_number(answer)
    operands = _numbers(calculation.group()) if calculation else ()
    goes_on = _OPERATOR.match(behind) is not None or behind.lstrip().startswith("=")
    return goes_on or any(mention.value == number for mention in operands)


class _Mention(NamedTuple):
    start: int
    end: int
    value: Fraction


def _numbers(text: str) -> Iterator[_Mention]:
    for match in _MENTION.finditer(text):
        if len(match.group()) > _LONGEST_NUMBER:
            continue
        value, end = Fraction(match.group().replace(",", "")), match.end()
        if scale := _SCALE_BEHIND.match(text, end):
            value, end = value * _SCALES[scale["scale"].casefold()], scale.end()
        yield _signed(text, match.start(), end, value)
    for match in _VULGAR_FRACTION.finditer(text):
        if len(match.group()) > _LONGEST_NUMBER:
            continue
        value = Fraction(unicodedata.numeric(match["part"])).limit_denominator(10) + int(match["whole"] or 0)
        yield _signed(text, match.start(), match.end(), value)


def _numbers_and_fractions(text: str) -> Iterator[_Mention]:
    """Fractions too, which elsewhere are calculations: for answers that are written as one."""
    yield from _numbers(text)
    for match in _FRACTION.finditer(text):
        if len(match.group()) > _LONGEST_NUMBER or not int(under := match["under"] or match["below"]):
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


_SYMBOLS = frozenset({"sqrt", "sin", "cos", "tan", "log", "exp", "inf"})
_SUM_TO_A_POWER = re.compile(r"[)}\]]\s*\^\s*[{(]*\s*-?(?:\d{2,}|[5-9]|[^\W\d_])")
"""``(x+y+1)^{30}``: expanding it takes a computer algebra system for ever."""
_TOWER = re.compile(r"\^\s*(?:[({][^)}]*\^|-?\w+\s*\^)|!")


def _is_expression(text: str) -> bool:
    r"""Whether math-verify may read this: it takes words for products of letters and hangs on great powers."""
    bare = re.sub(r"\\[a-zA-Z]+", " ", text).replace("**", "^")
    words = {word.casefold() for word in re.findall(r"[^\W\d_]{3,}|(?<=\d)(?:st|nd|rd|th)\b", bare)}
    powers = math.prod(int(power) for power in re.findall(r"\^\s*[{(]*\s*-?(\d{1,9})", bare))
    return (
        len(text) <= 200
        and not words - _SYMBOLS
        and powers <= 10_000
        and not _TOWER.search(bare)
        and not _SUM_TO_A_POWER.search(bare)
    )


def _math_verify_equal(given: str, reference: str) -> bool:
    """math-verify's verdict; False where it can't read one of them or is not installed.

    Its timeouts are off, because they need signals, which only the main thread has; :func:`_is_expression` keeps from
    it what it could not finish.
    """
    if not (_is_expression(given) and _is_expression(reference)):
        return False
    try:
        from math_verify import parse, verify
    except ImportError:
        return False
    with _quiet("math_verify"):
        try:
            one, other = (parse(f"${text.strip(' $.')}$", parsing_timeout=None) for text in (given, reference))  # type: ignore[arg-type]
            return bool(one and other and verify(other, one, timeout_seconds=None))
        except Exception:  # a parser's failure is no verdict; texts and plain numbers have been compared already
            return False


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's logger below errors: math-verify announces every missing timeout."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
