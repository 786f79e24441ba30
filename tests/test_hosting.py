"""What every host does in the same way: errors, lines to show, names, sinks, and when an evaluation is due."""

from __future__ import annotations

from typing import Any

import pytest

from reasoning_guard.errors import ConfigurationError, HistoryError, LostProcessError
from reasoning_guard.hosting import check_name, is_due, safely, show, sinks_for_training


def failing(error: Exception) -> Any:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("kind", [ConfigurationError, HistoryError, LostProcessError])
def test_what_must_end_a_run_ends_it(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        safely(failing(kind("wrong")), "record")


def test_any_other_error_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    safely(failing(RuntimeError("boom")), "record")
    assert "training goes on" in caplog.text
    assert "Traceback" in caplog.text
    assert "boom" in caplog.text
    with pytest.raises(RuntimeError, match="boom"):
        safely(failing(RuntimeError("boom")), "raise")


@pytest.mark.parametrize("error", [OSError(5, "the terminal has gone"), ValueError("a closed stream")])
def test_a_line_that_goes_nowhere_is_no_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    show("a line", lambda _line: failing(error)())
    assert f"could not be printed: {error}" in caplog.text


def test_what_a_terminal_cannot_show_is_spelled_out() -> None:
    shown: list[str] = []

    def write(line: str) -> None:
        line.encode("ascii")
        shown.append(line)

    show("é: 1", write)
    assert shown == ["\\xe9: 1"]


def test_a_name_that_is_near_is_offered_and_else_all_that_there_are() -> None:
    known = {"guard/info_gain", "guard/accuracy"}
    check_name("guard/accuracy", "here", known)
    with pytest.raises(ConfigurationError, match=r"here: no evaluation .* did you mean 'guard/info_gain'"):
        check_name("guard/infogain", "here", known)
    with pytest.raises(ConfigurationError, match=r"there are .'guard/accuracy', 'guard/info_gain'"):
        check_name("nothing like it", "here", known)


def test_a_host_takes_back_its_own_sinks_alone() -> None:
    users, old, new = (type(name, (), {})() for name in ("Users", "Old", "New"))
    assert sinks_for_training([old, users], [old], [new]) == [users, new]


def test_an_evaluation_is_due_behind_every_multiple() -> None:
    assert is_due(3, 5, last=None)
    assert is_due(10, 5, last=6)
    assert is_due(6, 5, last=4)
    assert not is_due(4, 5, last=0)
    assert not is_due(9, 5, last=5)
