"""What a user sees while the run goes on: the trainer's own record, and one line of the guard's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PrinterCallback, ProgressCallback

import runs
from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.sinks import one_line


def test_the_line_compares_the_problems_that_both_evaluations_read() -> None:
    before, now = (
        Evaluation(step=step, rows=tuple(Row(id=str(i), values={"accuracy": a, "info_gain": -0.001}) for i, a in found))
        for step, found in ((0, enumerate([1.0, 1.0, 0.0, 0.0])), (9, enumerate([1.0, 0.0])))
    )
    assert one_line(before, now) == "guard, step 9: accuracy 1.00 -> 0.50, info_gain 0.00"
    others = replace(now, rows=tuple(replace(row, id=f"other {row.id}") for row in now.rows))
    assert one_line(before, others) == "guard, step 9: accuracy 0.50, info_gain 0.00"


def printed(folder: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> tuple[Any, list[str]]:
    trainer = runs.sft_trainer(folder, max_steps=4, eval_strategy="steps", eval_steps=2, **settings)
    runs.guard(trainer, problems=runs.problems() + runs.problems(16, "ood"), reference=None, on_error="raise")
    capsys.readouterr()
    trainer.train()
    return trainer, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("bar", [False, True], ids=["printer", "progress bar"])
def test_an_evaluation_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], bar: bool) -> None:
    trainer, lines = printed(tmp_path, capsys, disable_tqdm=not bar)
    ours = [line for line in lines if line.startswith("guard, step")]
    assert [re.match(r"guard, step (\d+): accuracy", line)[1] for line in ours] == ["0", "2", "4"]  # type: ignore[index]
    assert all(len(line) < 250 for line in ours)
    assert not [line for line in lines if "guard/" in line]
    assert len([line for line in lines if "eval_loss" in line]) == 2, "the trainer's own numbers are still printed"
    assert len([line for line in lines if "'loss'" in line]) == 4
    assert len(runs.log(trainer, "eval_guard/accuracy")) == 3, "and every record is whole"
    printers = [c for c in trainer.callback_handler.callbacks if isinstance(c, PrinterCallback | ProgressCallback)]
    assert printers
    assert all("on_log" not in vars(printer) for printer in printers)


def test_the_line_names_sets_alerts_and_failures() -> None:
    def evaluation(step: int, right: float) -> Evaluation:
        values = {"accuracy": right, "info_gain": 1.0, "placebo_changed": 1 - right}
        rows = (Row(id="a", values=values), Row(id="b", set="ood", values={"accuracy": 1 - right}))
        return Evaluation(step=step, rows=rows, seconds={"total": 2.94})

    alerts = [Alert(key=k, rule=k, severity="alarm", step=9, since=9, open=k == "collapse") for k in ("collapse", "x")]
    assert one_line(evaluation(0, 0.0), evaluation(9, 1.0), alerts) == (
        "guard, step 9: accuracy 0.00 -> 1.00, accuracy (ood) 1.00 -> 0.00, info_gain 1.00, "
        "placebo_changed 1.00 -> 0.00, 2.9 s, ALARM collapse"
    )
    failed = Evaluation(step=9, failure="RuntimeError: out of memory")
    assert one_line(failed, failed) == "guard, step 9: the evaluation failed: RuntimeError: out of memory"
