"""Whatever fails beside the guard, or because of it, the trainer goes on as it would have."""

from __future__ import annotations

import errno
import io
import logging
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainerCallback
from trl import SFTTrainer

import lightning_runs
import runs
from reasoning_guard.errors import ConfigurationError, HistoryError, ReasoningGuardWarning
from reasoning_guard.generation import Generator
from reasoning_guard.healthy import HealthyCheckpoints
from reasoning_guard.history import History
from reasoning_guard.hosting import show
from reasoning_guard.probes import NullProbe, all_probes, default_probes
from reasoning_guard_transformers.format_inference import _texts

EVALUATING: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2}


@pytest.mark.parametrize("between", [False, True], ids=["two guards", "a log of somebody else's between them"])
def test_two_guards_train_and_leave_nothing(tmp_path: Path, between: bool) -> None:
    trainer = runs.sft_trainer(tmp_path, **EVALUATING)
    heard: list[Any] = []
    first = runs.guard(trainer, reference=None, on_error="raise")
    if between:

        def put_on(*_: Any) -> None:
            inner = trainer.log
            trainer.log = lambda logs, *args: (heard.append(logs), inner(logs, *args))[1]

        trainer.add_callback(runs.Spy("on_train_begin", put_on))
    second = runs.guard(trainer, directory=tmp_path / "second", reference=None, on_error="raise")
    trainer.train()
    assert trainer.state.global_step == 6
    assert [e.step for e in first.guard.evaluations] == [e.step for e in second.guard.evaluations] == [0, 2, 4, 6]
    assert ("log" in vars(trainer)) is between
    if between:
        before = len(heard)
        trainer.log({"eval_runtime": 1.0})
        assert len(heard) == before + 1
    assert len(first.guard.evaluations) == 4


class FailingTracker(TrainerCallback):
    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        if any("guard/" in name for name in logs):
            raise ConnectionError


def test_a_tracker_that_fails_on_our_record_costs_no_loss(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path, callbacks=[FailingTracker()])
    runs.guard(trainer, every=2, reference=None)
    trainer.train()
    assert runs.steps(runs.log(trainer, "loss")) == [1, 2, 3, 4, 5, 6]


def test_a_value_that_somebody_logs_is_no_evaluation(tmp_path: Path) -> None:
    """It may come from the main process alone, where an evaluation would wait for the others for ever."""
    trainer = runs.sft_trainer(tmp_path, **{**EVALUATING, "eval_steps": 4})

    def log(state: Any, _: Any) -> None:
        if state.global_step == 3:
            trainer.log({"eval_bleu": 0.5})

    trainer.add_callback(runs.Spy("on_step_end", log))
    callback = runs.guard(trainer, reference=None, on_error="raise")
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 4, 6]


def test_a_trainer_that_evaluates_in_its_own_way_is_guarded(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path, **EVALUATING)

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        trainer.log({"eval_mine": 1.0})
        trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, {"eval_mine": 1.0})
        return {"eval_mine": 1.0}

    trainer.evaluate = evaluate
    callback = runs.guard(trainer, reference=None, on_error="raise")
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 2, 4, 6]


