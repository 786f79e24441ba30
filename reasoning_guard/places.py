"""Refuse places where results could not be written, before the work is done."""

from __future__ import annotations

import os
from pathlib import Path

from reasoning_guard.errors import ConfigurationError


def check_folder(path: Path, asked: str) -> None:
    """Refuse a folder that can't be made, because there is a file in its place or above it.

    Args:
        path: The folder; it need not be there yet.
        asked: The setting that names it, for the message.

    Raises:
        ConfigurationError: What stands there, and what to do.
    """
    file = next(filter(os.path.isfile, (path, *path.parents)), None)  # silent where the disk fails: no wrong place
    if file is not None:
        raise ConfigurationError(f"{asked} needs a folder, and {file} is a file; name another, or move it away")


def check_file(path: Path, asked: str) -> None:
    """Refuse a file that can't be written, because there is a folder in its place, or a file above it.

    Args:
        path: The file; it need not be there yet.
        asked: The setting that names it, for the message.

    Raises:
        ConfigurationError: What stands there, and what to do.
    """
    if os.path.isdir(path):
        raise ConfigurationError(f"{asked} needs a file, and {path} is a folder; name a file in it")
    check_folder(path.parent, asked)
