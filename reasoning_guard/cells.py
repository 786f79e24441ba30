"""Read a cell of a table, whichever library made the table: it holds a text, several, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from reasoning_guard.errors import ConfigurationError

_EXACT = 2**53
"""From here on a float may stand for a neighbouring whole number, so its digits are not written out."""


def is_missing(value: Any) -> bool:
    """Say whether a cell is empty: None, NaN, or what pandas puts there.

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing("")
        (True, True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return _is_number(value) and bool(value != value)


def whole_number(value: Any) -> int | None:
    """Return a number without a fraction as int, whatever its type; None for anything else.

    A column of whole numbers becomes a column of floats as soon as one of its cells is empty.

    Example:
        >>> whole_number(10.0), whole_number(0.5), whole_number("10"), whole_number(True)
        (10, None, None, None)
    """
    if is_missing(value) or not _is_number(value):
        return None
    exact = isinstance(value, Integral) or (abs(value) < _EXACT and value == int(value))
    return int(value) if exact else None


def text_of(value: Any, what: str, number: int) -> str | None:
    """Return the text of a cell, or None if it is empty.

    Args:
        value: The cell. Numbers without a fraction are written without one.
        what: What it should hold, for errors.
        number: Its row, for errors.

    Raises:
        ConfigurationError: It holds something else, such as a list or True.

    Example:
        >>> text_of("Paris", "the answer", 0), text_of(10.0, "the answer", 0), text_of(float("nan"), "the answer", 0)
        ('Paris', '10', None)
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        return str(value)
    if _is_number(value):
        whole = whole_number(value)
        try:
            return str(value if whole is None else whole)
        except ValueError as error:
            raise ConfigurationError(f"row {number}: {what} is a number of too many digits; give a text") from error
    word = " with the word that stands for it, such as 'yes'" if type(value).__name__ in ("bool", "bool_") else ""
    raise ConfigurationError(
        f"row {number}: expected {what} as a text or a number; got {_shown(value)}. Give a text{word}"
    )


def texts_of(value: Any, what: str, number: int) -> tuple[str | None, ...]:
    """Return the texts of a cell that holds a list; none if it is empty.

    Args:
        value: The cell.
        what: What each entry of the list is, for errors.
        number: Its row, for errors.

    Raises:
        ConfigurationError: The cell or its list holds something else.

    Example:
        >>> texts_of(["Paris", 7.0], "option", 0), texts_of(None, "option", 0)
        (('Paris', '7'), ())
    """
    if is_missing(value) or (isinstance(value, str) and not value):
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigurationError(f"row {number}: expected the {what}s as a list of texts; got {_shown(value)}")
    return tuple(text_of(each, f"each {what}", number) for each in value)


def listed(value: Any) -> Any:
    """Turn an array into a list, as tables of other libraries keep lists; return anything else as it is."""
    array: Any = None if isinstance(value, str) or _is_number(value) else value
    return array.tolist() if getattr(array, "shape", None) is not None and hasattr(array, "tolist") else value


def content_of(content: Any) -> str:
    """Return the text of a chat message; of a message in parts (multimodal chats), all text parts joined.

    >>> content_of([{"type": "image"}, {"type": "text", "text": "2 + 2 = 4"}]), content_of(None)
    ('2 + 2 = 4', '')
    """
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def content_behind(text: str, content: Any) -> Any:
    """Return the content of a chat message with ``text`` put before it; content in parts gets one more part.

    >>> content_behind("Hint. ", "2 + 2?"), content_behind("Hint. ", [{"type": "image"}])
    ('Hint. 2 + 2?', [{'type': 'text', 'text': 'Hint. '}, {'type': 'image'}])
    """
    return text + content if isinstance(content, str) else [{"type": "text", "text": text}, *content]


def whole_characters(value: Any) -> Any:
    r"""Replace half characters by U+FFFD in texts, also inside lists and mappings.

    JSON can hold half an emoji ("\ud83d"), when a text was cut between its two surrogates. No tokenizer takes it, and
    no UTF-8 file can hold it.

    Example:
        >>> whole_characters(["cut \ud83d", {"a": "whole \U0001f600"}]) == ["cut \ufffd", {"a": "whole \U0001f600"}]
        True
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, Mapping):
        return {whole_characters(key): whole_characters(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole_characters(each) for each in value]
    return tuple(map(whole_characters, value)) if isinstance(value, tuple) else value


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real | Decimal)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:79] + '…'}"
