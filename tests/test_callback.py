"""The callback on real trainers: when it evaluates, where its numbers go, and what it leaves alone."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTTrainer

import runs
from grpo_run import grpo_trainer
from reasoning_guard_demo import task
from reasoning_guard_transformers import numbers_in

NUMBER = "eval_guard/info_gain"
TIMES = ("runtime", "per_second", "step_time", "flos")
STEPWISE: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2}
EPOCHWISE: dict[str, Any] = {"eval_strategy": "epoch"}
BEST: dict[str, Any] = {"metric_for_best_model": NUMBER, "load_best_model_at_end": True}

CADENCES: dict[str, tuple[dict[str, Any], int | None, list[int]]] = {
    "the trainer's steps": (STEPWISE, None, [0, 2, 4, 6]),
    "the trainer's steps and the last": ({**STEPWISE, "eval_steps": 4}, None, [0, 4, 6]),
    "the trainer's epochs": (EPOCHWISE, None, [0, 3, 6]),
    "the trainer's start": ({**STEPWISE, "eval_on_start": True}, None, [0, 2, 4, 6]),
    "our own": ({}, 2, [0, 2, 4, 6]),
    "our own and the last": ({}, 4, [0, 4, 6]),
    "a tenth of the run": ({}, None, [0, 1, 2, 3, 4, 5, 6]),
    "fewer than the trainer's": (STEPWISE, 4, [0, 4, 6]),
    "more than the trainer's": ({**STEPWISE, "eval_steps": 3}, 2, [0, 2, 4, 6]),
    "our own at the trainer's epochs": (EPOCHWISE, 3, [0, 3, 6]),
}


@pytest.mark.parametrize("cadence", CADENCES)
def test_every_step_is_evaluated_once_and_logged_once(cadence: str, tmp_path: Path) -> None:
    settings, every, expected = CADENCES[cadence]
    make = runs.plain_trainer if list(CADENCES).index(cadence) % 2 else runs.sft_trainer
    trainer = make(tmp_path, **settings)
    callback = runs.guard(trainer, every=every, reference=None, on_error="raise")
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == expected
    assert runs.steps(runs.log(trainer, NUMBER)) == expected
    assert runs.steps(runs.recorded(tmp_path)) == expected
    assert all(math.isfinite(record[NUMBER]) for record in runs.log(trainer, NUMBER))


def test_a_trainer_that_selects_from_its_start_on_logs_the_baseline_once(tmp_path: Path) -> None:
    settings = {**STEPWISE, **BEST, "eval_on_start": True, "save_strategy": "steps", "save_steps": 2}
    trainer = runs.sft_trainer(tmp_path, **settings)
    callback = runs.guard(trainer, reference=None, on_error="raise")
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 2, 4, 6]
    assert runs.steps(runs.log(trainer, NUMBER)) == [0, 2, 4, 6]
    assert all(math.isfinite(record[NUMBER]) for record in runs.log(trainer, NUMBER))


def test_a_guard_that_was_added_twice_is_one(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path, max_steps=2)
    callback = runs.guard(trainer, every=1, reference=None, on_error="raise")
    trainer.add_callback(callback)
    for _ in range(2):  # a second training of the same trainer begins anew
        trainer.train()
        assert [e.step for e in callback.guard.evaluations] == [0, 1, 2]
        assert runs.steps(runs.log(trainer, NUMBER)) == [0, 1, 2]
        assert "log" not in vars(trainer)


def test_several_evaluation_sets_are_one_evaluation(tmp_path: Path) -> None:
    sets = {name: runs.examples(runs.BATCH) for name in ("near", "far")}
    trainer = runs.sft_trainer(tmp_path, **STEPWISE, **BEST, eval_dataset=sets, save_strategy="steps", save_steps=2)
    callback = runs.guard(trainer, reference=None, on_error="raise")
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 2, 4, 6]
    assert runs.steps(runs.log(trainer, NUMBER)) == [0, 2, 4, 6]
    assert runs.steps(runs.log(trainer, "eval_far_loss")) == [2, 4, 6]


def test_numbers_stand_in_the_trainers_own_evaluation_record(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path, **STEPWISE)
    held_out = runs.problems() + runs.problems(16, "ood")
    callback = runs.guard(trainer, problems=held_out)
    trainer.train()
    for evaluation, record in zip(callback.guard.evaluations[1:], runs.log(trainer, "eval_loss"), strict=True):
        assert record["step"] == evaluation.step
        assert record["eval_guard/accuracy"] == evaluation.mean("accuracy")
        assert record["eval_guard/ood/info_gain"] == evaluation.mean("info_gain", "ood")
        assert record["eval_guard/reference/info_gain"] == evaluation.mean("reference/info_gain")
        assert all(type(value) is float for key, value in record.items() if "guard/" in key)
    read = numbers_in(trainer.state.log_history)
    assert [r["step"] for r in read] == [0, 2, 4, 6]
    assert read[-1]["guard/info_gain"] == callback.guard.evaluations[-1].mean("info_gain")


def test_baseline_reads_the_model_before_its_first_step(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    trainer = runs.sft_trainer(tmp_path)
    callback = runs.guard(trainer, every=3)
    trainer.add_callback(
        runs.Spy("on_step_begin", lambda *_: seen.append([e.step for e in callback.guard.evaluations]))
    )
    trainer.train()
    assert seen[0] == [0]
    first, last = callback.guard.evaluations[0], callback.guard.evaluations[-1]
    assert first.mean("info_gain") == pytest.approx(first.mean("reference/info_gain"), abs=1e-5)  # that very model
    assert last.mean("info_gain") != pytest.approx(last.mean("reference/info_gain"), abs=1e-2)


@pytest.mark.parametrize(("make", "logging_steps"), [(runs.sft_trainer, 1), (runs.plain_trainer, 2)])
@pytest.mark.parametrize(("settings", "every"), [({}, 1), ({}, 2), (STEPWISE, None), (EPOCHWISE, 2)])
def test_the_trainers_records_are_as_they_would_be(
    make: Any, logging_steps: int, settings: dict[str, Any], every: int | None, tmp_path: Path
) -> None:
    """Same steps, same keys, same values; only the guard's own numbers are new, only times may differ."""
    without = make(tmp_path / "without", logging_steps=logging_steps, **settings)
    without.train()
    with_guard = make(tmp_path / "with", logging_steps=logging_steps, **settings)
    runs.guard(with_guard, every=every, reference=None)
    with_guard.train()
    assert _lasting(with_guard) == _lasting(without)


