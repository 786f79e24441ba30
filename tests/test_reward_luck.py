"""Lone lucky successes, and what the rollouts of a step say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reasoning_guard.rewards import (
    InfoGainReward,
    RolloutMonitor,
)
from reasoning_guard.rewards.lucky import Sample, luck
from reasoning_guard.rewards.monitor import GroupMonitor
from reward_tasks import SETTINGS, adder, batch, exercises, honest, some


@pytest.fixture(scope="module")
def model() -> Any:
    return adder()


def test_luck_is_a_lone_success_without_a_gain() -> None:
    def group(name: str, right: int, gain: float) -> list[Sample]:
        return [Sample(problem=name, right=i < right, gain=gain if i < right else math.nan) for i in range(8)]

    samples = group("guess", 1, 0.05) + group("found", 1, 2.0) + group("two", 2, 0.0) + group("unknown", 1, math.nan)
    found = luck(samples)
    one, two = math.sqrt(7), 2 * math.sqrt(3)
    assert (found.problems, found.lucky, found.groups) == (("guess",), (0,), 4)
    assert found.advantage == pytest.approx(one / (3 * one + two))
    assert luck([]).advantage == luck(group("all", 8, 0.0)).advantage == 0.0


def test_the_monitor_speaks_once_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    monitor = GroupMonitor()
    lucky = luck([Sample(problem="a", right=i == 0, gain=0.0) for i in range(8)])
    sound = luck([Sample(problem="a", right=i < 4, gain=2.0) for i in range(8)])
    for step in range(3):
        monitor.look(lucky, step)
    assert monitor.alert is not None
    assert (monitor.alert.since, monitor.alert.step, monitor.alert.open) == (0, 2, True)
    assert caplog.text.count("NOTICE lucky_success") == 1
    for step in range(3, 20):
        monitor.look(sound, step)
    assert not monitor.alert.open


def test_lucky_successes_can_be_withheld_from_all_rewards(model: Any) -> None:
    """Eight guesses, one right; and a second group whose chain is honest."""
    one, two = exercises(2)
    rows = batch(
        [(one, f"# {(one.answer + i) % 11}") for i in range(8)] + [(two, honest(two))] * 2 + [(two, "# 12")] * 6
    )
    calls = []

    def accuracy(completions: Any, solution: Any, **_: Any) -> list[float]:
        return [float(text.split()[-1] == answer) for text, answer in zip(completions, solution, strict=True)]

    gain = InfoGainReward(scorer=model, withhold_lucky=True, **SETTINGS)
    inner = gain._scorer.score_tree_groups
    gain._scorer.score_tree_groups = lambda groups: calls.append(1) or inner(groups)
    wrapped = gain.without_lucky(accuracy)
    given = wrapped(**rows), gain(**rows)
    assert wrapped.__name__ == "accuracy"
    assert [each[0] for each in given] == [None, None]
    assert given[0][1:] == accuracy(**rows)[1:]
    assert None not in given[1][1:]
    assert len(calls) == 1
    kept = InfoGainReward(scorer=model, **SETTINGS)
    assert kept(**rows)[0] == 0.0
    assert kept.monitor.latest is not None
    assert kept.monitor.latest.lucky == (0,)


def test_a_group_may_lie_on_two_processes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """This one has the second half of a group of eight; the other's four are wrong."""

    def gathered(mine: Any) -> Any:
        if not isinstance(mine[0], Sample):
            return list(mine), 0
        return [*(Sample(problem=each.problem, right=False) for each in mine), *mine], len(mine)

    monkeypatch.setattr("reasoning_guard.rewards.info_gain.gathered", gathered)
    [one] = exercises(1)
    rows = batch([(one, f"# {(one.answer + i) % 11}") for i in (3, 0, 1, 2)])
    gain = InfoGainReward(scorer=model, withhold_lucky=True, **SETTINGS)
    assert gain.lucky(**rows) == [False, True, False, False]
    assert gain(**rows) == [0.0, None, 0.0, 0.0]


def test_the_rollout_monitor_reports_what_the_probes_say_and_pays_nothing(model: Any) -> None:
    metrics: dict[str, float] = {}
    monitor = RolloutMonitor(scorer=model, every=2, **SETTINGS)
    assert monitor(**some(12), log_metric=metrics.__setitem__) == [0.0] * 12
    assert metrics["rollout/accuracy"] == 1.0
    assert metrics["rollout/placebo_gain"] > 1
    assert "rollout/mistake_changed" not in metrics
    metrics.clear()
    monitor(**some(12), log_metric=metrics.__setitem__)
    assert not metrics
