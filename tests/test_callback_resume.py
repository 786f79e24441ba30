"""A run killed at any moment and resumed is the run that was never killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import killed_run
import runs
from own_process import run_script
from reasoning_guard.errors import HistoryError

NOT_OURS_TO_REPEAT = ("created", "seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One killed run a moment, made by another process."""
    folder = tmp_path_factory.mktemp("killed")
    run_script(killed_run, folder, timeout=150)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run that nobody kills."""
    trainer, callback = killed_run.start(tmp_path_factory.mktemp("whole"))
    trainer.train()
    assert trainer.state.global_step == 8
    return trainer, callback


@pytest.mark.parametrize("moment", killed_run.MOMENTS)
def test_killed_and_resumed_is_never_killed(moment: str, folder: Path, whole: Any) -> None:
    left = _steps_on_disk(folder / moment)
    assert left[:3] == [0, 2, 4]
    trainer, callback = killed_run.start(folder / moment)
    trainer.train(resume_from_checkpoint=True)
    one, other = whole
    assert runs.steps(runs.recorded(folder / moment)) == [0, 2, 4, 6, 8]
    assert _lasting(folder / moment) == _lasting(Path(one.args.output_dir))
    assert runs.recorded(folder / moment, "alerts") == runs.recorded(Path(one.args.output_dir), "alerts")
    assert callback.guard.alerts == other.guard.alerts
    assert callback.guard.stop_reason == other.guard.stop_reason
    assert trainer.state.global_step == one.state.global_step
    assert _numbers(trainer) == _numbers(one)
    assert runs.differing(runs.weights(trainer), runs.weights(one)) == []
    aside = folder / moment / "reasoning_guard" / "earlier-1" / "evaluations.jsonl"
    assert aside.exists() == (left[-1] > 4)


def _steps_on_disk(folder: Path) -> list[int]:
    """Steps of the whole lines; a kill may have cut the last one short."""
    *lines, _ = (folder / "reasoning_guard" / "evaluations.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line)["step"] for line in lines]


def _lasting(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in NOT_OURS_TO_REPEAT} for r in runs.recorded(folder)]


def _numbers(trainer: Any) -> list[dict[str, Any]]:
    records = runs.log(trainer, "eval_guard/info_gain")
    clocks = ("seconds", "time_share")
    return [
        {k: v for k, v in r.items() if "guard/" in k and not any(clock in k for clock in clocks)} | {"step": r["step"]}
        for r in records
    ]


def _stopped_after(folder: Path, step: int, **options: Any) -> None:
    """A run that ends at ``step`` with a checkpoint, long before its end."""
    trainer, _ = killed_run.start(folder, **options)

    def stop(state: Any, control: Any) -> None:
        control.should_training_stop = state.global_step == step

    trainer.add_callback(runs.Spy("on_step_end", stop))
    trainer.train()


def test_a_run_begun_without_the_guard_is_resumed_with_it(tmp_path: Path) -> None:
    _stopped_after(tmp_path, 4, watched=False)
    trainer, callback = killed_run.start(tmp_path, rules=[runs.FromStep()], patience=1, action="warn")
    trainer.train(resume_from_checkpoint=True)
    assert runs.steps(runs.recorded(tmp_path)) == [4, 6, 8, 10]
    assert callback.guard.baseline.step == 4
    assert callback.guard.alerts[0].against == 4


def test_a_run_begun_with_the_guard_is_resumed_without_it(tmp_path: Path) -> None:
    _stopped_after(tmp_path, 4)
    trainer, _ = killed_run.start(tmp_path, watched=False)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == killed_run.STEPS


def _other_prompts() -> list[dict[str, str]]:
    """Other questions under the same ids, with the same answers."""
    questions = [row["prompt"] for row in runs.problems(40)[20:]]
    return [{**row, "prompt": question} for row, question in zip(runs.problems(), questions, strict=True)]


CHANGES: dict[str, Any] = {
    "fewer problems": lambda: {"problems": runs.problems(18)},
    "another answer": lambda: {"problems": [{**runs.problems()[0], "answer": "10"}, *runs.problems()[1:]]},
    "other prompts under the same ids": lambda: {"problems": _other_prompts()},
    "another format": lambda: {"format": runs.TraceFormat(name="hashes", cue=" #", step_end=r"=", answer=r"# (\S+)")},
    "another length limit": lambda: {"max_new_tokens": 10},
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    _stopped_after(folder, 4)
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_compared_is_refused_before_a_step(change: str, interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    before = runs.recorded(folder)
    trainer, _ = killed_run.start(folder, **CHANGES[change]())
    with pytest.raises(HistoryError, match="another output folder"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    assert runs.recorded(folder) == before


def test_another_reference_is_left_out_and_said(
    interrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on; what another reader says of the text cannot be compared with what the first one said."""
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    trainer, callback = killed_run.start(folder, reference=runs.untrained())
    trainer.train(resume_from_checkpoint=True)
    assert "not the one that read the baseline" in caplog.text
    first, last = callback.guard.evaluations[0], callback.guard.evaluations[-1]
    assert "reference/info_gain" in first.names()
    assert "reference/info_gain" not in last.names()
    assert "info_gain" in last.names()


def test_a_new_run_in_the_same_folder_may_have_other_problems(interrupted: Path) -> None:
    trainer, _ = killed_run.start(interrupted, problems=runs.problems(18), action="warn")
    trainer.train()
    assert runs.steps(runs.recorded(interrupted)) == [0, 2, 4, 6, 8, 10]
    assert all(len(record["rows"]) == 18 for record in runs.recorded(interrupted))
