"""Corrupters: put one wrong word into a step. They perturb a number, or turn round a comparison or a negation.

A corrupter is any callable that proposes alterations of a step, the preferred ones first, and none for a step that it
refuses. :func:`corrupt` is the default. It tries numbers, then comparisons, then negations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TRIES = 400
"""Alterations of one number that are proposed; a word-level vocabulary may lack most numbers."""

_DIGITS = 15
NUMBER = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,]\d)")
"""A whole number in running text: not the 2 of "x2", not the 18 of "18.5"."""

_OPPOSITES = (
    ("more", "fewer"), ("greater", "smaller"), ("larger", "smaller"), ("higher", "lower"), ("above", "below"),
    ("before", "after"), ("most", "least"), ("first", "last"), ("longer", "shorter"), ("older", "younger"),
    ("faster", "slower"), ("heavier", "lighter"), ("increases", "decreases"), ("increase", "decrease"),
    ("maximum", "minimum"), ("all", "none"), ("always", "never"), ("true", "false"), ("yes", "no"), ("even", "odd"),
)  # fmt: skip
_SIGNS = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "≤": "≥", "≥": "≤", "==": "!=", "!=": "=="}
_PAIRED = {one: other for pair in _OPPOSITES for one, other in (pair, pair[::-1])}
_TURNED = {"less": "more", **_SIGNS, **_PAIRED, "smaller": "larger"}
# Lone signs only: the "<<" and ">>" of GSM8K's calculator notes compare nothing.
_COMPARISON = re.compile(
    rf"\b(?:{'|'.join(word for word in _TURNED if word.isalpha())})\b|(?<![<>=!-])(?:[<>]=?|[≤≥]|[=!]=)(?![<>=])", re.I
)
_NEGATED = re.compile(
    r"\b(is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|must)"
    r"(?: not\b|n['\u2019]t\b|(?<=can)not\b)",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"\b(?:is|are|was|were|can|could|will|would|should|must)\b(?! not\b|n['\u2019]t)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Alteration:
    """A piece of a step's text, and what to put in its place.

    Attributes:
        start: First character of the piece, counted in the step.
        stop: One past its last character.
        text: What to write instead.
    """

    start: int
    stop: int
    text: str

    def applied(self, step: str) -> str:
        """Return the step's text with the alteration."""
        return step[: self.start] + self.text + step[self.stop :]


Corrupter = Callable[[str, random.Random], Iterator[Alteration]]
"""Proposes alterations of a step, the preferred ones first; none if the step cannot be altered."""


@dataclass(frozen=True, slots=True)
class Result:
    """The number that a step comes to.

    Attributes:
        start: Where it is first stated in the step. In GSM8K's ``<<48/2=24>>24`` that is inside the brackets.
        stop: One past the end of its last statement.
        text: The number as written.
    """

    start: int
    stop: int
    text: str


def result(step: str) -> Result | None:
    """Find the result of a step: its last number, with the place where it is first stated as the result.

    Args:
        step: The step's text.

    Returns:
        The result, or None if the step holds no number, or one of more than 15 digits.

    Example:
        >>> result("48/2 = <<48/2=24>>24 clips")
        Result(start=14, stop=20, text='24')
    """
    found = list(NUMBER.finditer(step))
    if not found or len(found[-1].group()) > _DIGITS:
        return None
    last = found[-1]
    start = next(m.start() for m in found if m is last or (m.group() == last.group() and _is_result(step, m.start())))
    return Result(start, last.end(), last.group())


def replace_number(text: str, old: str, new: str) -> str:
    """Replace every whole number in ``text`` that is written as ``old`` by ``new``.

    Example:
        >>> replace_number("24 + 240 = 2.24 or 24", "24", "26")
        '26 + 240 = 2.24 or 26'
    """
    return NUMBER.sub(lambda m: new if m.group() == old else m.group(), text)


def perturb_number(step: str, rng: random.Random) -> Iterator[Alteration]:
    """Change the last number of a step (in "a + b = c", the result) to a close one of like size.

    A result that is stated twice, as in GSM8K's ``<<48/2=24>>24``, is changed in both places.

    Args:
        step: The step's text.
        rng: Source of randomness, seeded by the problem's id so that every evaluation makes the same alteration.

    Yields:
        Alterations, in random order; nothing if the step holds no number, or one of more than 15 digits.

    Example:
        >>> next(perturb_number("b = 3 + 4 = 7 ;", random.Random(0)))
        Alteration(start=12, stop=13, text='10')
        >>> next(perturb_number("48/2 = <<48/2=24>>24 clips", random.Random(0)))
        Alteration(start=14, stop=20, text='26>>26')
    """
    stated = result(step)
    if stated is None:
        return
    for new in near_numbers(stated.text, rng):
        piece = replace_number(step[stated.start :], stated.text, new)
        yield Alteration(stated.start, stated.stop, piece[: len(piece) - (len(step) - stated.stop)])


def near_numbers(number: str, rng: random.Random) -> Iterator[str]:
    """Yield other numbers of like size, written alike (decimals, thousands separators), in random order."""
    whole, _, fraction = number.partition(".")
    value = int(whole.replace(",", "") or 0)
    size = max(3, min(value // 5, 10**_DIGITS))  # Python can't draw from a range of 2**63 and more
    near = range(-min(size, value), size + 1)
    for difference in rng.sample(near, min(len(near), _TRIES)):
        if difference:
            yield f"{value + difference:{',' if ',' in whole else ''}}" + (f".{fraction}" if fraction else "")


def flip_comparison(step: str, rng: random.Random) -> Iterator[Alteration]:
    """Turn a comparison round: "more" to "fewer", "<" to ">", "before" to "after".

    Example:
        >>> next(flip_comparison("Ann has more eggs.", random.Random(0)))
        Alteration(start=8, stop=12, text='fewer')
    """
    found = list(_COMPARISON.finditer(step))
    for match in rng.sample(found, len(found)):
        turned = _TURNED[match.group().lower()]
        yield Alteration(match.start(), match.end(), _as_written(match.group(), turned))


def flip_negation(step: str, rng: random.Random) -> Iterator[Alteration]:
    """Remove a "not", or insert one if there is none.

    Example:
        >>> next(flip_negation("So it is not a prime.", random.Random(0))).text
        'is'
        >>> next(flip_negation("So it is a prime.", random.Random(0))).text
        'is not'
    """
    negated, plain = list(_NEGATED.finditer(step)), list(_PLAIN.finditer(step))
    for match in rng.sample(negated, len(negated)):
        yield Alteration(match.start(), match.end(), match.group(1))
    for match in rng.sample(plain, len(plain)):
        yield Alteration(match.start(), match.end(), f"{match.group()} not")


def corrupt(step: str, rng: random.Random) -> Iterator[Alteration]:
    """The default corrupter: perturb the step's result, else turn round a comparison, else a negation.

    Example:
        >>> next(corrupt("Ann is older than Bob.", random.Random(0))).text
        'younger'
    """
    for corrupter in (perturb_number, flip_comparison, flip_negation):
        yield from corrupter(step, rng)


def _is_result(step: str, start: int) -> bool:
    return step[:start].rstrip().endswith("=")


def _as_written(old: str, new: str) -> str:
    return new.capitalize() if old[:1].isupper() else new
