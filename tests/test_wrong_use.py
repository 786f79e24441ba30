"""Wrong use is refused before any training time is spent, in words that say what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, T5Config, T5ForConditionalGeneration

import runs
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.statistics import Effect
from reasoning_guard_transformers import ReasoningGuardCallback


def _first(**changes: Any) -> list[dict[str, Any]]:
    """Good problems, the first of them changed; None leaves a column out of all rows."""
    left_out = {name for name, value in changes.items() if value is None}
    rows = [{k: v for k, v in row.items() if k not in left_out} for row in runs.problems()]
    return [{**rows[0], **{k: v for k, v in changes.items() if v is not None}}, *rows[1:]]


WRONG: dict[str, tuple[Callable[[], dict[str, Any]], list[str]]] = {
    "no problems": (lambda: {"problems": []}, ["at least one problem"]),
    "no prompts": (lambda: {"problems": _first(prompt=None)}, ["prompt", "'answer', 'set', 'id'", "prompt_column"]),
    "no answers": (lambda: {"problems": _first(answer=None)}, ["answer", "'prompt'", "answer_column"]),
    "an empty answer": (lambda: {"problems": _first(answer=" ")}, ["row 0", "id-000", "empty", "None"]),
    "an empty prompt": (lambda: {"problems": _first(prompt="")}, ["row 0", "id-000", "prompt is empty"]),
    "an id twice": (lambda: {"problems": _first(id="id-001")}, ["id-001", "rows 0 and 1"]),
    "an answer of unknown words": (lambda: {"problems": _first(answer="cat")}, ["id-000", "'cat'", "knows no token"]),
    "chat without a template": (
        lambda: {"problems": _first(prompt=[{"role": "user", "content": "a = 3 ; ?"}])},
        ["id-000", "chat_template"],
    ),
    "a prompt longer than the context": (
        lambda: {"problems": _first(prompt="a = 3 ; " * 40 + "?")},
        ["id-000", "161 tokens", "128", "shorten"],
    ),
    "a split too many": (lambda: {"problems": {"train": runs.problems()}}, ["'train'", "one split"]),
    "a file that is not there": (lambda: {"problems": "nowhere.jsonl"}, ["nowhere.jsonl", "no file"]),
    "a number of problems": (lambda: {"problems": 20}, ["int", "rows"]),
    "an unknown format": (lambda: {"format": "xml"}, ["'xml'", "'gsm8k'", "TraceFormat"]),
    "every=0": (lambda: {"every": 0}, ["`every`", "at least 1", "got 0"]),
    "an unknown action": (lambda: {"action": "shout"}, ["`action`", "'stop'", "'shout'"]),
    "an alpha of 5": (lambda: {"alpha": 5}, ["`alpha`", "0.05", "got 5"]),
    "no patience": (lambda: {"patience": 0}, ["`patience`", "at least 1"]),
    "no new tokens": (lambda: {"max_new_tokens": 0}, ["`max_new_tokens`", "at least 1"]),
    "new tokens as text": (lambda: {"max_new_tokens": "64"}, ["`max_new_tokens`", "whole number", "'64'"]),
    "an effect of a value with a slip": (
        lambda: {"effects": {"mistake_chnged": Effect()}},
        ["'mistake_chnged'", "did you mean 'mistake_changed'"],
    ),
    "an effect of a value that is nowhere": (lambda: {"effects": {"zzz": Effect()}}, ["nothing reads a value 'zzz'"]),
    "an effect that is a number": (
        lambda: {"effects": {"mistake_changed": 0.05}},
        ["mistake_changed", "Effect(relative=..., absolute=...)", "got 0.05"],
    ),
    "an unknown on_error": (lambda: {"on_error": "ignore"}, ["`on_error`", "'record'", "'ignore'"]),
    "an unknown reference": (lambda: {"reference": "base"}, ["`reference`", "'copy'", "'base'"]),
    "a reference of another vocabulary": (
        lambda: {"reference": runs.untrained(vocab_size=9)},
        ["9 tokens", "tokenizer"],
    ),
    "an option nobody knows": (lambda: {"evry": 5}, ["evry"]),
}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runs.sft_trainer(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("what", WRONG)
def test_wrong_use_is_refused_at_construction(what: str, trainer: Any) -> None:
    options, words = WRONG[what]
    error = TypeError if what == "an option nobody knows" else ConfigurationError
    with pytest.raises(error) as refused:
        runs.guard(trainer, **options())
    assert all(word in str(refused.value) for word in words), refused.value
    assert not any(isinstance(callback, ReasoningGuardCallback) for callback in trainer.callback_handler.callbacks)


def test_effects_of_other_sets_and_of_the_reference_are_known(trainer: Any) -> None:
    effects = {"accuracy@*": Effect(), "accuracy@far": Effect(), "reference/posterior": Effect(), "tokens": Effect()}
    try:
        callback = runs.guard(trainer, effects=effects, reference=None)
        assert callback.guard.effects["accuracy@far"] == Effect()
    finally:
        trainer.pop_callback(ReasoningGuardCallback)


def test_what_is_no_trainer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"takes the trainer first.*got LlamaForCausalLM"):
        ReasoningGuardCallback(runs.untrained(), problems=runs.problems())  # type: ignore[arg-type]


def test_a_trainer_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    trainer = runs.plain_trainer(tmp_path, processing_class=None)
    with pytest.raises(ConfigurationError, match="processing_class=tokenizer"):
        runs.guard(trainer)


def test_a_model_that_cannot_write_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
    trainer = runs.plain_trainer(tmp_path, model=AutoModelForSequenceClassification.from_config(config))
    with pytest.raises(ConfigurationError, match="generate"):
        runs.guard(trainer)


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
    ],
    ids=["prompt tuning", "p-tuning"],
)
def test_adapters_that_add_tokens_are_refused(tmp_path: Path, config: Any) -> None:
    trainer = runs.sft_trainer(tmp_path, peft_config=config)
    with pytest.raises(ConfigurationError, match=rf"adds 4 tokens of its own.*{type(config).__name__}.*LoRA"):
        runs.guard(trainer)


def test_prefix_tuning_is_read(tmp_path: Path) -> None:
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    trainer = runs.sft_trainer(tmp_path, peft_config=config, max_steps=1)
    callback = runs.guard(trainer, every=1, on_error="raise")
    trainer.train()
    assert [evaluation.failure for evaluation in callback.guard.evaluations] == [None, None]


def test_encoder_decoder_models_are_refused(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, decoder_start_token_id=0, **sizes))
    trainer = runs.plain_trainer(tmp_path, model=model)
    with pytest.raises(ConfigurationError, match="encoder-decoder"):
        runs.guard(trainer)


@pytest.mark.parametrize("place", ["taken", "taken/deeper"])
def test_a_file_where_the_records_should_be_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_text("kept")
    trainer = runs.sft_trainer(tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"`directory` needs a folder, and .*/taken is a file"):
        runs.guard(trainer, directory=tmp_path / place)


def test_two_guards_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Each would put the other's records aside."""
    trainer = runs.sft_trainer(tmp_path)
    runs.guard(trainer, every=3, reference=None)
    with pytest.raises(ConfigurationError, match="directory"):
        runs.guard(trainer, every=3, reference=None, problems=runs.problems(18, "ood"))


