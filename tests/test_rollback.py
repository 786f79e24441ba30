"""``action="rollback"`` on real trainers: which weights remain, and what is said when none can."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import runs
from grpo_run import grpo_trainer
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.healthy import HealthyCheckpoints
from reasoning_guard_transformers import ReasoningGuardCallback

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
    held.drop_older_than_last_before(30)
    assert held.last_before(10) is None
    held.begin(20)
    assert held.last_before(99) == kept
    held.begin(0)
    assert held.last_before(99) is None
