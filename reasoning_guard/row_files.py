"""Read rows from a JSONL file, or from anything that yields them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoning_guard.errors import ConfigurationError

DEEPEST = 100
"""Lists and objects inside each other that a line may hold; what walks through values must come to an end."""


def rows_of(source: Any) -> Iterator[Any]:
    """Return the rows of a source as they are.

    Args:
        source: The path of a ``.jsonl`` file, or an iterable of rows.

    Raises:
        ConfigurationError: The source is something else, or a line of the file is no JSON object; the message names the
            line.
    """
    if isinstance(source, str | os.PathLike):
        yield from _rows_of_file(Path(source))
    elif isinstance(source, Mapping):
        raise ConfigurationError(f"expected rows, got a mapping of {sorted(map(str, source))}; choose one split")
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):  # it would yield its columns' names
        raise ConfigurationError(
            f"expected rows, got a table ({type(source).__name__}) with the columns "
            f'{", ".join(map(repr, source.columns))}; give its rows: table.to_dict("records")'
        )
    elif not isinstance(source, Iterable):
        raise ConfigurationError(f"expected rows, problems or the path of a .jsonl file; got {type(source).__name__}")
    else:
        yield from source


def _rows_of_file(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise ConfigurationError(f"expected a .jsonl file; there is no file {str(path)!r}")
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield _row(f"{path}, line {number}", line)


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without the byte-order mark that some editors put first."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8, in which it must be saved: {error}") from error


def _row(where: str, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{where}: expected one JSON object a line; {error}") from error
    except ValueError as error:  # Python's limit, and its advice is for programs
        raise ConfigurationError(f"{where}: a number has too many digits to be read; write it as a text") from error
    except RecursionError as error:
        raise ConfigurationError(_too_deep(where)) from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{where}: expected a JSON object; got {type(row).__name__}")
    if _is_deep(row):
        raise ConfigurationError(_too_deep(where))
    return row


def _is_deep(row: Mapping[str, Any]) -> bool:
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        inside = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for items in inside for item in items]
        if not level:
            return False
    return True


def _too_deep(where: str) -> str:
    return f"{where}: expected at most {DEEPEST} lists and objects inside each other; leave out what nests deeper"