class Silent(SFTTrainer):
    """Evaluates in a way of its own, and neither logs it as an evaluation nor tells its callbacks."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        return {"eval_mine": 1.0}


BEST = {"metric_for_best_model": "mine", "load_best_model_at_end": True}
SILENT: dict[str, tuple[dict[str, Any], int | None, list[int]]] = {
    "steps": (EVALUATING, None, [0, 2, 4, 6]),
    "epochs": ({"eval_strategy": "epoch"}, None, [0, 3, 6]),
    "a cadence of our own": (EVALUATING, 4, [0, 4, 6]),
    "the best at the end": ({**EVALUATING, "save_steps": 2, **BEST}, None, [0, 2, 4, 6]),
    "the best at the end, of epochs": ({"eval_strategy": "epoch", **BEST}, None, [0, 3, 6]),
    "the best at the end, others not saved": ({**EVALUATING, "save_strategy": "best", **BEST}, None, [0, 2, 4, 6]),
    # At step 6, the trainer loads what it saved at step 3 before anybody hears that it has evaluated.
    "the best at the end, other epochs not saved": (
        {"eval_strategy": "epoch", "save_strategy": "best", **BEST},
        None,
        [0, 3],
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_trainer_that_evaluates_without_a_word_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    settings, every, expected = SILENT[case]
    monkeypatch.setattr(runs, "SFTTrainer", Silent)
    without, trainer = (
        runs.sft_trainer(tmp_path / name, **{"save_strategy": settings["eval_strategy"], **settings})
        for name in ("without", "with")
    )
    without.train()
    callback = runs.guard(trainer, every=every, reference=None, on_error="raise")
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == expected
    assert runs.steps(runs.log(trainer, "eval_guard/accuracy")) == expected
    assert not runs.differing(runs.weights(without), runs.weights(trainer))


def test_an_alarm_stops_a_trainer_that_evaluates_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SFTTrainer", Silent)
    trainer = runs.sft_trainer(tmp_path, **EVALUATING)
    runs.guard(trainer, reference=None, action="stop", rules=[runs.FromStep(step=2)], patience=1)
    trainer.train()
    assert trainer.state.global_step == 3, "one step goes on before a trainer hears of it"
    assert (tmp_path / "checkpoint-3" / "model.safetensors").exists()


@pytest.mark.parametrize("framework", ["transformers", "lightning"])
def test_a_terminal_that_cannot_show_a_name_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    plain = io.BytesIO()
    held_out = runs.problems() + [{**row, "set": "数学"} for row in runs.problems(16, "ood")]
    if framework == "transformers":
        trainer = runs.sft_trainer(tmp_path, **EVALUATING)
        runs.guard(trainer, problems=held_out, reference=None, on_error="raise")
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(plain, encoding="ascii"))
        trainer.train()
    else:
        guard = lightning_runs.guard(problems=held_out, on_error="raise")
        bar = lightning_runs.lightning.callbacks.TQDMProgressBar()
        host = lightning_runs.trainer(tmp_path, max_epochs=1, enable_progress_bar=True, callbacks=[guard, bar])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(plain, encoding="ascii"))
        host.fit(lightning_runs.module(model=runs.writer()), lightning_runs.loader(), lightning_runs.loader(runs.BATCH))
    sys.stdout.flush()
    assert "accuracy (\\u6570\\u5b66)" in plain.getvalue().decode()


def test_a_stream_that_was_closed_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    stream.close()
    show("a line", stream.write)
    assert "could not be printed" in caplog.text


@pytest.mark.parametrize("name", ["guard/infogain", "guard/ood/tokens", "guard/reference/info_gain"])
def test_a_value_that_there_will_never_be_selects_no_model(tmp_path: Path, name: str) -> None:
    settings = {**EVALUATING, "metric_for_best_model": f"eval_{name}", "save_strategy": "best"}
    trainer = runs.sft_trainer(tmp_path, **settings)
    runs.guard(trainer, problems=runs.problems() + runs.problems(16, "ood"), reference=None)
    with pytest.raises(ConfigurationError, match=f"metric_for_best_model: no evaluation will have a value '{name}'"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_second_guards_value_may_select_the_model(tmp_path: Path) -> None:
    settings = {**EVALUATING, "metric_for_best_model": "eval_guard/null_gain", "save_strategy": "best"}
    trainer = runs.sft_trainer(tmp_path, **settings)
    runs.guard(trainer, reference=None)
    runs.guard(trainer, directory=tmp_path / "second", reference=None, probes=[*default_probes(), NullProbe()])
    trainer.train()
    assert trainer.state.best_metric is not None


@pytest.mark.parametrize("reference", ["auto", None])
def test_every_value_of_an_evaluation_has_a_name_that_is_known_before(tmp_path: Path, reference: str | None) -> None:
    held_out = runs.problems() + runs.problems(16, "ood")
    trainer = runs.sft_trainer(tmp_path, max_steps=2)
    guard = runs.guard(trainer, problems=held_out, every=2, reference=reference, probes=all_probes()).guard
    trainer.train()
    given = set(guard.scalars(guard.evaluations[-1]))
    assert len(given) > 40
    assert given <= guard.scalar_names


def test_lightning_is_told_of_values_that_never_are_and_of_those_that_may_be_nan(tmp_path: Path) -> None:
    early = lightning_runs.lightning.callbacks.EarlyStopping
    for monitor in ("guard/infogain", "guard/placebo_changed"):
        callbacks = [lightning_runs.guard(), early(monitor, mode="max", patience=9)]
        host = lightning_runs.trainer(tmp_path, max_epochs=1, callbacks=callbacks)
        model = lightning_runs.module(model=runs.writer())
        fit = lambda host=host, model=model: host.fit(model, lightning_runs.loader(), lightning_runs.loader(8))  # noqa: E731
        if monitor == "guard/infogain":
            with pytest.raises(ConfigurationError, match="did you mean 'guard/info_gain'"):
                fit()
            assert host.global_step == 0
        else:
            with pytest.warns(ReasoningGuardWarning, match="pass it check_finite=False"):
                fit()


class Plateau(lightning_runs.Module):
    """Lowers its learning rate by a value of the guard's."""

    monitor = "guard/info_gain"

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}


