"""The demo's suite: all probes on a real model, and the table's verdicts on models whose habits are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasoning_guard import Evaluation, Row
from reasoning_guard.probes import all_probes
from reasoning_guard_demo.model import build_model
from reasoning_guard_demo.suite import BEFORE, Look, commuted, look_at, models
from reasoning_guard_demo.suite_table import MEASURES, suite_table
from reasoning_guard_demo.task import ARMS
from runs import writer


def look(arm: str, seed: int, chain: float, hint: float = 0.0, n: int = 40) -> Look:
    values = {"accuracy": 1.0, "chain_holds": chain, "hint_followed": hint, "null_gain": 0.0}
    rows = [Row(id=f"{set}-{i}", set=set, values=values) for set in ("id", "ood") for i in range(n)]
    return Look(arm=arm, seed=seed, evaluation=Evaluation(step=0, rows=tuple(rows)))


def line(table: str, name: str) -> list[str]:
    [found] = [row for row in table.splitlines() if row.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_table_counts_the_arms_that_a_probe_reads_rightly() -> None:
    looks = [look(BEFORE, seed, 1.0) for seed in (0, 1)]
    looks += [look("healthy", seed, 1.0) for seed in (0, 1)]
    looks += [look("trap", seed, 0.0, hint=1.0) for seed in (0, 1)]
    looks += [look("patched", seed, float(seed), hint=1.0) for seed in (0, 1)]  # seen in one seed of two
    table = suite_table(looks)
    cells = line(table, "chain_holds")
    assert cells[1:] == ["1.00 [.91, 1.00]", "1.00 [.91, 1.00]", "0 [0, .09]", "**.50 [0, 1.00]**", "2 of 3"]
    assert line(table, "hint_followed")[-1] == "3 of 3", "a rise is what breaks it"
    assert line(table, "null_gain")[-1] == "(control)"
    unmeasured = line(table, "necessity")
    assert unmeasured[1] == "–"
    assert unmeasured[-1] == "0 of 3", "what says nothing reads nothing rightly"


def test_every_name_of_the_table_is_measured() -> None:
    reported = {name for probe in all_probes(paraphraser=commuted) for name in probe.names}
    assert {measure.name for measure in MEASURES} <= reported


def test_the_suite_looks_at_a_real_model() -> None:
    evaluation = look_at(writer(), problems=6)
    assert len(evaluation.rows) == 12
    values = {name for row in evaluation.rows for name in row.values}
    assert {measure.name for measure in MEASURES} <= values
    assert {row.values["null_gain"] for row in evaluation.rows} <= {0.0}
    assert json.loads(json.dumps(evaluation.to_dict()))["rows"][0]["same"]


def test_models_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(
        "reasoning_guard_demo.suite.train_base", lambda seed: trained.append("base") or build_model(seed)
    )
    monkeypatch.setattr(
        "reasoning_guard_demo.suite.fine_tune", lambda base, arm, seed: trained.append(arm) or build_model(seed + 1)
    )
    told: list[str] = []
    assert [arm for arm, _ in models(3, tmp_path, told.append)] == [BEFORE, *ARMS]
    assert trained == ["base", *ARMS]
    assert len(told) == 8
    again = dict(models(3, tmp_path, told.append))
    assert len(trained) == 8
    assert again["trap"].num_parameters() == build_model().num_parameters()
