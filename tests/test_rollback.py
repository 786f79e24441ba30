"""``action="rollback"`` on real trainers: which weights remain, and what is said when none can."""

from __future__ import annotations

import errno
import logging
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl import SFTTrainer

import runs
from grpo_run import grpo_trainer
from reasoning_guard import healthy
from reasoning_guard.alerts import Alert
from reasoning_guard.decision import decide
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.guard import Guard
from reasoning_guard.healthy import HealthyCheckpoints, returns
from reasoning_guard.measuring import Measurer
from reasoning_guard_transformers import ReasoningGuardCallback
from rule_cases import TRAPPED, evaluation

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}


def guarded(tmp_path: Path, broken_from: int, **settings: Any) -> tuple[Any, ReasoningGuardCallback]:
    trainer = runs.sft_trainer(tmp_path, **{**SAVING, **settings})
    rules = [runs.FromStep(step=broken_from)]
    return trainer, runs.guard(trainer, every=1, action="rollback", rules=rules, reference=None)


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_the_last_healthy_weights_remain_whatever_the_trainer_deletes(tmp_path: Path, limit: int | None) -> None:
    trainer, callback = guarded(tmp_path, broken_from=4, save_total_limit=limit)
    seen: dict[int, dict[str, torch.Tensor]] = {}
    trainer.add_callback(runs.Spy("on_save", lambda state, _: seen.update({state.global_step: runs.weights(trainer)})))
    trainer.train()
    guard = callback.guard
    assert trainer.state.global_step == 6
    assert guard.unhealthy_since == 4
    assert guard.kept_checkpoint == str(tmp_path / "reasoning_guard" / "healthy" / "checkpoint-3")
    assert "since step 4" in (guard.stop_reason or "")
    assert not runs.differing(seen[3], runs.weights(trainer))
    assert runs.differing(seen[6], runs.weights(trainer))
    assert (tmp_path / "checkpoint-3").exists() == (limit is None)
    trainer.save_model(str(tmp_path / "final"))
    saved, held = (load_file(f / "model.safetensors") for f in (tmp_path / "final", Path(guard.kept_checkpoint)))
    assert all(torch.equal(saved[name], held[name]) for name in held)


def test_a_healthy_run_keeps_its_last_weights(tmp_path: Path) -> None:
    trainer, callback = guarded(tmp_path, broken_from=99)
    last: list[Any] = []
    trainer.add_callback(runs.Spy("on_save", lambda state, _: last.append(runs.weights(trainer))))
    trainer.train()
    assert callback.guard.kept_checkpoint is callback.guard.stop_reason is None
    assert not runs.differing(last[-1], runs.weights(trainer))
    held = sorted(path.name for path in (tmp_path / "reasoning_guard" / "healthy").iterdir())
    assert held == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


class Trial(SFTTrainer):
    """Saves where a search over settings lets a trial save."""

    def _get_output_dir(self, trial: Any) -> str:
        return f"{self.args.output_dir}/run-0"


def test_a_trial_of_a_search_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SFTTrainer", Trial)
    trainer, callback = guarded(tmp_path, broken_from=4, save_total_limit=1)
    trainer.train()
    assert [path.name for path in (tmp_path / "run-0").iterdir()] == ["checkpoint-6"]
    assert (callback.guard.kept_checkpoint or "").endswith("healthy/checkpoint-3")


def test_a_later_training_names_no_checkpoint_of_an_earlier_one(tmp_path: Path) -> None:
    """Its weights are gone when the next training begins."""
    trainer, callback = guarded(tmp_path, broken_from=2, max_steps=3)
    trainer.train()
    assert callback.guard.kept_checkpoint is not None
    callback.guard.rules.clear()
    trainer.train()
    assert callback.guard.kept_checkpoint is None


def test_it_says_why_it_cannot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, callback = guarded(tmp_path, broken_from=1)
    last: list[Any] = []
    trainer.add_callback(runs.Spy("on_save", lambda state, _: last.append(runs.weights(trainer))))
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert callback.guard.kept_checkpoint is None
    assert "cannot roll back: no checkpoint was saved before step 1" in caplog.text
    assert not runs.differing(last[-1], runs.weights(trainer))


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path)
    with pytest.raises(ConfigurationError, match="save_strategy"):
        runs.guard(trainer, action="rollback")


