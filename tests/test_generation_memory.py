"""Generation where memory runs out: smaller batches, remembered for the next time, and nothing held."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import pytest
import torch

from completing import assert_same, complete, prompts
from memorised import TOKENIZER
from reasoning_guard import generation
from reasoning_guard.generation import Generator
from tiny_models import tiny_model


def test_out_of_memory_halves_the_budget_and_carries_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    whole = complete(model, prompts(9))
    inner = model.model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("a small device")
        return inner(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", limited)
    generator = Generator(model, TOKENIZER, max_new_tokens=8, token_budget=512, progress=False)
    with caplog.at_level(logging.WARNING):
        found = generator.complete(prompts(9))
    assert_same(found, whole)
    assert generator.token_budget < 512
    assert "halved" in caplog.text


def small_device(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """From now on, memory runs out for more than two rows, late, when the cache has grown; lists the failed caches."""
    inner, failed = model.model.forward, []

    def limited(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs["past_key_values"]
        if kwargs["input_ids"].shape[0] > 2 and cache is not None and cache.get_seq_length() > 32:
            failed.append(weakref.ref(cache))
            raise torch.OutOfMemoryError("a small device")
        return inner(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", limited)
    return failed


def test_what_memory_taught_is_remembered_for_the_next_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    untried = Generator(model, TOKENIZER).token_budget
    failed = small_device(model, monkeypatch)
    first = complete(model, prompts(9))
    learnt, n_failed = Generator(model, TOKENIZER).token_budget, len(failed)
    assert n_failed > 0
    assert_same(complete(model, prompts(9)), first)
    assert len(failed) == n_failed, "no pass fails a second time"
    assert learnt < untried == Generator(tiny_model("llama"), TOKENIZER).token_budget
    assert Generator(model, TOKENIZER, token_budget=512).token_budget == 512


def test_a_budget_that_was_asked_for_teaches_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    untried = Generator(model, TOKENIZER).token_budget
    failed = small_device(model, monkeypatch)
    complete(model, prompts(9), token_budget=512)
    assert failed
    assert Generator(model, TOKENIZER).token_budget == untried


def test_a_model_on_another_kind_of_device_is_not_bound_by_what_it_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_model("llama")
    other: Any = tiny_model("llama")
    generator = Generator(model, TOKENIZER, max_new_tokens=8, progress=False)
    small_device(model, monkeypatch)
    generator.complete(prompts(9))
    learnt = generator.token_budget
    for each in (model, other):
        each.to("meta")
    assert generator.token_budget == Generator(other, TOKENIZER).token_budget > learnt
    model.to_empty(device="cpu")
    assert generator.token_budget == learnt


def test_memory_is_given_back_when_the_failed_pass_no_longer_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, held = tiny_model("llama"), []
    failed = small_device(model, monkeypatch)
    monkeypatch.setattr(generation, "empty_cache", lambda _: held.append([cache() is not None for cache in failed]))
    complete(model, prompts(9))
    assert len(held) == len(failed) > 0
    assert not any(any(each) for each in held)


def test_out_of_memory_on_a_single_prompt_is_raised_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("a full device")

    monkeypatch.setattr(model.model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="nothing is left to halve"):
        complete(model, prompts())
    assert all(module.training for module in model.modules())
