"""Two processes under Lightning: the numbers of one, and one decision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lightning_processes
import lightning_runs
import runs
from own_process import run_script


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The guard of the same run on one process."""
    guard = lightning_runs.guard(rules=[runs.FromStep(step=6)])
    lightning_runs.fit(tmp_path_factory.mktemp("one"), guard, model=lightning_processes.module(), max_epochs=4)
    return guard.guard


def start(folder: Path, *strategies: str) -> None:
    for name in strategies:
        (folder / name).mkdir()
    run_script(lightning_processes, folder, *strategies, timeout=170)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs under both strategies that start the script again on the second process."""
    folder = tmp_path_factory.mktemp("two")
    start(folder, "ddp", "faults", "fsdp")
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "guard" / "evaluations.jsonl").read_text("utf-8").splitlines()]


def assert_same(found: list[dict[str, Any]], expected: list[Any]) -> None:
    assert [record["step"] for record in found] == [evaluation.step for evaluation in expected]
    for record, evaluation in zip(found, expected, strict=True):
        assert record["failure"] is None
        rows = {row["id"]: row for row in record["rows"]}
        assert len(rows) == len(record["rows"]) == len(evaluation.rows)
        for row in evaluation.rows:
            assert rows[row.id]["completion"] == row.completion
            assert rows[row.id]["values"]["info_gain"] == pytest.approx(row.values["info_gain"], abs=1e-3)


def test_ddp_gives_the_numbers_of_one_process_and_both_stop(one: Any, folder: Path) -> None:
    """Gradients are summed in another order, so weights differ in their last bits after a step, not before."""
    assert_same(records(folder / "ddp"), one.evaluations[:4])
    for rank in (0, 1):
        said = json.loads((folder / "ddp" / f"rank-{rank}.json").read_text())
        assert said["guard"] == [0, 3, 6, 9]
        assert said["step"] == 9  # the alarm, at the second look from step 6 on, well before the end at 12
        assert said["info_gain"] == pytest.approx(one.evaluations[3].mean("info_gain"), abs=1e-3)
    assert len(list((folder / "ddp" / "best").iterdir())) == 1
    assert (folder / "ddp" / "guard" / "stopped-at-step-9.ckpt").exists()


def test_a_logger_and_a_disk_that_fail_on_the_main_process_keep_none_waiting(folder: Path) -> None:
    said = [json.loads((folder / "faults" / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0]["guard"] == [0, 3, 6, 9, 12]
    assert said[0]["step"] == 12
    assert said[0]["kept"] == "checkpoint-3.ckpt"


def test_sharded_models_give_the_same_numbers(one: Any, folder: Path) -> None:
    assert_same(records(folder / "fsdp"), one.evaluations)
    said = [json.loads((folder / "fsdp" / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1]


def test_spawned_processes_give_the_same_numbers(one: Any, tmp_path: Path) -> None:
    start(tmp_path, "ddp_spawn")
    assert_same(records(tmp_path / "ddp_spawn"), one.evaluations[:4])
    said = json.loads((tmp_path / "ddp_spawn" / "rank-0.json").read_text())  # the process that spawned the others
    assert said["info_gain"] == pytest.approx(one.evaluations[3].mean("info_gain"), abs=1e-3)