def test_an_adapter_is_rolled_back(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="adapters are PEFT's, which comes with the extra peft")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer, callback = guarded(tmp_path, broken_from=4, peft_config=lora, save_total_limit=1)
    seen: dict[int, dict[str, torch.Tensor]] = {}
    trainer.add_callback(runs.Spy("on_save", lambda state, _: seen.update({state.global_step: runs.weights(trainer)})))
    trainer.train()
    assert (callback.guard.kept_checkpoint or "").endswith("checkpoint-3")
    assert not runs.differing(seen[3], runs.weights(trainer))
    assert runs.differing(seen[6], runs.weights(trainer))


def test_reinforcement_learning_is_rolled_back(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, **SAVING, save_total_limit=1)
    rules = [runs.FromStep(step=3)]
    callback = runs.guard(trainer, every=1, action="rollback", rules=rules, reference=None, on_error="raise")
    seen: dict[int, dict[str, torch.Tensor]] = {}
    trainer.add_callback(runs.Spy("on_save", lambda state, _: seen.update({state.global_step: runs.weights(trainer)})))
    trainer.train()
    assert trainer.state.global_step == 4
    assert callback.guard.kept_checkpoint == str(tmp_path / "reasoning_guard" / "healthy" / "checkpoint-2")
    assert not runs.differing(seen[2], runs.weights(trainer))
    assert runs.differing(seen[4], runs.weights(trainer))


def test_only_weights_are_held_and_a_resumed_run_forgets_what_it_has_not_saved(tmp_path: Path) -> None:
    held = HealthyCheckpoints(tmp_path / "healthy")
    for step in (2, 10, 30):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "rng_state_0.pth", "config.json"):
            (folder / name).write_text(str(step))
        held.keep(folder)
    kept = tmp_path / "healthy" / "checkpoint-10"
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "model.safetensors"]
    assert (kept / "model.safetensors").samefile(tmp_path / "checkpoint-10" / "model.safetensors")
    assert held.last_before(30) == kept
    assert held.last_before(2) is None
    held.drop_all_but([30])
    assert held.last_before(10) is None
    held.begin(20)
    assert held.last_before(99) == kept
    held.begin(0)
    assert held.last_before(99) is None


def folder_of(tmp_path: Path, step: int) -> Path:
    folder = tmp_path / f"checkpoint-{step}"
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_text(str(step))
    return folder


def test_a_run_that_begins_holds_nothing_and_one_that_goes_on_what_it_has_saved(tmp_path: Path) -> None:
    held, first, second = HealthyCheckpoints(tmp_path / "healthy"), folder_of(tmp_path, 0), folder_of(tmp_path, 4)
    held.keep(first)
    held.keep(second)
    held.begin(4)
    assert held.last_before(99) == tmp_path / "healthy" / "checkpoint-4"
    held.begin(0)
    assert held.last_before(99) is None


