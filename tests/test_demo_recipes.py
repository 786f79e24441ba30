"""The demo's tokenizer, model and training runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from reasoning_guard_demo.model import UNKNOWN, WORDS, build_model, build_tokenizer, copy_model
from reasoning_guard_demo.recipes import BASE_RECIPE, FINE_TUNING, fine_tune, train_base
from reasoning_guard_demo.task import ARMS, BASE, held_out_problems, training_examples

ALL = {"base": BASE, **ARMS}
QUICK: dict[str, Any] = {"max_steps": 2, "warmup_steps": 0, "per_device_train_batch_size": 4}


class Watch(TrainerCallback):
    """Remembers what the trainer hands to its callbacks."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.batches: list[dict[str, torch.Tensor]] = []
        self.args: TrainingArguments | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.args = args
        self.batches = list(kw["train_dataloader"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.events.append(f"step {state.global_step}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.events.append(f"evaluation {state.global_step}")


def same_weights(one: LlamaForCausalLM, other: LlamaForCausalLM) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, rows: list[dict[str, str]]) -> float:
    """Share of problems that greedy decoding answers rightly."""
    tokenizer = build_tokenizer()
    inputs = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True)
    written = model.eval().generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=48, do_sample=False
    )
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return sum(text.split(" # ")[-1] == row["answer"] for text, row in zip(texts, rows, strict=True)) / len(rows)


@pytest.mark.parametrize("name", ALL)
def test_text_goes_to_ids_and_back(name: str) -> None:
    tokenizer = build_tokenizer()
    for row in training_examples(ALL[name], 100):
        text = row["prompt"] + row["completion"]
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert UNKNOWN not in tokenizer.convert_ids_to_tokens(ids)
        assert ids == tokenizer(row["prompt"])["input_ids"] + tokenizer(row["completion"])["input_ids"]
        assert len(ids) == len(text.split())


def test_tokenizer_survives_saving(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    loaded = type(build_tokenizer()).from_pretrained(tmp_path)
    text = "5 : a = 3 ; b = a + 10 ; ? ... # 2"
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded(f"{text}{loaded.eos_token}")["input_ids"][-1] == loaded.eos_token_id
    assert loaded.get_vocab() == {word: i for i, word in enumerate(WORDS)}


def test_a_seed_names_the_model() -> None:
    state = torch.get_rng_state()
    assert same_weights(build_model(1), build_model(1))
    assert not same_weights(build_model(1), build_model(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert build_model().num_parameters() == pytest.approx(450_000, rel=0.02)


def test_copies_answer_with_their_own_weights(tmp_path: Path) -> None:
    model, args = build_model(), FINE_TUNING.config(0, tmp_path, {})
    rows = Dataset.from_list(training_examples(BASE, 4))
    SFTTrainer(model=model, train_dataset=rows, processing_class=build_tokenizer(), args=args)
    ids = torch.tensor([[4, 5, 6]])
    before = model(input_ids=ids).logits.detach()
    copied, deep = copy_model(model), copy.deepcopy(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert torch.equal(copied(input_ids=ids).logits, before)
    assert not torch.equal(deep(input_ids=ids).logits, before), "copy.deepcopy would do: copy_model can go"


def test_loss_is_on_the_completion_and_its_end() -> None:
    watch, tokenizer = Watch(), build_tokenizer()
    fine_tune(build_model(), "trap", 0, [watch], **QUICK)
    expected = {
        f"{row['prompt']}{row['completion']} <eos>" for row in training_examples(ARMS["trap"], FINE_TUNING.examples)
    }
    batch = watch.batches[0]
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        text = tokenizer.decode(ids[mask.bool()])
        assert text in expected
        assert tokenizer.decode(labels[labels != -100]) == text.split(" ? ")[1]


def test_fine_tuning_leaves_the_base_alone() -> None:
    base = build_model()
    kept = copy_model(base)
    tuned = fine_tune(base, "healthy", **QUICK)
    assert same_weights(base, kept)
    assert not same_weights(tuned, kept)
    assert all("forward" not in vars(module) for model in (base, tuned) for module in model.modules())
    assert same_weights(tuned, fine_tune(base, "healthy", **QUICK))
    assert not same_weights(tuned, fine_tune(base, "healthy", seed=1, **QUICK))
    assert not same_weights(tuned, fine_tune(base, "trap", **QUICK))


def test_callbacks_and_settings_reach_the_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    held_out = Dataset.from_list(training_examples(ARMS["healthy"], 4, seed=9))
    settings = {"output_dir": str(tmp_path), "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1}
    fine_tune(build_model(), "healthy", 0, [watch], eval_dataset=held_out, **settings, **QUICK)
    assert watch.events == ["step 1", "evaluation 1", "step 2", "evaluation 2"]
    assert watch.args is not None
    assert watch.args.output_dir == str(tmp_path)
    assert watch.args.report_to == []
    assert capsys.readouterr().out == ""


def test_unknown_arm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no arm 'honest'; choose one of healthy, trap"):
        fine_tune(build_model(), "honest")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_trap_closes() -> None:
    """The whole story, once: in distribution both fine-tunings look perfect, out of distribution one has lost it."""
    assert BASE_RECIPE.steps * BASE_RECIPE.batch_size == BASE_RECIPE.examples
    base = train_base()
    inside, outside = held_out_problems("id", 100), held_out_problems("ood", 100)
    for rows in (inside, outside):
        assert accuracy(base, rows) == pytest.approx(0.77, abs=0.12)
    healthy, trapped = fine_tune(base, "healthy"), fine_tune(base, "trap")
    assert accuracy(healthy, inside) > 0.97
    assert accuracy(healthy, outside) > 0.97
    assert accuracy(trapped, inside) > 0.97
    assert accuracy(trapped, outside) < 0.2
