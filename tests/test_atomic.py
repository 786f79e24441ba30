from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from reasoning_guard.atomic import replace_file


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "kept.json"
    for content in (b"first\n", b"", "third: ½\n".encode()):
        replace_file(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["kept.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "kept.json"
    replace_file(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept.json"]


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"kept\.json'$"):
        replace_file(tmp_path / "kept.json", b"new")
    assert os.listdir(tmp_path) == ["kept.json"]
