"""The frozen reference stays what it was, whatever the host does to the model in training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from datasets import Dataset
from peft import AdaptionPromptConfig, LoraConfig, get_peft_model
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from memorised import FORMAT, LESSONS, TOKENIZER, encode, memorised
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import Reference, frozen_copy, take_reference
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


def trees() -> list[TraceTree]:
    """Every answer asked for at every cut of every lesson."""
    reader = TraceReader(TOKENIZER, FORMAT)
    found = []
    for lesson in LESSONS:
        trace = reader.read(lesson.problem, encode(lesson.completion(len(lesson.steps))))
        question = reader.ask(str(lesson.problem.answer))
        found.append(TraceTree(trace.ids, tuple(Branch(cut, question.ids, question.scored) for cut in trace.cuts)))
    return found


def totals(scorer: Any) -> list[float]:
    return [score.total for scores in scorer.score_trees(trees()) for score in scores]


def plain(model: Any) -> list[float]:
    """The same numbers from the model itself, one forward a branch."""
    model.eval()
    found = []
    for tree in trees():
        for branch in tree.branches:
            ids = [*tree.trunk[: branch.at], *branch.ids]
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
            places = range(branch.at + branch.scored[0], branch.at + branch.scored[1])
            found.append(sum(logprobs[p - 1, ids[p]].item() for p in places))
    return found


def spoil(model: Any) -> None:
    """What training does, only worse."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def lora(model: Any, **settings: Any) -> Any:
    defaults = {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2, "init_lora_weights": False}
    return get_peft_model(model, LoraConfig(**{**defaults, **settings}))


def taken(model: Any, choice: Any = "auto") -> Reference:
    reference = take_reference(model, TOKENIZER, FORMAT, choice)
    assert reference is not None
    return reference


def test_a_copy_keeps_answering_with_the_weights_it_was_taken_with() -> None:
    model = memorised()
    truth = plain(memorised())
    reference = taken(model)
    spoil(model)
    assert totals(reference) == pytest.approx(truth, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(plain(model), truth, strict=True)) > 1
    assert "copy" in reference.description


class TakesReference(TrainerCallback):
    """Takes the reference when everything is wrapped, right before the first step."""

    def __init__(self) -> None:
        self.reference: Reference | None = None
        self.wrapped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.wrapped = "forward" in vars(kwargs["model"])
        self.reference = take_reference(kwargs["model"], TOKENIZER, FORMAT)


@pytest.mark.filterwarnings("ignore")
def test_a_copy_taken_from_under_a_trl_trainer_is_no_window_to_the_original(tmp_path: Path) -> None:
    """TRL wraps ``model.forward`` in a closure over the model, which a deep copy would share."""
    model = memorised()
    model.config.attention_dropout = 0.0
    truth = plain(memorised())
    rows = [{"prompt": str(each.problem.prompt), "completion": f" {each.completion(0)}"} for each in LESSONS]
    args = SFTConfig(
        output_dir=str(tmp_path), max_steps=3, learning_rate=3e-2, per_device_train_batch_size=4, use_cpu=True,
        bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    callback = TakesReference()
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=TOKENIZER, callbacks=[callback]
    )
    trainer.train()
    assert callback.wrapped, "the host wraps the forward, else this shows nothing"
    assert max(abs(a - b) for a, b in zip(plain(trainer.model), truth, strict=True)) > 1
    assert callback.reference is not None
    assert totals(callback.reference) == pytest.approx(truth, abs=1e-4)


def test_copying_leaves_the_original_as_it_was() -> None:
    model = memorised()
    wrapper = model.forward
    model.forward = lambda *args, **kwargs: wrapper(*args, **kwargs)  # type: ignore[method-assign]
    model.model.layers[0].eval()
    ours = vars(model)["forward"]
    flags = [(module.training, sorted(vars(module))) for module in model.modules()]
    frozen = frozen_copy(model)
    assert vars(model)["forward"] is ours
    assert [(module.training, sorted(vars(module))) for module in model.modules()] == flags
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in frozen.parameters()}
    assert not shared
    assert frozen.lm_head.weight is frozen.model.embed_tokens.weight, "tied weights stay tied"


def test_with_its_adapter_off_it_is_the_base_model() -> None:
    truth = plain(memorised())
    model = lora(memorised())
    reference = taken(model)
    assert "adapter off" in reference.description
    assert totals(reference) == pytest.approx(truth, abs=1e-4)
    spoil(model)
    assert totals(reference) == pytest.approx(truth, abs=1e-4)
    with_adapter = plain(model)
    assert max(abs(a - b) for a, b in zip(with_adapter, truth, strict=True)) > 0.1, "the adapter is on again"
    assert totals(AnswerScorer(model, TOKENIZER, FORMAT)) == pytest.approx(with_adapter, abs=1e-4)