def _lasting(trainer: Any) -> list[dict[str, Any]]:
    records = [
        {k: v for k, v in record.items() if "guard/" not in k and not any(t in k for t in TIMES)}
        for record in trainer.state.log_history
    ]
    return [record for record in records if record.keys() - {"step", "epoch"}]


def test_best_model_is_chosen_by_the_guards_number(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path, **STEPWISE, **BEST, save_strategy="steps", save_steps=2)
    callback = runs.guard(trainer, reference=None)
    trainer.train()
    values = {e.step: e.mean("info_gain") for e in callback.guard.evaluations if e.step > 0}
    best = max(values, key=lambda step: values[step])
    assert trainer.state.best_metric == values[best]
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")


@pytest.mark.parametrize(
    ("settings", "every"),
    [({**STEPWISE, "save_strategy": "steps", "save_steps": 2}, 4), ({**EPOCHWISE, "save_strategy": "epoch"}, 3)],
)
def test_own_cadence_beside_the_trainers_does_not_cost_the_best_model(
    settings: dict[str, Any], every: int, tmp_path: Path
) -> None:
    """The trainer looks the number up at each of its evaluations and dies when it is not there."""
    trainer = runs.sft_trainer(tmp_path, **settings, **BEST)
    callback = runs.guard(trainer, every=every, reference=None)
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.best_metric in [e.mean("info_gain") for e in callback.guard.evaluations]


