"""Rewards on a model whose weights two processes share: the rewards of one, as many passes on both, and no hang."""

from __future__ import annotations

import json
from typing import Any

import pytest

import reward_sharded
from own_process import run_script
from reward_tasks import adder, batch

pytestmark = pytest.mark.timeout(300)  # the processes are started once; one that hangs ends itself much earlier

Saw = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def saw(tmp_path_factory: pytest.TempPathFactory) -> Saw:
    folder, scenarios = tmp_path_factory.mktemp("sharded"), ("policy", "broken", "reference", "grpo")
    run_script(reward_sharded, folder, 2, *scenarios, timeout=280, ACCELERATE_USE_CPU="true")
    return {
        name: [json.loads((folder / name / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
        for name in scenarios
    }


@pytest.mark.parametrize("kind", reward_sharded.REWARDS, ids=lambda kind: kind.name)
def test_the_policy_reads_its_shards_as_it_would_read_whole(kind: Any, saw: Saw) -> None:
    whole = reward_sharded.attached(kind, adder())(**batch(reward_sharded.written()))
    first, second = (process[kind.name]["given"] for process in saw["policy"])
    assert first[0] + second[0] == pytest.approx(whole, abs=1e-4)
    assert second[1] + first[1] == pytest.approx(whole, abs=1e-4)


def test_a_process_with_nothing_to_read_accompanies_the_other(saw: Saw) -> None:
    """In one turn each process has wrong answers alone, which InfoGain does not read."""
    first, second = (process["info_gain"] for process in saw["policy"])
    assert second["given"][0] == first["given"][1] == [0.0] * 12
    for name in saw["policy"][0]:
        one, other = (process[name]["calls"] for process in saw["policy"])
        assert one == other > 0


def test_a_failure_on_one_process_ends_the_call_on_both(saw: Saw) -> None:
    first, second = (process["said"] for process in saw["broken"])
    assert first == ["PeerError: process 1 failed: RuntimeError: the grader is away", 12]
    assert second == ["RuntimeError: the grader is away", 12]


def test_a_sharded_model_is_not_copied_and_a_whole_one_may_read(saw: Saw) -> None:
    for process in saw["reference"]:
        assert process["said"].startswith("ConfigurationError: info_gain: no frozen copy of the model can be made")
        assert "its weights are shared out among processes" in process["said"]
    given = saw["reference"][0]["given"] + saw["reference"][1]["given"]
    assert given == pytest.approx(saw["policy"][0]["info_gain"]["given"][0] + [0.0] * 12, abs=1e-4)


def test_grpo_trains_with_the_policys_own_reading_under_fsdp2(saw: Saw) -> None:
    for process in saw["grpo"]:
        assert process["sharded"]
        assert [record["step"] for record in process["log"][:-1]] == [1, 2]
        assert process["log"][0]["rewards/info_gain/mean"] > 0.1
        assert process["log"][0]["grad_norm"] > 0
