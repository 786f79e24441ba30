"""What guarding costs is said, logged, and kept under a limit."""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import runs
from reasoning_guard.cost import (
    FEWEST,
    Budget,
    Cost,
    affordable,
    announcement,
    extrapolated,
    nested,
    report,
    share_of_time,
    timed,
)
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.generation import Generator
from reasoning_guard.guard import Guard
from reasoning_guard.measuring import Measurer
from reasoning_guard.problems import load_problems


def _guard(n: int = 40, **options: Any) -> Guard:
    settings = {"format": runs.FORMAT, "max_new_tokens": 12, "progress": False, "reference": None, "probes": []}
    return Guard(runs.problems(n), runs.tokenizer(), **{**settings, **options})


def _made(problems: int, total: float, training: float = 0.0) -> Evaluation:
    rows = tuple(Row(id=f"p{i}", values={"tokens": 10.0}) for i in range(problems))
    return Evaluation(step=0, rows=rows, seconds={"total": total, "training": training})


@pytest.mark.parametrize(
    ("training", "skipped", "expected"),
    [
        (190, 0, 100),
        (189, 0, 0),
        (189, 2, 0),
        (189, 3, 99),
        (95, 3, 50),
        (83.6, 3, 44),
        (60.8, 3, 32),
        (60, 3, 0),
        (60, 9, 0),
        (190, 9, 100),
    ],
)
def test_the_interval_widens_fourfold_and_then_problems_leave(training: float, skipped: int, expected: int) -> None:
    found = affordable(_made(100, total=10.0), 100, training, skipped, 0.05)
    assert found == expected
    assert found * 10.0 / 100 <= 0.05 * (training + found * 10.0 / 100) + 1e-9


def test_problems_that_were_left_out_do_not_come_back() -> None:
    assert affordable(_made(50, total=5.0), 100, 1e6, 0, 0.05) == 50


def test_the_interval_widens_anew_after_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, made = Budget(load_problems(runs.problems(100)), 0.05), [_made(80, total=10.0)]
    assert budget.next_size([]) == 100
    assert budget.next_size(made) == 80, "a resumed run, whose clock has not begun"
    assert Budget(budget.problems, None).next_size(made) == 100
    budget.evaluated()
    monkeypatch.setattr(Budget, "training", lambda self: 95.0)
    assert [budget.next_size(made) for _ in range(8)] == [0, 0, 0, 40] * 2


def test_a_smaller_part_lies_within_every_larger_one_and_holds_each_set() -> None:
    problems = load_problems(
        [*runs.problems(30), *({**row, "set": "ood", "id": f"o {i}"} for i, row in enumerate(runs.problems(10)))]
    )
    parts = [nested(problems, count) for count in range(1, 41)]
    for smaller, larger in pairwise(parts):
        assert {p.id for p in smaller} <= {p.id for p in larger}
    assert parts[-1] == problems
    assert {p.set for p in parts[0]} == {"id", "ood"}, "sets are rounded up"
    assert {p.id for p in parts[19]} != {p.id for p in problems[:15] + problems[30:35]}, "the first are no fair part"
    assert [sum(p.set == name for p in parts[19]) for name in ("id", "ood")] == [15, 5]


def test_the_share_of_the_time() -> None:
    assert share_of_time([_made(1, 10.0), _made(1, 10.0, 80.0)]) == pytest.approx(0.2)
    assert Cost.of(_made(3, 6.0)) == Cost(problems=3, tokens=30, seconds=6.0)
    two = Evaluation(step=0, rows=tuple(Row(id=name, set=name, values={"tokens": 7.0}) for name in ("id", "ood")))
    assert Cost.of(two) == Cost(problems=2, tokens=14, seconds=0.0)
    assert timed(_made(1, 1.0), 5.0) == {"total": 1.0, "rest": 1.0, "training": 5.0}
    overlapping = Evaluation(step=0, seconds={"total": 1.0, "generation": 0.7, "scoring": 0.4})
    assert timed(overlapping, 5.0)["rest"] == 0


