"""Files of other editors, lines that can't be read, and what is no row at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from in_fork import in_fork
from reasoning_guard.cli.app import main
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.format_file import read_format
from reasoning_guard.offline import load_effects, load_saved_traces, save_effects
from reasoning_guard.problems import load_problems
from reasoning_guard.rules import EFFECTS

GOOD = '{"question": "1?", "answer": "1", "completion": "#### 1"}'


def refusal(of: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        of()
    return str(refused.value)


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def nested(levels: int) -> str:
    return f'{{"question": "2?", "answer": "2", "completion": "#### 2", "more": {"[" * levels}{"]" * levels}}}'


def test_a_table_itself_is_refused_with_what_to_give_instead() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas comes with datasets, in the extras trl and demo")
    table = pandas.DataFrame([{"question": "?", "answer": "4", "completion": "#### 4"}])
    for load in (load_problems, load_saved_traces):
        assert 'table.to_dict("records")' in refusal(lambda load=load: load(table))


@pytest.mark.parametrize("load", [load_problems, load_saved_traces])
def test_a_byte_order_mark_is_no_part_of_the_text(load: Callable[[Path], Any], tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, encoding="utf-8-sig")
    plain = write(tmp_path / "plain.jsonl", GOOD)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert load(path) == load(plain)


def test_a_byte_order_mark_before_a_format_or_effects_is_none_of_theirs(tmp_path: Path) -> None:
    path = write(tmp_path / "format.json", '{"name": "mine", "cue": " #", "answer": "# (.+)"}', encoding="utf-8-sig")
    assert read_format(str(path)).name == "mine"
    save_effects(tmp_path / "e.json", EFFECTS)
    write(tmp_path / "e.json", (tmp_path / "e.json").read_text(), encoding="utf-8-sig")
    assert load_effects(tmp_path / "e.json") == EFFECTS


@pytest.mark.parametrize("load", [load_problems, load_saved_traces])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "2?", "answer": ' + "1" * 5000 + "}", "a number has too many digits to be read; write it as a"),
        (nested(100), "expected at most 100 lists and objects inside each other"),
        (nested(100_000), "expected at most 100 lists and objects inside each other"),
        ("[1]", "expected a JSON object; got list"),
        ('{"question"', "expected one JSON object a line"),
    ],
    ids=["digits", "deep", "deeper", "list", "torn"],
)
def test_a_line_that_cannot_be_read_is_named(load: Callable[[Path], Any], line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, "", line)
    assert f"rows.jsonl, line 3: {said}" in refusal(lambda: load(path))
    assert load(write(path, GOOD, nested(99)))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' + "1" * 5000 + "}"], ids=["deep", "digits"])
def test_a_format_or_effects_that_cannot_be_read_are_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "file.json", text)
    assert "expected one JSON object" in refusal(lambda: read_format(str(path)))
    assert "expected a JSON object" in refusal(lambda: load_effects(path))


def test_the_command_line_takes_lines_that_cannot_be_read_for_wrong_use(tmp_path: Path) -> None:
    for bad in (nested(2000), '{"id": ' + "1" * 5000 + "}"):
        write(tmp_path / "bad.jsonl", GOOD, bad)
        done = in_fork(main, ("score", "bad.jsonl", "--model", "nowhere"), tmp_path)
        assert done.code == 2, done.err
        assert "bad.jsonl, line 2: " in " ".join(done.err.split())
