"""The disk refuses, at each call that a guard makes to it: the run goes on, and what is on it stays whole."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runs
from reasoning_guard.guard import Guard
from reasoning_guard.history import History
from reasoning_guard.hosting import safely

CALLS: tuple[tuple[Any, str], ...] = (
    *((builtins, "open"), (os, "fsync"), (os, "replace")),
    *((Path, "mkdir"), (Path, "exists"), (Path, "read_bytes"), (Path, "read_text")),
)
"""Every way in which records are written or read."""


class Disk:
    """Counts calls, and is full at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.full_at = 0, -1
        for owner, name in CALLS:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if "reasoning_guard" in str(args[0]) or isinstance(args[0], int):  # a path of ours, or a file's number
                self.calls += 1
                if self.calls - 1 == self.full_at:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args, **kwargs)

        return counted


def _guard(folder: Path, **options: Any) -> Guard:
    settings = {"format": runs.FORMAT, "max_new_tokens": 4, "progress": False, "reference": None, "probes": []}
    rules = [runs.FromStep(step=1)]
    settings |= {"rules": rules, "patience": 1, "directory": folder / "reasoning_guard", **options}
    return Guard(runs.problems(2), runs.tokenizer(), **settings)


def _lived(folder: Path, model: Any, **options: Any) -> list[Guard]:
    """A run of two evaluations that is resumed for a third, as a host would."""
    guards = []
    for begins, steps in ((0, (0, 1)), (1, (2,))):
        guard = _guard(folder, **options)
        guard.prepare(model)
        safely(lambda guard=guard, begins=begins: guard.begin(begins), guard.on_error)
        for step in steps:
            guard.evaluate(model, step)
        guards.append(guard)
    return guards


@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
def test_a_disk_that_is_full_at_any_call_costs_a_record_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, disk = runs.writer(), Disk(monkeypatch)
    _lived(tmp_path / "whole", model)
    made = disk.calls
    assert made > 20
    assert [e.step for e in History(tmp_path / "whole" / "reasoning_guard").load()] == [0, 1, 2]
    for at in range(made):
        caplog.clear()
        disk.calls, disk.full_at = 0, at
        first, resumed = _lived(tmp_path / str(at), model)
        disk.full_at = -1
        assert all(e.failure is None for e in (*first.evaluations, *resumed.evaluations)), at
        assert first.alarms, "what the disk does not take is decided on all the same"
        kept = [e.step for e in History(tmp_path / str(at) / "reasoning_guard").load()]
        assert kept in ([0, 1, 2], [1, 2], [0, 2], [0, 1]), at
        assert "No space left on device" in caplog.text, at


def test_a_disk_that_is_full_at_any_call_can_be_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, disk = runs.writer(), Disk(monkeypatch)
    _lived(tmp_path / "whole", model, on_error="raise")
    for at in range(0, disk.calls, 5):
        monkeypatch.undo()
        full = Disk(monkeypatch)
        full.full_at = at
        with pytest.raises(OSError, match="No space left"):
            _lived(tmp_path / str(at), model, on_error="raise")


def test_a_record_that_cannot_be_written_at_all_does_not_stop_the_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise TypeError("not JSON serializable")

    monkeypatch.setattr(History, "append", refuse)
    guard, model = _guard(tmp_path), runs.untrained()
    for step in (0, 1):
        guard.evaluate(model, step)
    assert [alert.step for alert in guard.alarms] == [1]
    assert "could not be written: TypeError('not JSON serializable')" in caplog.text
