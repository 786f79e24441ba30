"""What a reader sees of a text: invisible characters and markup left out, circled and boxed digits as digits."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20e3\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
"""Zero-width characters, soft hyphens, marks of direction and variation, and the box around an emoji's digit."""
_MARKUP = r"</?[a-zA-Z][\w-]{0,20}\s?/?>|<\|[^|<>\s]{1,40}\|>"
"""Tags and special tokens."""
_OTHERWISE = re.compile(
    rf"[{_UNSEEN}]+|{_MARKUP}|(?<=\d)(?:\{{\}}|\\!|\*\*\*\*)(?=\d)"
    r"|(?<!\w)_+(?=[^\W_])|(?<=[^\W_])_+(?!\w)"
    r"|(?P<circled>[①-⒛⓪⓫-⓿❶-➓㉑-㉟㊱-㊿])"
    r"|(?<![\w)\]}])(?P<raised>[⁰¹²³⁴-⁹]+|[₀-₉]+)"
)


@dataclass(frozen=True, slots=True)
class Legible:
    """A text as it is seen.

    Attributes:
        text: The text.
        places: Where each of its characters, and its end, stand in the text as it is written.
    """

    text: str
    places: tuple[int, ...]

    def written(self, start: int, end: int) -> tuple[int, int]:
        """Return where the characters ``start`` to ``end`` (at least one) stand in the text as it is written."""
        return self.places[start], self.places[end - 1] + 1


def legible(text: str) -> Legible | None:
    """Return ``text`` as it is seen, or None if that is how it is written.

    Example:
        >>> seen = legible("so 1\u200b8, _18_, ⑱ and <b>18</b>")
        >>> seen.text, seen.written(3, 5)
        ('so 18, 18, 18) and 18', (3, 6))
    """
    pieces: list[str] = []
    places: list[int] = []
    last = 0
    for match in _OTHERWISE.finditer(text):
        pieces += [text[last : match.start()], shown := _shown(match)]
        places += [*range(last, match.start()), *[match.start()] * len(shown)]
        last = match.end()
    if last == 0:
        return None
    return Legible("".join([*pieces, text[last:]]), (*places, *range(last, len(text) + 1)))


def _shown(match: re.Match[str]) -> str:
    """Return what stands for a match. A circled digit usually numbers a line, and is written like that."""
    if match["circled"]:
        return f"{int(unicodedata.numeric(match['circled']))})"
    return unicodedata.normalize("NFKC", match["raised"]) if match["raised"] else ""
