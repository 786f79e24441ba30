"""JSON lines that survive a kill: whole lines count, and a torn last line does not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reasoning_guard.cells import whole_characters
from reasoning_guard.history import plain


def line(record: Mapping[str, Any]) -> bytes:
    r"""Write a record as one line, with null for NaN and infinities, which JSON does not know.

    Example:
        >>> line({"a": [1.5, float("nan")]})
        b'{"a": [1.5, null]}\n'
    """
    return whole_characters(json.dumps(plain(record), allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_whole(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file. A last line that a kill cut short is left out; no file counts as an empty one."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(each) for each in whole.splitlines() if each.strip()]


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a file that ends in a whole line. When this returns, they are on the disk."""
    data = b"".join(map(line, records))
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def drop_torn(path: Path) -> None:
    """Cut off whatever follows the last whole line."""
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
