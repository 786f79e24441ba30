"""An evaluation in the middle of training: nothing of it may touch the training."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from evaluating import ask
from memorised import FORMAT, LESSONS, PROBLEMS, TOKENIZER, encode, memorised
from reasoning_guard.model_context import reading
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import take_reference
from reasoning_guard_demo.model import build_tokenizer


def trained(kind: str, guarded: bool) -> dict[str, torch.Tensor]:
    """Weights after a few steps of training with dropout, with or without an evaluation after each step."""
    torch.manual_seed(0)
    random.seed(0)
    model: Any = memorised()
    if kind == "bf16":
        model = model.to(torch.bfloat16)
    if kind == "lora":
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3, init_lora_weights=False)
        model = get_peft_model(model, lora)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable()
        model.config.use_cache = False
    reference = take_reference(model, TOKENIZER, FORMAT) if guarded else None
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.tensor([encode(f"{LESSONS[i].problem.prompt} {LESSONS[i].completion(2)}")[:18] for i in (0, 1, 2)])
    for _ in range(3):
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if guarded:
            ask(model, PROBLEMS[:4], reference=reference)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["full", "lora", "bf16", "checkpointing"])
def test_training_ends_in_the_same_weights_bit_for_bit(kind: str) -> None:
    plain, guarded = trained(kind, guarded=False), trained(kind, guarded=True)
    assert plain.keys() == guarded.keys()
    assert all(torch.equal(plain[name], guarded[name]) for name in plain)


def test_the_model_and_everything_around_it_is_left_as_it_was() -> None:
    model, tokenizer = memorised(), build_tokenizer()
    tokenizer.padding_side = "right"
    model.model.layers[0].eval()
    model.model.embed_tokens.requires_grad_(False)
    reader = TraceReader(tokenizer, FORMAT)
    reference = take_reference(model, tokenizer, FORMAT)
    ids = torch.tensor([encode(str(PROBLEMS[0].prompt))])
    model(input_ids=ids, labels=ids).loss.backward()
    before = snapshot(model, tokenizer)
    ask(model, reference=reference, reader=reader)
    assert all(torch.equal(a, b) for a, b in zip(before[0], snapshot(model, tokenizer)[0], strict=True))
    assert snapshot(model, tokenizer)[1:] == before[1:]


def snapshot(model: Any, tokenizer: Any) -> tuple[Any, ...]:
    """Tensors first, then what can be compared directly."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    tensors = [t.detach().clone() for t in (*model.parameters(), *model.buffers(), *gradients, torch.get_rng_state())]
    return (
        tensors,
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        (model.config.to_dict(), model.generation_config.to_dict(), copy.copy(vars(model.config))),
        (repr(tokenizer), random.getstate(), torch.is_grad_enabled()),
    )


def test_an_error_in_the_middle_leaves_the_flags_as_they_were() -> None:
    model = memorised()
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()

    def broken() -> None:
        with reading(model, dense_masks=True):
            torch.rand(3)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        broken()
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