@pytest.mark.parametrize(("every", "alone"), [(None, True), (5, True), (5, False)])
def test_failed_evaluations_end_no_run_whose_learning_rate_hangs_on_them(
    every: int | None, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(Generator, "complete", fail)
    guard = lightning_runs.guard(on_error="record", reference=None, every=every)
    early = lightning_runs.lightning.callbacks.EarlyStopping(Plateau.monitor, check_finite=False, patience=9)
    best = lightning_runs.lightning.callbacks.ModelCheckpoint(tmp_path, monitor=Plateau.monitor)
    callbacks = [guard] if alone else [early, best, guard]
    host, _ = lightning_runs.fit(tmp_path, *callbacks, model=Plateau(model=runs.writer()))
    assert host.global_step == 6
    assert [e.failure is None for e in guard.guard.evaluations] == [False] * 3


def test_a_learning_rate_that_hangs_on_a_value_that_never_is_is_refused(tmp_path: Path) -> None:
    model = Plateau(model=runs.writer())
    model.monitor = "guard/infogain"
    with pytest.raises(ConfigurationError, match=r"ReduceLROnPlateau.*did you mean 'guard/info_gain'"):
        lightning_runs.fit(tmp_path, lightning_runs.guard(), model=model)


def test_a_run_that_goes_on_without_its_records_is_told_so(tmp_path: Path) -> None:
    first = runs.sft_trainer(tmp_path / "first", max_steps=2, save_strategy="steps", save_steps=2)
    runs.guard(first, every=2, reference=None)
    first.train()
    again = runs.sft_trainer(tmp_path / "elsewhere")
    callback = runs.guard(again, every=2, reference=None)
    with pytest.warns(ReasoningGuardWarning, match=r"goes on at step 2, and there are no records of it in .*elsewhere"):
        again.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-2"))
    assert [e.step for e in callback.guard.evaluations] == [2, 4, 6]


def test_records_that_cannot_be_read_end_a_resumed_run_and_not_its_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoning_guard.memory._WAIT", 0.0)
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    first = runs.sft_trainer(tmp_path, **settings)
    runs.guard(first, every=2, reference=None)
    first.train()
    whole, failures = History.begin, [1, 2, 1]

    def fail(self: History, *args: Any) -> Any:
        if failures[0] > 0:
            failures[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return whole(self, *args)

    monkeypatch.setattr(History, "begin", fail)
    for times in (2, 1):
        failures[0] = times
        again = runs.sft_trainer(tmp_path, **{**settings, "max_steps": 4})
        callback = runs.guard(again, every=2, reference=None)
        if times == 2:
            with pytest.raises(HistoryError, match=r"its records can't be read: .*Stale file handle"):
                again.train(resume_from_checkpoint=True)
            assert again.state.global_step == 2
        else:
            again.train(resume_from_checkpoint=True)
            assert [e.step for e in callback.guard.evaluations] == [0, 2, 4]


class Drawn(Dataset[dict[str, str]]):
    """Examples that draw from generators of their own as they are read."""

    def __init__(self) -> None:
        self.own = random.Random(0)
        self.numpy, self.old = np.random.default_rng(0), np.random.RandomState(0)
        self.torch = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, str]:
        if index >= len(self):
            raise IndexError
        drawn = [self.own.random(), self.numpy.random(), self.old.rand(), float(torch.rand((), generator=self.torch))]
        return {"text": f"{drawn}"}


class Stream(IterableDataset[dict[str, str]]):
    """Goes on where it stopped."""

    def __init__(self) -> None:
        self.rows = iter([{"text": f"# {i}"} for i in range(100)])

    def __iter__(self) -> Any:
        return self.rows


def test_reading_a_format_off_the_data_leaves_them_as_they_were() -> None:
    words, data, stream = runs.tokenizer(), Drawn(), Stream()
    assert list(_texts(data, words)) == list(_texts(data, words))
    assert list(_texts(stream, words)) == []
    assert next(stream.rows) == {"text": "# 0"}
    assert len(list(_texts(runs.examples().to_iterable_dataset().with_format("torch"), words))) > 8


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_full_disk_ends_lightning_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture, action: str) -> None:
    guard = lightning_runs.guard(rules=[runs.FromStep(step=3)], patience=1, action=action, on_error="record")
    host = lightning_runs.trainer(tmp_path, max_epochs=3, callbacks=[guard])
    full = host.strategy.checkpoint_io = lightning_runs.Full(
        host.strategy.checkpoint_io, room=1 if action == "rollback" else 0
    )
    with caplog.at_level(logging.WARNING):
        host.fit(lightning_runs.module(model=runs.writer()), lightning_runs.loader(), lightning_runs.loader(runs.BATCH))
    assert host.strategy.checkpoint_io is full
    assert "No space left on device" in caplog.text
    assert "training goes on" in caplog.text
    if action == "stop":
        assert host.global_step == 3
        assert "stopping with checkpoint" in caplog.text
    else:
        assert host.global_step == 9
        assert (guard.guard.kept_checkpoint or "").endswith("checkpoint-0.ckpt")


def test_a_logger_that_fails_keeps_no_weights_from_being_written(tmp_path: Path) -> None:
    guard = lightning_runs.guard(action="rollback", on_error="record")
    host = lightning_runs.trainer(
        tmp_path, max_epochs=1, callbacks=[guard], logger=lightning_runs.FailingLogger(tmp_path)
    )
    host.fit(lightning_runs.module(model=runs.writer()), lightning_runs.loader(), lightning_runs.loader(runs.BATCH))
    assert guard.directory is not None
    assert sorted(path.name for path in (guard.directory / "healthy").iterdir()) == [
        "checkpoint-0.ckpt",
        "checkpoint-3.ckpt",
    ]


def test_healthy_weights_that_cannot_be_tidied_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "denied on purpose")

    monkeypatch.setattr(HealthyCheckpoints, "begin", refuse)
    guard = lightning_runs.guard(action="rollback", on_error="record", reference=None)
    host, _ = lightning_runs.fit(tmp_path, guard, max_epochs=1)
    assert host.global_step == 3
    assert "denied on purpose" in caplog.text
    assert [e.step for e in guard.guard.evaluations] == [0, 3]
