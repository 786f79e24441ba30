"""Real processes: one evaluation and one decision, however many they are, and none that waits for one that failed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import distributed_run
from own_process import run_script

Saw = list[dict[str, Any]]
pytestmark = pytest.mark.timeout(600)  # a fixture starts processes; whichever of them hangs ends itself much earlier


def _launched(folder: Path, size: int, *scenarios: str, launcher: tuple[str, ...] = ()) -> dict[str, Saw]:
    """What each process saw, by scenario; a process that hangs ends itself and says where it stood."""
    run_script(distributed_run, folder, size, *scenarios, timeout=400, launcher=launcher)
    return {
        name: [json.loads((folder / name / f"{rank}.json").read_text("utf-8")) for rank in range(size)]
        for name in scenarios
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds."""
    return distributed_run.whole(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saw]:
    scenarios = ("whole", "fsdp", "fsdp_broken", "broken_part", "refused_file", "stop", "no_stop", "beside")
    return _launched(tmp_path_factory.mktemp("two"), 2, *scenarios)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saw]:
    return _launched(tmp_path_factory.mktemp("three"), 3, "whole", "fsdp")


@pytest.fixture(scope="module")
def accelerated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saw]:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    return _launched(tmp_path_factory.mktemp("launch"), 2, "ddp", "fsdp_training", launcher=launcher)


def _same(found: Any, expected: Any) -> None:
    """Equal, and numbers within what the order of a sum may change."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            _same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _same(one, other)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-4)
    else:
        assert found == expected


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_one_process_has_something_to_share(alone: dict[str, Any]) -> None:
    rows = alone["evaluation"]["rows"]
    assert alone["share"] == len(rows) == 11
    assert len({row["answer"] for row in rows}) > 3
    assert sum(row["values"]["placebo_gain"] is not None for row in rows) > 3
    assert sum(row["values"]["mistake_changed"] is not None for row in rows) > 0


def test_two_and_three_processes_find_what_one_finds(
    alone: dict[str, Any], two: dict[str, Saw], three: dict[str, Saw]
) -> None:
    for saw in (two["whole"], three["whole"]):
        for process in saw:
            _same(process["evaluation"], _plain(alone["evaluation"]))
    assert [process["share"] for process in two["whole"]] == [6, 5]
    assert [process["share"] for process in three["whole"]] == [4, 4, 3]


@pytest.mark.parametrize("scenario", ["ddp", "fsdp_training"])
def test_under_accelerate_launch_all_processes_hold_the_same(scenario: str, accelerated: dict[str, Saw]) -> None:
    first, other = accelerated[scenario]
    assert first["sharded"] == (scenario == "fsdp_training")
    assert [e["step"] for e in first["evaluations"]] == [0, 2, 4]
    assert all(e["failure"] is None and len(e["rows"]) == 11 for e in first["evaluations"])
    assert other == first


def test_training_reads_the_same_whole_or_sharded(accelerated: dict[str, Saw]) -> None:
    whole, sharded = (accelerated[scenario][0]["evaluations"] for scenario in ("ddp", "fsdp_training"))
    _same(sharded[0], whole[0])


def test_the_main_process_decides_for_all(two: dict[str, Saw]) -> None:
    stopped, other = two["stop"]
    assert stopped["step"] == other["step"] == 4
    assert stopped["stop_reason"] == other["stop_reason"] is not None
    for process in two["no_stop"]:
        assert process["step"] == 4
        assert process["alerts"] == []


def test_what_fails_beside_the_guard_on_the_main_process_leaves_all_in_step(two: dict[str, Saw]) -> None:
    main, other = two["beside"]
    assert main == other
    assert main["logged"] == [e["step"] for e in main["evaluations"]] == [0, 2, 4, 6]
    assert main["step"] == 6
    assert main["kept"] == "checkpoint-2", "the one before the last from before the alarm"


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("way", ["shared", "independent"])
def test_a_sharded_model_is_read_like_a_whole_one(
    size: int, way: str, alone: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    processes = request.getfixturevalue({2: "two", 3: "three"}[size])["fsdp"]
    for process in processes:
        _same(process[way]["evaluation"], _plain(alone["evaluation"]))
    assert len({process[way]["calls"] for process in processes}) == 1


@pytest.mark.slow
def test_under_zero3_the_numbers_are_those_of_the_whole_model(alone: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="ZeRO-3 is DeepSpeed's; `pip install deepspeed` to run this")
    one, other = _launched(tmp_path, 2, "zero3")["zero3"]
    assert one == other, "evaluation and number of passes agree"
    assert one["held"] == 0, "no process holds a parameter outside of a pass"
    _same(one["evaluation"], _plain(alone["evaluation"]))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("part", distributed_run.PARTS)
def test_a_process_that_fails_takes_none_along(part: str, rank: int, two: dict[str, Saw]) -> None:
    one, other = (process[f"{part} on {rank}"] for process in two["broken_part"])
    assert one == other
    failure, afterwards = (e["failure"] for e in one["evaluations"])
    assert afterwards is None
    if part in distributed_run.EVALUATING:
        assert "broken on purpose" in failure
    else:
        assert failure is None
    assert one["kept"] == ([1] if (part, rank) == ("records", 0) else [0, 1])


def test_a_file_that_is_refused_is_looked_at_by_the_process_that_speaks(two: dict[str, Saw]) -> None:
    """Another that ended by itself would have the launcher end the first before it has said why."""
    first, other = two["refused_file"]
    assert [first["looked"], other["looked"]] == [1, 0]
    assert "exists and holds no scores of ours" in first["said"]
    assert "exists and holds no scores of ours" in other["said"]


def test_sharded_a_failure_beside_the_model_or_on_all_is_recorded(two: dict[str, Saw]) -> None:
    for process in two["fsdp_broken"]:
        beside, on_all, afterwards = process["failures"]
        assert "process 1 failed" in beside
        assert "broken on purpose" in on_all
        assert afterwards is None


@pytest.mark.slow
def test_sharded_a_failure_inside_a_pass_ends_the_process_in_bounded_time(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="LostProcessError"):
        _launched(tmp_path, 2, "fsdp_torn")