@pytest.mark.parametrize("way", ["pissa", "olora", "beside"])
def test_a_base_that_is_or_becomes_another_is_copied_with_its_adapter(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PiSSA takes out of the base what it puts into the adapter; what is trained beside one stays when it is off."""
    truth = plain(memorised())
    model = lora(memorised(), init_lora_weights=True if way == "beside" else way)
    if way == "beside":
        model.get_base_model().model.norm.weight.requires_grad_(True)
    reference = taken(model)
    assert "copy" in reference.description
    assert ("model.norm.weight is trained beside" if way == "beside" else f"initialised by '{way}'") in caplog.text
    assert totals(reference) == pytest.approx(truth, abs=1e-3)
    fingerprint = reference.fingerprint()
    spoil(model)
    assert totals(reference) == pytest.approx(truth, abs=1e-3)
    assert reference.fingerprint() == fingerprint


def test_prompts_inside_layers_are_an_adapter_too() -> None:
    model = memorised()
    truth = plain(model)
    model = get_peft_model(model, AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1))
    reference = taken(model)
    assert "adapter off" in reference.description
    spoil(model)
    assert totals(reference) == pytest.approx(truth, abs=1e-4)


def test_an_adapter_that_is_merged_is_not_taken_out_again() -> None:
    model = lora(memorised())
    reference = taken(model)
    model.merge_adapter()
    merged = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ConfigurationError, match="unmerge_adapter"):
        totals(reference)
    assert all(map(torch.equal, merged, model.parameters()))
    model.unmerge_adapter()
    assert totals(reference) == pytest.approx(plain(memorised()), abs=1e-3)


def test_reading_with_the_adapter_off_thaws_nothing() -> None:
    """PEFT switches gradients on for the whole active adapter when it comes back, frozen parts included."""
    model = lora(memorised())
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    assert set(before.values()) == {True, False}
    totals(taken(model))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_the_adapter_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora(memorised())
    with_adapter = plain(model)
    reference = taken(model)

    def broken(*args: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(reference._scorer, "score_trees", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        reference.score_trees(trees())
    assert plain(model) == pytest.approx(with_adapter, abs=1e-5)


def test_a_named_model_is_read_as_it_is() -> None:
    other = tiny_model("llama", vocab_size=len(TOKENIZER))
    reference = taken(memorised(), other)
    assert "LlamaForCausalLM" in reference.description
    assert totals(reference) == pytest.approx(plain(other), abs=1e-4)


def test_without_room_for_a_copy_there_is_none_and_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = memorised()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    monkeypatch.setattr("reasoning_guard.reference.free_memory", lambda device: 2 * size)
    with caplog.at_level(logging.WARNING):
        assert take_reference(model, TOKENIZER, FORMAT) is None
    assert "reference=" in caplog.text
    assert "copy" in caplog.text
    assert totals(taken(model, "copy")) == pytest.approx(plain(model), abs=1e-4)
    monkeypatch.setattr("reasoning_guard.reference.free_memory", lambda device: 6 * size)
    assert take_reference(model, TOKENIZER, FORMAT) is not None
    model.requires_grad_(False)  # nothing will be trained, so training will take nothing
    monkeypatch.setattr("reasoning_guard.reference.free_memory", lambda device: 3 * size)
    assert take_reference(model, TOKENIZER, FORMAT) is not None


def test_an_adapter_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoning_guard.reference.free_memory", lambda device: 0)
    assert take_reference(lora(memorised()), TOKENIZER, FORMAT) is not None


def test_none_is_none() -> None:
    assert take_reference(memorised(), TOKENIZER, FORMAT, None) is None


def test_wrong_choices_say_what_was_expected() -> None:
    with pytest.raises(ConfigurationError, match="'auto', 'copy', None or a model; got 'frozen'"):
        take_reference(memorised(), TOKENIZER, FORMAT, "frozen")
    with pytest.raises(ConfigurationError, match=r"knows 8 tokens, the tokenizer has \d+"):
        take_reference(memorised(), TOKENIZER, FORMAT, tiny_model("llama", vocab_size=8))


def test_a_fingerprint_changes_with_the_weights_and_with_nothing_else() -> None:
    model = memorised()
    reference = taken(model)
    fingerprint = reference.fingerprint()
    assert fingerprint == taken(memorised()).fingerprint()
    spoil(model)
    totals(reference)
    assert reference.fingerprint() == fingerprint
    assert taken(model).fingerprint() != fingerprint


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}])
def test_an_adapters_training_leaves_the_fingerprint_of_its_base(settings: dict[str, Any]) -> None:
    model = lora(tiny_model("llama", vocab_size=len(TOKENIZER)), **settings)
    reference = taken(model)
    fingerprint, truth = reference.fingerprint(), totals(reference)
    spoil(model)
    assert totals(reference) == pytest.approx(truth, abs=1e-4)
    assert reference.fingerprint() == fingerprint
    model.requires_grad_(False)
    assert reference.fingerprint() == fingerprint
    with torch.no_grad():
        model.get_base_model().model.embed_tokens.weight.add_(0.1)
    assert reference.fingerprint() != fingerprint


def test_what_an_adapter_drew_at_random_and_does_not_use_yet_is_not_in_the_fingerprint() -> None:
    """Its base is trained too, so that a copy is taken; a run that goes on draws anew before it loads its weights."""

    def reference(seed: int) -> Reference:
        torch.manual_seed(seed)
        model = tiny_model("llama", vocab_size=len(TOKENIZER))
        kinds = {"target_modules": ["q_proj", "embed_tokens"], "init_lora_weights": True}
        return taken(lora(model, **kinds, bias="all", modules_to_save=None).requires_grad_())

    one, other = reference(0), reference(1)
    assert "copy" in one.description
    assert one.fingerprint() == other.fingerprint()
    for name, parameter in other._scorer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    assert one.fingerprint() != other.fingerprint()


def test_a_reference_whose_weights_come_when_they_are_needed_has_the_same_fingerprint() -> None:
    def reference(value: float, *, offloaded: bool) -> Reference:
        model = tiny_model("llama", vocab_size=len(TOKENIZER))
        torch.nn.init.constant_(model.model.norm.weight, value)
        if offloaded:
            cpu_offload(model, execution_device=torch.device("cpu"))
        return taken(memorised(), model)

    assert reference(1.0, offloaded=True).fingerprint() == reference(1.0, offloaded=False).fingerprint()
    assert reference(1.0, offloaded=True).fingerprint() != reference(2.0, offloaded=True).fingerprint()
