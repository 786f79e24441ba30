"""Training with the guard is training without it, bit for bit; and whatever breaks in the guard, the run goes on."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

import runs
from reasoning_guard.errors import ReasoningGuardWarning
from reasoning_guard.generation import Generator
from reasoning_guard.guard import Guard
from reasoning_guard.history import History
from reasoning_guard.probes import Probe, default_probes
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import Reference
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.sinks import TensorBoardSink

DROPOUT = 0.2
MODES: dict[str, Callable[[], dict[str, Any]]] = {
    "full": dict,
    "beside the trainer's evaluation": lambda: {"eval_strategy": "steps", "eval_steps": 2},
    "LoRA": lambda: {"peft_config": LoraConfig(r=4, lora_dropout=DROPOUT, target_modules=["q_proj", "v_proj"])},
    "bf16": lambda: {"bf16": True},
    "gradient checkpointing": lambda: {"gradient_checkpointing": True},
    "LoRA with gradient checkpointing": lambda: {**MODES["LoRA"](), "gradient_checkpointing": True},
}


def _trainer(folder: Path, mode: str = "full", **settings: Any) -> Any:
    return runs.sft_trainer(folder, model=runs.writer(attention_dropout=DROPOUT), **MODES[mode](), **settings)


@pytest.mark.parametrize("mode", MODES)
def test_weights_and_losses_are_bit_identical(mode: str, tmp_path: Path) -> None:
    without = _trainer(tmp_path / "without", mode)
    without.train()
    states = _random_states()
    with_guard = _trainer(tmp_path / "with", mode)
    callback = runs.guard(with_guard, every=None if "beside" in mode else 2, on_error="raise")
    with_guard.train()
    assert len(callback.guard.evaluations) == 4
    assert runs.differing(runs.weights(without), runs.weights(with_guard)) == []
    losses = {record["step"]: record["loss"] for record in runs.log(without, "loss")}
    found = {record["step"]: record["loss"] for record in runs.log(with_guard, "loss")}
    assert found == losses
    assert _random_states() == states


def test_a_single_random_number_would_be_noticed(tmp_path: Path) -> None:
    """The control of the test above: dropout makes every drawn number count."""
    without = _trainer(tmp_path / "without")
    without.train()
    disturbed = _trainer(tmp_path / "disturbed", callbacks=[runs.Spy("on_step_end", lambda *_: torch.rand(1))])
    disturbed.train()
    assert runs.differing(runs.weights(without), runs.weights(disturbed)) != []


def _random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_data_that_draw_random_numbers_train_alike(tmp_path: Path) -> None:
    """Reading the format off the first examples must not use up what training would draw."""

    class Noisy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> dict[str, list[int]]:
            if i >= len(self):
                raise IndexError(i)
            return {"input_ids": [1, *torch.randint(3, 20, (9,)).tolist()]}

    found = []
    for name in ("without", "with"):
        trainer = runs.plain_trainer(tmp_path / name)
        trainer.train_dataset = Noisy()
        if name == "with":
            runs.guard(trainer, format="auto", problems=_worded(), every=3, reference=None)
        trainer.train()
        found.append(runs.weights(trainer))
    assert runs.differing(*found) == []


def _worded() -> list[dict[str, str]]:
    return [{"prompt": f"{i} : ?", "answer": f"{i % 10}"} for i in range(16)]


def test_a_frozen_part_in_evaluation_stays_so_and_nothing_else_changes(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    trainer = _trainer(tmp_path, gradient_checkpointing=True)

    def look(state: Any, control: Any) -> None:
        trainer.model.model.layers[0].eval()
        seen.append(_everything(trainer))

    trainer.add_callback(runs.Spy("on_step_end", look))
    runs.guard(trainer, every=1, on_error="raise")
    trainer.add_callback(runs.Spy("on_step_end", lambda *_: seen.append(_everything(trainer))))
    trainer.train()
    assert len(seen) == 12
    for before, after in zip(seen[::2], seen[1::2], strict=True):
        assert after == before


def _everything(trainer: Any) -> dict[str, Any]:
    """All that a careless guest could leave behind."""
    model, words = trainer.model, trainer.processing_class
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "forward": model.forward,
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "attention": model.config._attn_implementation,
        "tokenizer": (words.padding_side, words.truncation_side, words.special_tokens_map, len(words)),
        "gradients on": torch.is_grad_enabled(),
        "control": {k: v for k, v in vars(trainer.control).items() if k != "should_log"},
    }


def test_tokenizer_is_never_touched(tmp_path: Path) -> None:
    trainer = runs.sft_trainer(tmp_path)
    trainer.processing_class.padding_side = "right"
    before = trainer.processing_class.backend_tokenizer.to_str()
    runs.guard(trainer, every=3)
    trainer.train()
    assert trainer.processing_class.padding_side == "right"
    assert trainer.processing_class.backend_tokenizer.to_str() == before


@pytest.mark.parametrize("mode", ["full", "gradient checkpointing"])
def test_traces_are_what_the_live_model_would_write(mode: str, tmp_path: Path) -> None:
    """Against greedy decoding written out: one forward a token, no cache, no padding."""
    trainer = _trainer(tmp_path, mode)
    callback = runs.guard(trainer, every=6)
    trainer.train()
    rows = {row.id: row.completion for row in callback.guard.evaluations[-1].rows}
    words, model = runs.tokenizer(), trainer.model.eval()
    for problem in runs.problems()[:4]:
        ids = words(problem["prompt"])["input_ids"]
        start = len(ids)
        while len(ids) < start + 40:
            with torch.no_grad():
                token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == words.eos_token_id:
                break
            ids.append(token)
        assert rows[problem["id"]].split() == words.decode(ids[start:]).split()


# ------------------------------------------------------------------------------------------------ what breaks inside


def _break(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("broken on purpose")


EVALUATING: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "best",
    "metric_for_best_model": "eval_guard/info_gain",
}


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Where the run ends without a guard."""
    trainer = _trainer(tmp_path_factory.mktemp("without"))
    trainer.train()
    return runs.weights(trainer)