def test_a_checkpoint_that_is_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    held, folder = HealthyCheckpoints(tmp_path / "healthy"), folder_of(tmp_path, 4)
    held.keep(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text("again")
    held.part(4).mkdir()  # as a kill leaves it
    held.keep(folder)
    assert [path.name for path in held.folder.iterdir()] == ["checkpoint-4"]
    assert (held.folder / "checkpoint-4" / "config.json").read_text() == "again"


def test_of_many_checkpoints_those_before_what_an_alarm_may_begin_with_are_held(tmp_path: Path) -> None:
    held = HealthyCheckpoints(tmp_path / "healthy")
    for step in range(1, 31):
        held.keep(folder_of(tmp_path, step))
        held.drop_all_but([10, 20] if step >= 20 else [10])
        assert len(list((tmp_path / "healthy").iterdir())) <= 4
    assert [held.last_before(step).name for step in (10, 20, 99)] == ["checkpoint-9", "checkpoint-19", "checkpoint-30"]  # type: ignore[union-attr]


def test_what_an_alarm_can_have_begun_with() -> None:
    guard = Guard(runs.problems(2), runs.tokenizer(), format=runs.FORMAT, patience=2, probes=[], reference=None)
    sound = [Evaluation(step=step, rows=(Row(id="a", values={}),)) for step in (0, 2, 4)]
    guard.evaluations = [*sound, Evaluation(step=6, failure="boom"), Evaluation(step=8, failure="boom")]
    assert returns(guard) == [2, 4], "failed evaluations are none"
    guard.alerts = [
        Alert(key=k, rule=k, severity="alarm", step=4, since=s, open=o) for k, s, o in (("a", 1, True), ("b", 0, False))
    ]
    assert returns(guard) == [2, 4, 1]


def test_a_copy_that_breaks_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HealthyCheckpoints(tmp_path / "healthy")
    held.keep(folder_of(tmp_path, 1))
    whole, calls = healthy._link, []

    def full(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(source, target)

    monkeypatch.setattr(healthy, "_link", full)
    with pytest.raises(OSError, match="No space left"):
        held.keep(folder_of(tmp_path, 2))
    assert [path.name for path in (tmp_path / "healthy").iterdir()] == ["checkpoint-1"]
    (tmp_path / "healthy" / "part-of-checkpoint-3").mkdir()  # as a kill leaves it
    assert held.last_before(99) == tmp_path / "healthy" / "checkpoint-1"
    held.begin(9)
    assert [path.name for path in (tmp_path / "healthy").iterdir()] == ["checkpoint-1"]


def test_failed_evaluations_cost_no_healthy_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in a row after the first look at which an alarm held, before it is told."""
    trainer = runs.sft_trainer(tmp_path, **SAVING, save_total_limit=1)
    callback = runs.guard(
        trainer, every=1, action="rollback", rules=[runs.FromStep(step=2)], patience=2, reference=None
    )
    whole = Measurer.measure

    def measure(self: Measurer, model: Any, step: int, *args: Any, **settings: Any) -> Any:
        if step in (3, 4):
            raise RuntimeError("boom")
        return whole(self, model, step, *args, **settings)

    monkeypatch.setattr(Measurer, "measure", measure)
    trainer.train()
    assert [e.step for e in callback.guard.evaluations if e.failure] == [3, 4]
    assert (callback.guard.kept_checkpoint or "").endswith("checkpoint-1")


@pytest.mark.parametrize("seed", range(60))
def test_what_a_rollback_needs_is_held_whatever_the_order_of_looks_and_saves(tmp_path: Path, seed: int) -> None:
    """Against a folder that forgets nothing; evaluations and checkpoints of one step come in either order."""
    rng = random.Random(seed)
    guard = Guard(
        runs.problems(2),
        runs.tokenizer(),
        format=runs.FORMAT,
        patience=rng.choice((1, 2, 3)),
        probes=[],
        reference=None,
    )
    held, saved = HealthyCheckpoints(tmp_path / "healthy"), []
    guard.evaluations = [evaluation(0)]
    kinds = [
        {},
        TRAPPED,
        {**TRAPPED, "accuracy": 0.1},
        None,
        {"placebo_changed": math.nan, "mistake_changed": math.nan},
    ]
    for step in range(1, 25):
        acts = ["save"] * (rng.random() < 0.5) + ["look"] * (rng.random() < 0.5)
        for act in rng.sample(acts, len(acts)):
            if act == "save":
                (held.folder / f"checkpoint-{step}").mkdir(parents=True)
                saved.append(step)
                held.drop_all_but(returns(guard))
            else:
                kind = rng.choices(kinds, weights=(4, 5, 2, 1, 1))[0]
                guard.evaluations.append(
                    Evaluation(step=step, failure="boom") if kind is None else evaluation(step, **kind)
                )
                guard.alerts = decide(guard.evaluations, patience=guard.patience)
        since = guard.unhealthy_since
        if since is not None:
            wanted = max((s for s in saved if s < since), default=None)
            found = held.last_before(since)
            assert (None if found is None else found.name) == (None if wanted is None else f"checkpoint-{wanted}")