def test_what_it_will_cost_is_said_before_it_is_spent(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    complete, order = Generator.complete, []

    def noted(self: Generator, prompts: Any, label: str = "") -> Any:
        order.append((len(prompts), "will take" in capsys.readouterr().out))
        return complete(self, prompts, label)

    monkeypatch.setattr(Generator, "complete", noted)
    guard, model = _guard(40, progress=True, max_overhead=0.1), runs.writer()
    guard.evaluate(model, 0)
    whole = [said for prompts, said in order if prompts == 40]
    assert whole[0], "the first thing after the announcement is the evaluation itself"
    assert sum(said for _, said in order) == 1
    guard.evaluate(model, 1)
    assert "will take" not in capsys.readouterr().out


def test_long_times_are_written_out() -> None:
    assert "will take about 1,234 s" in announcement(Cost(problems=512, tokens=9, seconds=1234.4), None)
    assert "if there are 23,454 s of training" in announcement(Cost(problems=512, tokens=9, seconds=1234.4), None)
    long = Evaluation(step=0, seconds={"total": 4000.0, "generation": 999.7, "scoring": 999.4, "rest": 0.0123})
    assert report(long, [long]).startswith("step 0: 0 problems in 4,000 s (generation 1,000, scoring 999, rest 0.0123)")


def test_a_small_set_is_not_worth_a_probe(caplog: pytest.LogCaptureFixture) -> None:
    guard = _guard(FEWEST - 1)
    with caplog.at_level(logging.INFO, "reasoning_guard"):
        guard.evaluate(runs.writer(), 0)
    assert any("an evaluation of 31 problems" in message for message in caplog.messages)
    assert any("31 problems in" in message and "generation" in message for message in caplog.messages)


def test_seconds_by_part_add_up_and_are_logged() -> None:
    guard, model = _guard(16), runs.writer()
    for step in range(2):
        guard.evaluate(model, step)
    numbers = guard.scalars(guard.evaluations[-1])
    parts = [numbers[f"guard/seconds_{part}"] for part in ("generation", "scoring", "rest")]
    assert sum(parts) == pytest.approx(numbers["guard/seconds"])
    assert 0 < numbers["guard/time_share"] < 1


def test_under_a_limit_evaluations_are_left_out_and_then_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, model = _guard(64, max_overhead=0.5), runs.writer()
    baseline = guard.evaluate(model, 0)
    cost = baseline.seconds["total"]
    monkeypatch.setattr(Budget, "training", lambda self: 0.75 * cost)
    assert [guard.evaluate(model, step) for step in (1, 2, 3)] == [None] * 3
    narrowed = guard.evaluate(model, 4)
    ids = {row.id for row in narrowed.rows}
    assert FEWEST <= len(ids) <= 50
    assert ids < {row.id for row in baseline.rows}
    assert [e.step for e in guard.evaluations] == [0, 4]


def test_without_a_limit_every_evaluation_is_made() -> None:
    guard, model = _guard(16), runs.writer()
    assert all(guard.evaluate(model, step) is not None for step in range(3))


def test_a_limit_changes_no_weight(tmp_path: Path) -> None:
    trained = []
    for name, limit in (("free", None), ("limited", 0.05)):
        trainer = runs.plain_trainer(tmp_path / name, max_steps=4)
        callback = runs.guard(trainer, every=1, problems=runs.problems(FEWEST), max_overhead=limit, reference=None)
        trainer.train()
        trained.append((runs.weights(trainer), len(callback.guard.evaluations)))
    (free, all_made), (limited, some) = trained
    assert all_made == 5
    assert some < all_made
    assert not runs.differing(free, limited)


@pytest.mark.parametrize("limit", [0, 1, -0.1, 5])
def test_a_limit_is_a_share(limit: float) -> None:
    with pytest.raises(ConfigurationError, match="max_overhead"):
        _guard(16, max_overhead=limit)


def test_a_limit_does_not_go_with_selecting_the_best_model_by_our_values(tmp_path: Path) -> None:
    trainer = runs.plain_trainer(tmp_path, metric_for_best_model="eval_guard/info_gain")
    with pytest.raises(ConfigurationError, match="max_overhead"):
        runs.guard(trainer, max_overhead=0.05)


def test_what_two_small_readings_say_of_a_large_one() -> None:
    """By hand: a round of batches takes .9 s and a problem .1 s; written in two rounds, 32 problems take 5 s."""
    two, eight = Cost(problems=2, tokens=20, seconds=1.1), Cost(problems=8, tokens=80, seconds=1.7)
    assert extrapolated(two, eight, 32, rounds=2) == Cost(problems=32, tokens=320, seconds=5.0)


@pytest.mark.parametrize(("fewer", "more", "expected"), [(1.0, 3.0, 12.0), (0.1, 4.0, 16.0), (2.0, 1.0, 1.0)])
def test_a_noisy_clock_cannot_say_less_than_was_seen_nor_more_than_in_proportion(
    fewer: float, more: float, expected: float
) -> None:
    seen = Cost(problems=2, tokens=20, seconds=fewer), Cost(problems=8, tokens=80, seconds=more)
    assert extrapolated(*seen, 32).seconds <= expected
    assert extrapolated(*seen, 32).seconds >= more


def test_rounds_are_the_batches_that_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(runs.writer(), runs.tokenizer(), max_new_tokens=4, progress=False, token_budget=100)
    prompts = [tuple(runs.tokenizer()(row["prompt"])["input_ids"]) for row in runs.problems(20)]
    made, write = [], Generator._complete_batch
    monkeypatch.setattr(Generator, "_complete_batch", lambda *args: made.append(1) or write(*args))
    generator.complete(prompts)
    assert len(made) == generator.rounds(prompts) > 3


@pytest.mark.parametrize("n", [FEWEST, 128])
def test_the_announced_seconds_are_about_those_it_takes(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CPU seconds, which other work on the machine cannot stretch; seen were .4 to 1.8 times what it took."""
    monkeypatch.setattr("time.perf_counter", time.process_time)
    said: list[Cost] = []
    monkeypatch.setattr(Measurer, "_announce", lambda self, cost: said.append(cost))
    evaluation = _guard(n, probes=None, max_new_tokens=40).evaluate(runs.writer(), 0)
    assert said[0].problems == n
    assert said[0].tokens == pytest.approx(Cost.of(evaluation).tokens, rel=0.3)
    assert 1 / 4 < said[0].seconds / evaluation.seconds["total"] < 4