@pytest.fixture(scope="module")
def unguarded_evaluating(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The same where the trainer evaluates, which draws random numbers of its own."""
    trainer = _trainer(tmp_path_factory.mktemp("without"), "beside the trainer's evaluation")
    trainer.train()
    return runs.weights(trainer)


def _same(trainer: Any, expected: dict[str, torch.Tensor]) -> bool:
    return trainer.state.global_step == 6 and not runs.differing(runs.weights(trainer), expected)


PARTS: dict[str, tuple[type, str]] = {
    "generator": (Generator, "complete"),
    "reader": (TraceReader, "read"),
    "scorer": (AnswerScorer, "score_trees"),
    "reference": (Reference, "score_trees"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_broken_part_is_a_failed_evaluation(
    part: str, unguarded: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(tmp_path)
    callback = runs.guard(trainer, every=2, action="stop")
    monkeypatch.setattr(*PARTS[part], _break)
    trainer.train()
    assert _same(trainer, unguarded)
    assert runs.steps(runs.recorded(tmp_path)) == [0, 2, 4, 6]
    assert all("broken on purpose" in record["failure"] for record in runs.recorded(tmp_path))
    assert callback.guard.baseline is None
    assert not callback.guard.alerts


PROBES = {type(probe).__name__: type(probe) for probe in default_probes()}
METHODS = [
    (name, method)
    for name, probe in PROBES.items()
    for method in ("read", "branches", "prefixes")
    if getattr(probe, method) is not getattr(Probe, method)
]


@pytest.mark.parametrize(("probe", "method"), METHODS)
def test_a_broken_probe_costs_its_own_values_only(
    probe: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(tmp_path, max_steps=1)
    callback = runs.guard(trainer, every=1)
    monkeypatch.setattr(PROBES[probe], method, _break)
    with pytest.warns(ReasoningGuardWarning, match="broken on purpose"):
        trainer.train()
    assert [e.failure for e in callback.guard.evaluations] == [None, None]
    baseline = callback.guard.evaluations[0]
    prefix = "" if "policy" in PROBES[probe].readers else "reference/"
    for row in baseline.rows:
        assert all("broken on purpose" in row.reasons[prefix + name] for name in PROBES[probe].names)
    others = {"accuracy", "info_gain", "tokens"} - set(PROBES[probe].names)
    assert all(math.isfinite(baseline.mean(name)) for name in others)


def test_a_failure_in_the_middle_is_a_gap_and_no_more(
    unguarded_evaluating: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(tmp_path, **EVALUATING)
    callback = runs.guard(trainer)
    _break_once(monkeypatch, Generator, "complete", call=2)
    trainer.train()
    assert _same(trainer, unguarded_evaluating)
    failed = [e.failure is not None for e in callback.guard.evaluations]
    assert failed == [False, True, False, False]
    record = runs.log(trainer, "eval_loss")[0]
    assert math.isnan(record["eval_guard/info_gain"])
    assert math.isfinite(trainer.state.best_metric)


def test_after_a_failed_baseline_the_next_evaluation_is_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(tmp_path, learning_rate=1e-4)  # what is right at step 2 is still right at step 4
    callback = runs.guard(trainer, every=2, rules=[runs.FromStep()], patience=1)
    _break_once(monkeypatch, Generator, "complete", call=0)
    trainer.train()
    assert callback.guard.baseline is not None
    assert callback.guard.baseline.step == 2
    assert callback.guard.alerts[0].against == 2


def _break_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    whole, calls = getattr(owner, name), iter(range(10**6))

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        return _break() if next(calls) == call else whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, sometimes)


@pytest.mark.parametrize("method", ["append", "write_alerts", "begin"])
def test_a_full_disk_silences_no_alarm(
    method: str,
    unguarded: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    heard: list[Any] = []
    trainer = _trainer(tmp_path)
    callback = runs.guard(trainer, every=2, rules=[runs.FromStep()], patience=1, action=heard.append)
    monkeypatch.setattr(History, method, full)
    with caplog.at_level(logging.WARNING, "reasoning_guard"):
        trainer.train()
    assert _same(trainer, unguarded)
    assert "No space left on device" in caplog.text
    assert [e.step for e in callback.guard.evaluations] == [0, 2, 4, 6]
    assert [alert.step for alert in heard] == [2]
    assert "ALARM from_step" in caplog.text


def test_a_broken_rule_loses_no_record_and_no_other_rule(
    unguarded: dict[str, torch.Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    class Broken(runs.FromStep):
        check = _break

    trainer = _trainer(tmp_path)
    rules = [Broken(name="broken"), runs.FromStep()]
    callback = runs.guard(trainer, every=2, rules=rules, patience=1)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert _same(trainer, unguarded)
    assert "broken on purpose" in caplog.text + "".join(str(warning.message) for warning in recwarn)
    assert [r["failure"] for r in runs.recorded(tmp_path)] == [None] * 4
    assert [alert.rule for alert in callback.guard.alerts] == ["from_step"]


@pytest.mark.parametrize("method", ["evaluation", "alert"])
def test_a_broken_sink_loses_its_message_only(
    method: str, unguarded: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = _trainer(tmp_path, report_to="tensorboard")
    callback = runs.guard(trainer, every=2, rules=[runs.FromStep()], patience=1)
    monkeypatch.setattr(TensorBoardSink, method, _break)
    with pytest.warns(ReasoningGuardWarning, match="broken on purpose"):
        trainer.train()
    assert _same(trainer, unguarded)
    assert [record["failure"] for record in runs.recorded(tmp_path)] == [None] * 4
    assert len(callback.guard.alerts) == 1


def test_a_broken_action_of_the_users_own_is_told(unguarded: dict[str, torch.Tensor], tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    runs.guard(trainer, every=2, rules=[runs.FromStep()], patience=1, action=_break)
    with pytest.warns(ReasoningGuardWarning, match="broken on purpose"):
        trainer.train()
    assert _same(trainer, unguarded)


@pytest.mark.parametrize("method", ["scalars", "evaluate", "begin"])
def test_an_error_between_guard_and_trainer_is_logged(
    method: str,
    unguarded_evaluating: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even then the best-model selection must find its number."""
    trainer = _trainer(tmp_path, **EVALUATING)
    runs.guard(trainer)
    monkeypatch.setattr(Guard, method, _break)
    trainer.train()
    assert _same(trainer, unguarded_evaluating)
    assert "broken on purpose" in caplog.text


def test_a_model_that_cannot_be_copied_is_watched_without_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("reasoning_guard.reference.frozen_copy", _break)
    trainer = _trainer(tmp_path)
    callback = runs.guard(trainer, every=3)
    trainer.train()
    assert callback.guard.reference is None
    assert "broken on purpose" in caplog.text
    assert math.isfinite(callback.guard.evaluations[-1].mean("info_gain"))


@pytest.mark.parametrize("part", ["generator", "scorer", "reference"])
def test_for_tests_errors_can_be_raised(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trainer(tmp_path)
    runs.guard(trainer, every=2, on_error="raise")
    monkeypatch.setattr(*PARTS[part], _break)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_for_tests_errors_in_decision_and_records_can_be_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(tmp_path)
    runs.guard(trainer, every=2, on_error="raise")
    monkeypatch.setattr(History, "append", _break)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        trainer.train()
