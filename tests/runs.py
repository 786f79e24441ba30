"""Real training runs that take a second: a tiny Llama, the demo's task, the frameworks' own trainers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from reasoning_guard.formats import TraceFormat
from reasoning_guard.rules import Comparison, Finding, Rule, Severity
from reasoning_guard_demo import task
from reasoning_guard_demo.model import EOS, PAD, WORDS, build_tokenizer
from reasoning_guard_transformers import ReasoningGuardCallback
from tiny_models import taught

datasets.disable_progress_bars()

FORMAT = TraceFormat(name="hashes", cue=" #", step_end=r";", answer=r"# (\S+)")
STEPS_AN_EPOCH, BATCH = 3, 8
SETTINGS: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": BATCH,
    "learning_rate": 1e-2,
    "seed": 0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


def problems(n: int = 20, set: str = "id") -> list[dict[str, str]]:
    """Held-out problems of the demo's task; what :func:`writer` answers to them counts as right."""
    rows = task.held_out_problems(set, n)
    return [{**row, "answer": answer or row["answer"]} for row, answer in zip(rows, _answers(set, n), strict=True)]


@cache
def _answers(set: str, n: int) -> list[str | None]:
    words, model = tokenizer(), writer().eval()
    prompts = words([row["prompt"] for row in task.held_out_problems(set, n)], padding=True, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**prompts, max_new_tokens=40, do_sample=False)
    texts = words.batch_decode(written[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    return [FORMAT.answer_in(text) for text in texts]


def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def untrained(**changes: Any) -> LlamaForCausalLM:
    """A random model of 20,000 parameters; the global random state is left alone."""
    config = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
        "pad_token_id": WORDS.index(PAD),
        "eos_token_id": WORDS.index(EOS),
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**config, **changes}))


def writer(**changes: Any) -> LlamaForCausalLM:
    """A fresh copy of a model that writes four steps and an answer, mostly wrong ones."""
    model = untrained(**changes)
    model.load_state_dict(_written())
    return model


@cache
def _written() -> dict[str, torch.Tensor]:
    model, words = untrained(), tokenizer()
    rows = task.training_examples(task.ARMS["slips"], 1000, 1)
    batch = words([row["prompt"] + row["completion"] + f" {EOS}" for row in rows], padding=True, return_tensors="pt")
    return taught(model, batch, steps=50, rate=1e-2).state_dict()


def examples(n: int = STEPS_AN_EPOCH * BATCH) -> Dataset:
    return Dataset.from_list(task.training_examples(task.ARMS["trap"], n, 0))


def sft_trainer(folder: Path, model: Any = None, callbacks: Any = None, **settings: Any) -> SFTTrainer:
    """TRL's ``SFTTrainer`` on shortcut data; ``eval_dataset`` and ``peft_config`` go to the trainer, the rest to it."""
    to_trainer = {name: settings.pop(name) for name in ("eval_dataset", "peft_config") if name in settings}
    if settings.get("eval_strategy", "no") != "no":
        to_trainer.setdefault("eval_dataset", examples(BATCH))
    args = SFTConfig(output_dir=str(folder), completion_only_loss=True, max_length=None, **{**SETTINGS, **settings})
    return SFTTrainer(
        model=writer() if model is None else model,
        args=args,
        train_dataset=examples(),
        processing_class=tokenizer(),
        callbacks=callbacks,
        **to_trainer,
    )


def plain_trainer(folder: Path, model: Any = None, callbacks: Any = None, **settings: Any) -> Trainer:
    """The Transformers ``Trainer`` itself, on token ids."""
    words = tokenizer()
    rows = examples().map(lambda row: words(row["prompt"] + row["completion"] + f" {EOS}"))
    rows = rows.remove_columns(["prompt", "completion"])
    if settings.get("eval_strategy", "no") != "no":
        settings.setdefault("eval_dataset", rows.select(range(BATCH)))
    to_trainer = {name: settings.pop(name) for name in ("eval_dataset", "processing_class") if name in settings}
    return Trainer(
        model=writer() if model is None else model,
        args=TrainingArguments(output_dir=str(folder), **{**SETTINGS, **settings}),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(words, mlm=False),
        callbacks=callbacks,
        **{"processing_class": words, **to_trainer},
    )


def guard(trainer: Trainer, **options: Any) -> ReasoningGuardCallback:
    """The one line, with what keeps a test short."""
    defaults = {"problems": problems(), "format": FORMAT, "max_new_tokens": 40, "progress": False}
    callback = ReasoningGuardCallback(trainer, **{**defaults, **options})
    trainer.add_callback(callback)
    return callback


@dataclass(frozen=True, kw_only=True)
class FromStep(Rule):
    """Fires at every look from ``step`` on, whatever the numbers are."""

    name: str = "from_step"
    severity: Severity = "alarm"
    step: int = 0

    def check(self, comparison: Comparison) -> Finding | None:
        return Finding(message="the step has come", changes=()) if comparison.current.step >= self.step else None


class Spy(TrainerCallback):
    """Calls ``act(state, control)`` on one event."""

    def __init__(self, event: str, act: Any) -> None:
        def listen(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            act(state, control)

        setattr(self, event, listen)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the parameters that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def log(trainer: Trainer, key: str) -> list[dict[str, Any]]:
    """The records of ``state.log_history`` that hold ``key``."""
    return [record for record in trainer.state.log_history if key in record]


def steps(records: list[dict[str, Any]]) -> list[int]:
    return [record["step"] for record in records]


def recorded(folder: Path, name: str = "evaluations") -> list[dict[str, Any]]:
    """What stands on the disk, without the package's own reader."""
    path = Path(folder) / "reasoning_guard" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