def test_best_model_is_chosen_where_the_trainers_values_have_names_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Valid(SFTTrainer):
        def evaluate(self, *args: Any, metric_key_prefix: str = "valid", **kwargs: Any) -> dict[str, float]:
            return super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)

    monkeypatch.setattr(runs, "SFTTrainer", Valid)
    trainer = runs.sft_trainer(tmp_path, **STEPWISE, **BEST, save_strategy="steps", save_steps=2)
    callback = runs.guard(trainer, reference=None, on_error="raise")
    trainer.train()
    assert runs.steps(runs.log(trainer, "valid_loss")) == [2, 4, 6]
    assert runs.steps(runs.log(trainer, NUMBER)) == [0, 2, 4, 6]
    assert trainer.state.best_metric == max(e.mean("info_gain") for e in callback.guard.evaluations[1:])


def test_early_stopping_hears_the_guards_number(tmp_path: Path) -> None:
    never_enough = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    settings = {**STEPWISE, **BEST, "save_strategy": "steps", "save_steps": 2}
    trainer = runs.sft_trainer(tmp_path, callbacks=[never_enough], **settings)
    runs.guard(trainer, reference=None)
    trainer.train()
    assert trainer.state.global_step == 4


def test_evaluating_outside_training_is_the_trainers_own_business(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path, **STEPWISE)
    callback = runs.guard(trainer, reference=None)
    before = trainer.evaluate()
    assert not any("guard/" in key for key in before)
    assert not callback.guard.evaluations
    trainer.train()
    after = trainer.evaluate()
    assert not any("guard/" in key for key in after)
    assert [e.step for e in callback.guard.evaluations] == [0, 2, 4, 6]
    assert "log" not in vars(trainer)


def test_a_guard_that_is_taken_off_after_a_broken_training_hears_nothing(tmp_path: Path) -> None:
    def interrupt(state: Any, _: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt

    trainer = runs.sft_trainer(tmp_path, **STEPWISE)
    callback, spy = runs.guard(trainer, reference=None), runs.Spy("on_step_begin", interrupt)
    trainer.add_callback(spy)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    for each in (spy, callback):
        trainer.remove_callback(each)
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 2]
    assert not runs.log(trainer, NUMBER)
    assert "log" not in vars(trainer)


def test_a_log_of_somebody_else_is_given_back(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path)
    heard: list[int] = []
    inner = trainer.log

    def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        heard.append(trainer.state.global_step)
        inner(logs, *args, **kwargs)

    trainer.log = log
    runs.guard(trainer, every=3, reference=None)
    trainer.train()
    assert heard
    assert trainer.log is log


def test_training_again_starts_a_record_of_its_own(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path)
    callback = runs.guard(trainer, every=3, rules=[runs.FromStep()], patience=1)
    trainer.train()
    first = runs.recorded(tmp_path)
    assert callback.guard.alarms
    seen: list[int] = []
    trainer.add_callback(runs.Spy("on_step_begin", lambda *_: seen.append(len(callback.guard.alerts))))
    trainer.train()
    assert runs.steps(runs.recorded(tmp_path)) == [0, 3, 6]
    assert seen[0] == 0
    aside = (tmp_path / "reasoning_guard" / "earlier-1" / "evaluations.jsonl").read_text().splitlines()
    assert len(aside) == len(first)


def test_a_model_that_the_trainer_has_replaced_is_let_go(tmp_path: Path) -> None:
    """A search over settings makes a model for each trial."""
    trainer = Trainer(
        model_init=lambda: runs.writer(),
        args=TrainingArguments(output_dir=str(tmp_path), **{**runs.SETTINGS, "max_steps": 1}),
        train_dataset=runs.examples().map(
            lambda row: runs.tokenizer()(row["prompt"]), remove_columns=["prompt", "completion"]
        ),
        data_collator=DataCollatorForLanguageModeling(runs.tokenizer(), mlm=False),
        processing_class=runs.tokenizer(),
    )
    replaced = [weakref.ref(trainer.model)]
    callback = runs.guard(trainer, every=1, on_error="raise")
    for _ in range(2):
        trainer.train()
        assert [e.step for e in callback.guard.evaluations] == [0, 1]
        gc.collect()
        assert [model() for model in replaced] == [None] * len(replaced)
        replaced.append(weakref.ref(trainer.model))


