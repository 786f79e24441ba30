"""Numbers in words: "eighteen", "one hundred and two", "three million"."""

from __future__ import annotations

import re

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
VALUES = {
    **{word: value for value, word in enumerate(UNITS.split())},
    **{word: 10 * value for value, word in enumerate(TENS.split()[:-1], start=3)},
}
"""Values of the words up to ninety."""
_GREAT = {"million": 10**6, "billion": 10**9, "trillion": 10**12}

# A number as it is said, built up; some models join its words by a hyphen that does not break (U+2011).
_JOINT, _THEN = r"[-\u2011\s]", r",?\s+(?:and\s+)?"
_ONES, _TEENS = "|".join(UNITS.split()[1:10]), "|".join(UNITS.split())
_UP_TO_99 = rf"(?:(?:twenty|{'|'.join(TENS.split()[:-1])})(?:{_JOINT}(?:{_ONES}))?|{_TEENS})\b"
_UP_TO_999 = rf"(?:(?:(?:an?|{_UP_TO_99}){_JOINT})?hundred\b(?:\s+(?:and\s+)?{_UP_TO_99})?|{_UP_TO_99})"
_UP_TO_A_MILLION = rf"(?:(?:(?:an?|{_UP_TO_999}){_JOINT})?thousand\b(?:{_THEN}{_UP_TO_999})?|{_UP_TO_999})"
_MILLIONS = rf"(?:an?|{_UP_TO_999}){_JOINT}(?:{'|'.join(_GREAT)})\b"
IN_WORDS = re.compile(
    rf"\b(?:{_MILLIONS}(?:{_THEN}{_MILLIONS})*(?:{_THEN}{_UP_TO_A_MILLION})?|{_UP_TO_A_MILLION})", re.IGNORECASE
)
"""A number in words, up to the trillions."""
_ORDINAL = r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]+teen|[a-z]+tie)th\b"
PART_OF_A_NUMBER = re.compile(
    rf"{_JOINT}*(?:hundred|thousand|million|billion|trillion|dozen|{_ORDINAL})|-(?:first|second|third)\b", re.IGNORECASE
)
"""What makes another number of the words before it."""


def value_in_words(words: str) -> int:
    """Return the value of what :data:`IN_WORDS` matches; "a hundred" is one hundred.

    >>> value_in_words("two million, three hundred thousand and five")
    2300005
    """
    millions = thousands = hundreds = 0
    for word in re.findall(r"[a-z]+", words.casefold()):
        if word in _GREAT:
            millions, hundreds = millions + _GREAT[word] * (hundreds or 1), 0
        elif word == "thousand":
            thousands, hundreds = 1000 * (hundreds or 1), 0
        elif word == "hundred":
            hundreds = 100 * (hundreds or 1)
        else:
            hundreds += VALUES.get(word, 0)
    return millions + thousands + hundreds
