"""Twenty kills at random points of evaluation and saving: no record is lost or doubled, and the baseline is kept."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import killed_often
import runs
from own_process import run_script
from reasoning_guard.history import History

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
NOT_OURS_TO_REPEAT = ("created", "seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, made by another process from a seed that is printed."""
    folder, seed = tmp_path_factory.mktemp("killed_often"), int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    print(f"KILL_SEED={seed}")
    run_script(killed_often, folder, seed, timeout=350, about=f"KILL_SEED={seed}: ")
    return folder


@pytest.fixture(scope="module")
def kills(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "kills.json").read_text("utf-8"))


def _runs(folder: Path) -> Iterator[Path]:
    return folder.glob("run-*")


def _lasting(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in NOT_OURS_TO_REPEAT} for r in runs.recorded(folder)]


def test_twenty_kills_fall_into_evaluations_and_savings(kills: list[dict[str, Any]]) -> None:
    assert len(kills) == 20
    assert {kill["phase"] for kill in kills} == set(killed_often.PHASES)
    assert len({(kill["resumes_at"], tuple(kill["left"])) for kill in kills}) > 2


def test_no_record_is_lost_or_doubled(folder: Path) -> None:
    whole = _lasting(folder / "whole")
    assert runs.steps(whole) == [0, 2, 4, 6, 8, 10]
    for run in _runs(folder):
        assert _lasting(run) == whole, run.name
        assert runs.recorded(run, "alerts") == runs.recorded(folder / "whole", "alerts")
        assert len(History(run / "reasoning_guard").load()) == 6
        assert killed_often.last_whole_checkpoint(run) == run / "checkpoint-10"


def test_what_the_run_has_saved_stays_recorded(kills: list[dict[str, Any]]) -> None:
    """At each kill the disk holds each record up to the checkpoint once, and at most the one after it besides."""
    for kill in kills:
        assert kill["left"] == list(range(0, 2 * len(kill["left"]), 2)), kill
        assert not kill["resumes_at"] or kill["left"][-1] >= kill["resumes_at"], kill


def test_the_baseline_is_kept_to_the_byte(folder: Path, kills: list[dict[str, Any]]) -> None:
    """From the first checkpoint on; before it, a run that is started again is a new one."""
    kept = [kill for kill in kills if kill["resumes_at"]]
    assert kept
    for kill in kept:
        path = folder / kill["run"] / "reasoning_guard" / "evaluations.jsonl"
        assert path.read_text("utf-8").split("\n")[0] == kill["baseline"]
