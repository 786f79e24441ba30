"""Replace a file in one go, so that nobody ever finds a part of it: not after a kill, not on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there. A reader finds the old content or the new.

    Args:
        path: The file; folders above it are made. What it held before is gone afterwards.
        data: The new content. When this returns, it is on the disk.

    Raises:
        OSError: The disk refused, or there is a folder in its place. The file is as it was, and nothing is beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # else the error would name the file beside it
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
