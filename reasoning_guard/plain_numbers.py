"""Read texts that are one number with its unit: figures, a fraction, a scale, a currency or a percent sign."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from reasoning_guard.number_words import IN_WORDS, TENS, UNITS, value_in_words

# Parts of patterns: a number in figures, and a scale behind it.
NUMBER = r"(?:\d{1,3}(?:(?:,(?:\\!)?|\{,\}|\\,|[\u00a0\u2009\u202f])\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
LONGEST_NUMBER = 200
"""Characters; a broken model writes digits without end, and Python refuses to read more than 4,300."""

SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SCALE = rf"(?P<scale>{'|'.join(SCALES)})s?\b"
_NO_UNIT = (
    r"and|or(?!\s+so)|to(?!\s+go)|plus|minus|squared|cubed|pi|[eiqrxyz](?!-[a-z]{2})|half|halves|thirds?|"
    r"sin|cos|tan|ln|log(?=\s*[\d(])|sqrt|mod|choose|factorial|"
    r"(?:fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?|january|february|march|april|may|june|july|august|september|october|november|december"
)
"""Words behind a number that make something else of it; "3 x" is a product, "3 x-rays" are things."""
_NO_AMOUNT = rf"(?:{_NO_UNIT})\b|π|[^\W\d_m]\s*\^"
"""What makes something else of a number: such a word, or a symbol's power; of single letters only metres have one."""
GLUED_UNIT = (
    r"(?:m?g|kg|lbs?|oz|mm|cm|km|ft|ml|ms|mins?|secs?|hrs?|mph|kph|am|pm|(?:kilo|milli)?grams?|"
    r"(?:kilo|centi|milli)?met(?:er|re)s?|(?:milli)?lit(?:er|re)s?|miles?|feet|foot|inch(?:es)?|yards?|pounds?|ounces?|"
    r"seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|euros?|percent|degrees?)(?!\w)"
)
"""Units that may follow a number without a space; a single letter but "g" may as well be a symbol ("3m")."""
_PLAIN_NUMBER = re.compile(
    r"(?:[a-z]\s*=\s*)?(?P<sign>[-+−]|–(?=[\d.$€£¥]))?\s*(?P<money>[$€£¥]?)\s*(?P<minus>[-−]?)(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    rf"(?P<number>{NUMBER})(?:\s*/\s*(?P<denominator>\d+))?\s*(?:{SCALE})?"
    rf"(?:\s*(?:%|°(?:\s*(?P<degrees>[cf])\b)?|(?P<paid>[$€£¥]))"
    rf"|(?:\s+(?!{_NO_AMOUNT})|\s*/\s*(?!{_NO_AMOUNT})(?=[^\W\d]{{2}})|(?={GLUED_UNIT}))"
    r"(?P<unit>[^\W\d]\D*(?:\^\s*\{?[23]\}?\D*)?))?"
)
_MORE_BEHIND = re.compile(
    rf"\band\s+(?:(?:a|an|one)\s+)?(?:half|quarter|{'|'.join([*UNITS.split(), *TENS.split()])})\b"
)
_QUANTITIES = (
    "am pm", "mg g kg lb oz", "mm cm m km inch foot yard mile", "ml l", "ms s min h day week month year",
    "cent dollar euro pound yen", "celsius fahrenheit",
)  # fmt: skip
_SHORT = {
    "milligram": "mg", "gram": "g", "kilogram": "kg", "kilo": "kg", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "kilometer": "km", "milliliter": "ml", "liter": "l", "second": "s", "sec": "s", "minute": "min",
    "hour": "h", "hr": "h", "inche": "inch", "feet": "foot", "ounce": "oz",
}  # fmt: skip
_QUANTITY_OF = {unit: quantity for quantity in _QUANTITIES for unit in quantity.split()}
_SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "c": "celsius", "f": "fahrenheit"}
"""Units that a sign stands for, or the letter behind the one for degrees."""
_LATEX = (
    (re.compile(r"\\[,;: ()\[\]]|~"), " "),
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*\{?\s*\\circ\b\s*\}?"), "°"),
    (re.compile(r"\\([$%])"), r"\1"),
)
"""What LaTeX writes in its own way, and how everybody else does."""
_FORMULA_FIRST = re.compile(r"\A\$([^$]+)\$(?=\s*[^\W\d])")
"""``$18$ dollars``."""
LATEX_FRACTION = r"\\[dt]?frac\s*(?P<above>\{\d+\}|\d)\s*(?P<below>\{\d+\}|\d(?!\d))"
_LATEX_FRACTION = re.compile(LATEX_FRACTION)
_SPACED_GROUPS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?!\d|\s*/)")
"""``80 000``."""
_SAID_TWICE = re.compile(r"(.*\S)\s*\(([^()]+)\)")
"""``18 (eighteen)``."""


