"""Texts that are one number, with its unit: in figures, as a fraction, with a scale, a currency or a percent sign."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

# Parts of patterns: a number in figures, and a scale behind it; and the words for numbers up to twenty and beyond.
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
LONGEST_NUMBER = 200
"""Characters; a broken model writes digits without end, and Python refuses to read more than 4,300."""

SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SCALE = rf"(?P<scale>{'|'.join(SCALES)})s?\b"
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
_NO_UNIT = (
    r"and|or(?!\s+so)|to(?!\s+go)|plus|minus|squared|cubed|pi|[xyz]|half|halves|thirds?|"
    r"(?:fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?|january|february|march|april|may|june|july|august|september|october|november|december"
)
"""Words behind a number that make something else of it."""
_QUANTITIES = (
    "am pm", "mg g kg lb oz", "mm cm m km inch foot yard mile", "ml l", "ms s min h day week month year",
    "cent dollar euro pound yen",
)  # fmt: skip
_SHORT = {
    "milligram": "mg", "gram": "g", "kilogram": "kg", "kilo": "kg", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "kilometer": "km", "milliliter": "ml", "liter": "l", "second": "s", "sec": "s", "minute": "min",
    "hour": "h", "hr": "h", "inche": "inch", "feet": "foot", "ft": "foot", "yd": "yard", "ounce": "oz",
    "$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "usd": "dollar", "eur": "euro",
}  # fmt: skip
_RATES = {"mph": "mile/h", "kph": "km/h", "kmh": "km/h"}
_QUANTITY_OF = {unit: quantity for quantity in _QUANTITIES for unit in quantity.split()}
GLUED_UNIT = r"(?:mg|kg|lbs?|oz|mm|cm|km|ft|ml|ms|mins?|secs?|hrs?|mph|kph|km/h|m/s|am|pm|usd|eur)[²³]?(?!\w)"
"""Units that may follow a number without a space; single letters may as well be symbols ("3m")."""
_PLAIN_NUMBER = re.compile(
    r"(?:[a-z]\s*=\s*)?(?P<sign>[-+−]?)\s*(?P<money>[$€£¥]?)\s*(?P<minus>-?)(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    rf"(?P<number>{NUMBER})(?:\s*/\s*(?P<denominator>\d+))?\s*(?:{SCALE})?"
    rf"(?:\s*(?:%|°(?:\s*[cf]\b)?|(?P<paid>[$€£¥]))"
    rf"|(?:\s+(?!(?:{_NO_UNIT})\b)|(?={GLUED_UNIT}))(?P<unit>[^\W\d][^\d]*(?:\^\s*\{{?[23]\}}?[^\d]*)?))?"
)
_NUMBER_WORD = "|".join([*UNITS.split(), *TENS.split(), "half", "quarter"])
_MORE_BEHIND = re.compile(rf"\b(?:and|or|times|by|over|point|minus|plus)\s+(?:(?:a|an|one)\s+)?(?:{_NUMBER_WORD})\b")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_WORD_OF_TWO = re.compile(r"[^\W\d_]{2}")
_RELATIVE = re.compile(r"(?<=[^\W\d_])\s+(?:who|which|that)\b.*", re.DOTALL)
_SENTENCES = (
    "is are was were be been being has have had should would could must cannot not never nor but because although "
    "though while whereas unless if maybe perhaps probably possibly versus vs it's that's"
)
"""Words that no unit holds: what they stand in says something about the number, or takes it back."""
_FORMULAS = (
    "sin cos tan cot csc log ln exp sqrt mod modulo factorial over by choose alpha beta gamma theta lambda phi sigma "
    "omega"
)
_IN_SENTENCES, _IN_FORMULAS = frozenset(_SENTENCES.split()), frozenset(_FORMULAS.split())
_LETTER_UNITS = frozenset("amglsh")
_LARGE_LETTER_UNIT = re.compile(r"\d\s+[CFVWJNK](?!\S)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_LATEX = (
    (re.compile(r"\{,\}|,\\!|(?<=\d)\\,(?=\d{3})"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|~"), " "),
    (re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*(?:\{\s*)?\\(?:circ|degree)\b(?:\s*\})?"), "°"),
    (re.compile(r"\\([$%])"), r"\1"),
)


def composed(text: str) -> str:
    """``text`` in one Unicode form (NFKC), which by itself would write 2½ as 21/2 and 10² as 102."""
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"⁻?[⁰¹²³⁴-⁹]+", lambda power: "^" + power.group(), text)
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/")


def without_latex(text: str) -> str:
    r"""``text`` with what LaTeX writes in its own way and everybody else without it: money, degrees, units, commas.

    Example:
        >>> without_latex(r"\$10,\!080"), without_latex(r"18\text{ cm}"), without_latex(r"90^\circ")
        ('$10,080', '18 cm', '90°')
    """
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


def without_marks(text: str, marks: str) -> str:
    """``text`` without any of ``marks`` at its end; but "!" right behind a number is its factorial.

    Example:
        >>> without_marks("nile!*", "!*"), without_marks("5!*", "!*")
        ('nile', '5!')
    """
    bare = text.rstrip(marks)
    is_factorial = text.startswith("!", len(bare)) and re.search(r"[\d)]\Z", bare) and not _WORD_OF_TWO.search(bare)
    return bare + "!" if is_factorial else bare


def plain_number(text: str) -> Fraction | None:
    """Value of a text that is one plain number with at most a currency, a unit or a percent sign, else None.

    "50%" is 50, "3 million" is 3,000,000, "18 dollars" is 18, "1/2" is a half; "3 or 4", "3 and a half", "18th", "2x",
    "2 pi" and "5 May" are no plain numbers.

    Example:
        >>> plain_number("$1,234.50"), plain_number("-1/2"), plain_number("2x")
        (Fraction(2469, 2), Fraction(-1, 2), None)
    """
    found = read_number(text)
    return None if found is None else found.value


class Number(NamedTuple):
    """A plain number.

    Attributes:
        value: Its value, with its fraction and its scale.
        unit: Its currency or the first word behind it, in short ("kg" for kilograms), with what it is counted by
            ("km/h"), or nothing.
    """

    value: Fraction
    unit: str

    def differs_in_unit(self, other: Number) -> bool:
        """Whether both are amounts of the same quantity in different units; of units not known here nobody can tell."""
        return any(map(_differ, self.unit.split("/"), other.unit.split("/")))


def read_number(text: str) -> Number | None:
    """What :func:`plain_number` reads, with its unit.

    Example:
        >>> read_number("2½ hours"), read_number("3 or 4")
        (Number(value=Fraction(5, 2), unit='h'), None)
    """
    bare = _bare(text) if len(text) <= 2 * LONGEST_NUMBER else ""
    match = _PLAIN_NUMBER.fullmatch(bare) if len(bare) <= LONGEST_NUMBER else None
    if match is None or (match["denominator"] and not int(match["denominator"])):
        return None
    words = re.sub(r"\b([ap])\.?\s?m\b", r"\1m", match["unit"] or "").replace(".", "")
    if words and not _is_unit(words, text):
        return None
    value = Fraction(match["number"].replace(",", "")) / int(match["denominator"] or 1) + int(match["whole"] or 0)
    value *= SCALES.get(match["scale"] or "", 1)
    negative = (match["sign"] in ("-", "−")) != bool(match["minus"])
    return Number(-value if negative else value, _unit(words, match["money"] or match["paid"] or ""))


def _bare(text: str) -> str:
    """``text`` without marks around it; a "$" before a number is money, one on both sides LaTeX."""
    plain = _LATEX_FRACTION.sub(r" \1/\2", without_latex(composed(text))).casefold()
    bare = without_marks(plain.lstrip(" *:"), " .,;:!*")
    while len(bare) > 1 and bare[0] == bare[-1] == "$":
        bare = without_marks(bare[1:-1].lstrip(" *:"), " .,;:!*")
    return re.sub(r"\A\$\s*(?=[^\W\d])", "", bare)


def _is_unit(words: str, text: str) -> bool:
    """Whether the words behind a number say what is counted: no sentence, no formula, no more of the number."""
    said = _WORD.findall(_RELATIVE.sub("", words))
    symbols = [word for word in said if len(word) == 1 and word not in _LETTER_UNITS]
    return bool(said) and not (
        _MORE_BEHIND.search(words)
        or any(word in _IN_SENTENCES or word.endswith(("n't", "n\u2019t")) for word in said)
        or said[0] in _IN_FORMULAS
        or said[-1] == "a"
        or (symbols and not _LARGE_LETTER_UNIT.search(text))
    )


def _unit(words: str, money: str) -> str:
    """The currency, or the first of the words behind a number, in short; and what it is counted by."""
    counted, _, by = re.sub(r"\s+(?:per|each|every|an?)\s+|\s*/\s*", "/", f" {words}", count=1).partition("/")
    unit = _SHORT[money] if money else _short(counted)
    return _RATES.get(unit, f"{unit}/{_short(by)}" if by else unit)


def _short(words: str) -> str:
    """The first word in short, with its power: "cm^2" for square centimetres."""
    found = re.search(r"(?:\b(sq(?:uare)?|cubic)\s+)?([^\W\d_]+)(?:\s*\^\s*\{?([23]))?", words)
    if found is None:
        return ""
    word = re.sub(r"(?<=lit)re|(?<=met)re", "er", found[2])
    singular = word if word in _QUANTITY_OF or word in _RATES else word.removesuffix("s")
    power = found[3] or {"c": "3", "s": "2"}.get((found[1] or " ")[0], "")
    return _SHORT.get(singular, singular) + (power and f"^{power}")


def _differ(one: str, other: str) -> bool:
    quantities = [_QUANTITY_OF.get(unit.partition("^")[0], place) for place, unit in enumerate((one, other))]
    return one != other and quantities[0] == quantities[1]
