"""A process dies inside the guard's evaluation: nothing hangs, the survivors say why, and the run can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dying_run
import runs
from own_process import run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
AT_ONCE = 20.0
"""Seconds; less than one is the rule. A survivor that waits for the dead does so for minutes."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dying")
    run_script(dying_run, folder, timeout=250)
    return folder


def _over(scene: Path) -> dict[str, Any]:
    return json.loads((scene / "over.json").read_text("utf-8"))


def _said(scene: Path, rank: int) -> str:
    return (scene / f"{rank}.said").read_text("utf-8")


def test_under_torchrun_the_run_is_over_at_once_and_it_is_said_who_died(scenes: Path) -> None:
    """The agent looks ten times a second and names one process: the killed one, or a survivor that gave up by then."""
    over = _over(scenes / "killed")
    assert over["seconds"] < AT_ONCE
    if "rank      : 1" in over["end"]:
        assert "Signal 9 (SIGKILL)" in over["end"]
    else:
        assert "rank      : 0" in over["end"]
        assert "LostProcessError: another process of this run is gone" in _said(scenes / "killed", 0)


def test_without_a_launcher_the_survivor_of_a_sharded_pass_ends_at_once_and_says_why(scenes: Path) -> None:
    over = _over(scenes / "sharded")
    assert over["end"] == [-9, 1]
    assert over["seconds"] < AT_ONCE
    assert "LostProcessError: a forward pass that all processes make together" in _said(scenes / "sharded", 1)


def test_who_lives_and_says_nothing_is_waited_for_and_then_given_up(scenes: Path) -> None:
    over = _over(scenes / "silent")
    assert over["end"] == [1, 1]
    assert over["seconds"] >= dying_run.SILENT
    assert f"not answered within 0:00:0{dying_run.SILENT:.0f}" in _said(scenes / "silent", 0)


def test_resumed_the_run_goes_on_from_its_baseline_and_history(scenes: Path) -> None:
    assert _over(scenes / "resumed")["end"] == [0, 0]
    left = (scenes / "killed" / "left.jsonl").read_bytes()
    path = scenes / "killed" / "run" / "reasoning_guard" / "evaluations.jsonl"
    assert left.count(b"\n") == 2
    assert path.read_bytes().startswith(left)
    assert runs.steps(runs.recorded(scenes / "killed" / "run")) == [0, 2, 4]
    resumed, other = (json.loads((scenes / "resumed" / f"{rank}.json").read_text("utf-8")) for rank in range(2))
    assert resumed == other
    assert runs.steps(resumed["evaluations"]) == [0, 2, 4]