def test_a_tenth_is_of_the_training_that_runs(tmp_path: Path) -> None:
    """A longer training in the same trainer is not read at each tenth of the shorter one."""
    trainer = runs.sft_trainer(tmp_path, max_steps=2)
    callback = runs.guard(trainer, reference=None)
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 1, 2]
    trainer.args.max_steps = 20
    trainer.train()
    assert [e.step for e in callback.guard.evaluations] == list(range(0, 21, 2))


class _Saved(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


SAVING: list[tuple[dict[str, Any], int | None, str]] = [
    (STEPWISE, None, "no"),
    (STEPWISE, None, "steps"),
    ({**STEPWISE, "metric_for_best_model": "eval_guard/alarms", "greater_is_better": False}, None, "best"),
    ({}, 2, "no"),
    ({}, 2, "steps"),
]


@pytest.mark.parametrize(("settings", "every", "save_strategy"), SAVING)
def test_an_alarm_stops_the_run_with_a_checkpoint(
    settings: dict[str, Any], every: int | None, save_strategy: str, tmp_path: Path
) -> None:
    saved = _Saved()
    trainer = runs.sft_trainer(tmp_path, save_strategy=save_strategy, callbacks=[saved], **settings)
    callback = runs.guard(
        trainer, every=every, action="stop", rules=[runs.FromStep(step=2)], patience=2, reference=None
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert saved.steps[-1] == 4
    assert (tmp_path / "checkpoint-4" / "model.safetensors").exists()
    assert "from_step" in (callback.guard.stop_reason or "")
    assert [a["key"] for a in runs.recorded(tmp_path, "alerts")] == ["from_step"]


def test_a_warning_stops_nothing_and_a_notice_neither(tmp_path: Path) -> None:
    for name, options in {
        "warn": {"action": "warn", "rules": [runs.FromStep()]},
        "notice": {"action": "stop", "rules": [runs.FromStep(severity="notice")]},
    }.items():
        trainer = runs.sft_trainer(tmp_path / name)
        callback = runs.guard(trainer, every=2, patience=1, reference=None, **options)
        trainer.train()
        assert trainer.state.global_step == 6
        assert len(callback.guard.alerts) == 1


def test_an_action_of_the_users_own_hears_each_alert_once(tmp_path: Path) -> None:
    heard: list[Any] = []
    trainer = runs.sft_trainer(tmp_path)
    runs.guard(trainer, every=2, patience=1, reference=None, rules=[runs.FromStep()], action=heard.append)
    trainer.train()
    assert [(alert.rule, alert.step) for alert in heard] == [("from_step", 2)]


def test_sinks_of_the_users_own_are_kept(tmp_path: Path) -> None:
    class Sink:
        def __init__(self) -> None:
            self.steps: list[int] = []

        def evaluation(self, baseline: Any, current: Any) -> None:
            self.steps.append(current.step)

        def alert(self, alert: Any) -> None: ...

    sink = Sink()
    trainer = runs.sft_trainer(tmp_path)
    callback = runs.guard(trainer, every=3, reference=None)
    callback.guard.sinks.append(sink)
    trainer.train()
    assert sink.steps == [0, 3, 6]


def _dpo(folder: Path) -> DPOTrainer:
    rows = task.training_examples(task.ARMS["trap"], 16, 0)
    pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": " # 3"} for r in rows]
    args = DPOConfig(output_dir=str(folder), max_length=None, **{**runs.SETTINGS, "max_steps": 4})
    data = Dataset.from_list(pairs)
    models = {"model": runs.writer(), "ref_model": runs.writer()}
    return DPOTrainer(**models, args=args, train_dataset=data, processing_class=runs.tokenizer())


@pytest.mark.parametrize("make", [_dpo, grpo_trainer])
def test_other_trl_trainers_train_as_without(make: Any, tmp_path: Path) -> None:
    without = make(tmp_path / "without")
    without.train()
    with_guard = make(tmp_path / "with")
    callback = runs.guard(with_guard, every=2, on_error="raise")
    with_guard.train()
    assert [e.step for e in callback.guard.evaluations] == [0, 2, 4]
    assert all(math.isfinite(e.mean("reference/info_gain")) for e in callback.guard.evaluations)
    assert runs.differing(runs.weights(without), runs.weights(with_guard)) == []
    assert _lasting(with_guard) == _lasting(without)
