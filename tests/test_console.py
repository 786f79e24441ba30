"""What a user sees while the run goes on: the trainer's own record, and one line of the guard's."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PrinterCallback, ProgressCallback
from trl import RichProgressCallback

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
    runs.guard(trainer, problems=_two_sets(), reference=None, on_error="raise")
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


def test_each_of_two_guards_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = runs.sft_trainer(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2)
    first = runs.guard(trainer, reference=None, on_error="raise")
    runs.guard(trainer, reference=None, on_error="raise", directory=tmp_path / "second", problems=_two_sets())
    capsys.readouterr()
    trainer.train()
    assert _said(capsys) == [(0, False), (0, True), (2, False), (2, True)]
    trainer.remove_callback(first)
    trainer.train()
    assert _said(capsys) == [(0, True), (2, True)]
    assert not [c for c in trainer.callback_handler.callbacks if "on_log" in vars(c)]


def test_a_guard_in_the_place_of_an_interrupted_one_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(state: Any, _: Any) -> None:
        if state.global_step == 1:
            raise KeyboardInterrupt

    trainer = runs.sft_trainer(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2)
    first, spy = runs.guard(trainer, reference=None), runs.Spy("on_step_begin", interrupt)
    trainer.add_callback(spy)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    for each in (spy, first):
        trainer.remove_callback(each)
    runs.guard(trainer, reference=None, problems=_two_sets())
    capsys.readouterr()
    trainer.train()
    assert _said(capsys) == [(0, True), (2, True)]


def _two_sets() -> list[dict[str, str]]:
    return runs.problems() + runs.problems(16, "ood")


def _said(capsys: pytest.CaptureFixture[str]) -> list[tuple[int, bool]]:
    """The guards' lines: their step, and whether they name a second set."""
    lines = re.findall(r"guard, step (\d+): (.*)", capsys.readouterr().out)
    return [(int(step), "(ood)" in rest) for step, rest in lines]


@pytest.mark.parametrize("evaluating", [False, True])
def test_a_notebook_shows_one_line_and_no_column_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, evaluating: bool
) -> None:
    """The table is Transformers' own; only the screen that it is shown on is not there."""
    shown: list[str] = []
    screen = SimpleNamespace(
        HTML=str, display=lambda html, **_: (shown.append(html), SimpleNamespace(update=shown.append))[1]
    )
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=screen))
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    monkeypatch.delitem(sys.modules, "transformers.utils.notebook", raising=False)
    progress = importlib.import_module("transformers.utils.notebook").NotebookProgressCallback()
    monkeypatch.delitem(sys.modules, "transformers.utils.notebook")
    trainer = runs.plain_trainer(
        tmp_path, max_steps=4, **({"eval_strategy": "steps", "eval_steps": 2} if evaluating else {})
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress)
    runs.guard(trainer, every=2, reference=None, on_error="raise")
    trainer.train()
    columns = ["Step", "Training Loss", "Validation Loss"] if evaluating else ["Step", "Training Loss"]
    assert re.findall("<th>(.*?)</th>", shown[-1]) == columns
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"guard, step {step}" for step in (0, 2, 4)]
    assert not {"on_log", "on_evaluate"} & vars(progress).keys()


class Panel(RichProgressCallback):
    shown: frozenset[str] = frozenset()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=logs, **kwargs)
        self.shown |= logs.keys()


def test_the_panel_of_rich_has_no_row_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = runs.plain_trainer(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2)
    trainer.remove_callback(PrinterCallback)
    panel = Panel()
    trainer.add_callback(panel)
    runs.guard(trainer, reference=None, on_error="raise")
    trainer.train()
    assert {"loss", "eval_loss"} <= panel.shown
    assert not [name for name in panel.shown if "guard/" in name]
    assert "guard, step 2: accuracy" in capsys.readouterr().out


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


@pytest.mark.parametrize("own", ["on_log", "on_evaluate"])
def test_a_printer_whose_method_is_its_own_has_it_afterwards_and_no_other(tmp_path: Path, own: str) -> None:
    class NotebookProgressCallback(PrinterCallback):
        def on_evaluate(self, *_: Any, **__: Any) -> None: ...

    def before(*_: Any, **__: Any) -> None: ...

    trainer, printer = runs.plain_trainer(tmp_path, max_steps=2), NotebookProgressCallback()
    setattr(printer, own, before)
    trainer.add_callback(printer)
    runs.guard(trainer, every=2, reference=None, on_error="raise")
    trainer.train()
    assert vars(printer) == {own: before}