def composed(text: str) -> str:
    """Return ``text`` with plain hyphens and in NFKC form, which alone would make 21/2 of 2½ and 102 of 10² and 10₂."""
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"(?<=\d)[₀-₉]+", r"_\g<0>", text)
    text = re.sub(r"(⁻?)([⁰¹²³⁴-⁹]+)", lambda power: f"^{{-{power[2]}}}" if power[1] else f"^{power[2]}", text)
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2010", "-")


def plain_number(text: str) -> Fraction | None:
    """Return the value of one plain number with at most a currency, a unit or a percent sign, else None.

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
        units: Its currency and the first word behind it, abbreviated ("kg" for kilograms), as far as there are any.
    """

    value: Fraction
    units: frozenset[str] = frozenset()

    def differs_in_unit(self, other: Number) -> bool:
        """Say whether both are amounts of the same quantity in different units; False for units not known here."""
        mine, others = _by_quantity(self.units), _by_quantity(other.units)
        return any(mine[quantity].isdisjoint(others[quantity]) for quantity in mine.keys() & others.keys())


def figures(number: str) -> Fraction:
    """Return the value of what :data:`NUMBER` matches."""
    return Fraction(re.sub(r"[^\d.]", "", number))


def read_number(text: str) -> Number | None:
    """Read what :func:`plain_number` reads, with its units.

    Example:
        >>> read_number("2½ hours"), read_number("3 or 4")
        (Number(value=Fraction(5, 2), units=frozenset({'h'})), None)
    """
    bare = _bare(text) if len(text) <= 2 * LONGEST_NUMBER else ""
    if len(bare) > LONGEST_NUMBER:
        return None
    if twice := _SAID_TWICE.fullmatch(bare):
        one, other = map(read_number, twice.groups())
        return one if one is not None and other is not None and one.value == other.value else None
    match = _PLAIN_NUMBER.fullmatch(_in_figures(_SPACED_GROUPS.sub(lambda m: m.group().replace(" ", ""), bare)))
    if match is None or (match["denominator"] and not int(match["denominator"])):
        return None
    words = match["unit"] or ""
    if _MORE_BEHIND.search(words):
        return None
    value = figures(match["number"]) / int(match["denominator"] or 1) + int(match["whole"] or 0)
    value *= SCALES.get(match["scale"] or "", 1)
    negative = (match["sign"] in ("-", "−", "–")) != bool(match["minus"])
    sign = match["money"] or match["paid"] or match["degrees"] or ""
    return Number(-value if negative else value, frozenset({_SIGNS.get(sign, ""), _unit(words)} - {""}))


def _in_figures(bare: str) -> str:
    """``bare`` in figures, where it is nothing but a number in words, perhaps with a unit that is known here."""
    match = IN_WORDS.match(bare)
    rest = bare[match.end() :] if match else ""
    if match is None or (rest and not (re.fullmatch(r"\s+[a-z]+", rest) and _unit(rest) in _QUANTITY_OF)):
        return bare
    return f"{value_in_words(match.group())}{rest}"


def _by_quantity(units: frozenset[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for unit in units & _QUANTITY_OF.keys():
        found.setdefault(_QUANTITY_OF[unit], set()).add(unit)
    return found


def _bare(text: str) -> str:
    """``text`` without LaTeX and the marks around it; a "$" before a number is money, one on both sides is LaTeX."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    told = _LATEX_FRACTION.sub(lambda m: f" {m['above'].strip('{}')}/{m['below'].strip('{}')}", composed(text))
    bare = told.casefold().lstrip(" *:").rstrip(" .,;:!*")
    bare = _FORMULA_FIRST.sub(r"\1", bare)
    while len(bare) > 1 and bare[0] == bare[-1] == "$":
        bare = bare[1:-1].lstrip(" *:").rstrip(" .,;:!*")
    return re.sub(r"\A\$\s*(?=[^\W\d])", "", bare)


def _unit(words: str) -> str:
    """The first of the words behind a number, in short; of degrees, whose."""
    said: list[str] = re.findall(r"[^\W\d_]+", words.replace(".", ""))
    if said[1:] and said[0] in ("degree", "degrees"):
        said = [_SIGNS.get(said[1], said[1])]
    word = re.sub(r"(?<=lit)re|(?<=met)re", "er", "".join(said[:1]))
    singular = word if word in _QUANTITY_OF else word.removesuffix("s")
    return _SHORT.get(singular, singular)