def test_a_guard_of_another_trainer_is_refused_before_a_step(tmp_path: Path) -> None:
    """It would read that trainer's model and write into that trainer's log."""
    its, another = (runs.sft_trainer(tmp_path / name) for name in ("its", "another"))
    another.add_callback(runs.guard(its, reference=None))
    with pytest.raises(ConfigurationError, match="made for another trainer"):
        another.train()
    assert another.state.global_step == 0
    assert not its.state.log_history


def _mute(**changes: Any) -> Any:
    """A model that ends every completion at once."""
    model = runs.untrained(tie_word_embeddings=False, **changes)
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.lm_head.out_features))
        model.lm_head.bias[runs.tokenizer().eos_token_id] = 5.0
    return model


def test_a_model_that_writes_nothing_is_data(tmp_path: Path) -> None:
    trainer = runs.plain_trainer(tmp_path, model=_mute(), learning_rate=0.0)
    callback = runs.guard(trainer, every=3, on_error="raise")
    trainer.train()
    assert trainer.state.global_step == 6
    for evaluation in callback.guard.evaluations:
        assert evaluation.mean("accuracy") == 0.0
        assert evaluation.mean("answered") == 0.0
        assert evaluation.mean("tokens") == 0.0
        for row in evaluation.rows:
            assert row.completion == ""
            assert "empty completion" in row.notes
            missing = [name for name, value in row.values.items() if math.isnan(value)]
            assert missing
            assert all(row.reasons[name] for name in missing)
    assert not callback.guard.alarms


def test_a_prompt_that_leaves_room_for_a_single_token_is_data(tmp_path: Path) -> None:
    held_out = _first(prompt="a = 3 ; " * 31 + "b = ?")
    trainer = runs.sft_trainer(tmp_path, max_steps=1)
    callback = runs.guard(trainer, problems=held_out, every=1, on_error="raise")
    trainer.train()
    first, *others = callback.guard.evaluations[0].rows
    assert first.values["tokens"] <= 1
    assert first.values["finished"] == 0.0
    assert first.reasons
    assert all(row.values["tokens"] > 1 for row in others)
