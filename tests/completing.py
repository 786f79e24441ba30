"""What the tests of generation share: random prompts, a greedy loop to compare with, and completions in one call."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch

from memorised import TOKENIZER
from reasoning_guard.generation import Completion, Generator

EOS = int(TOKENIZER.eos_token_id)


def prompts(n: int = 5, seed: int = 0) -> list[list[int]]:
    """Random prompts of very different lengths, so that some get a lot of padding."""
    rng = random.Random(seed)
    return [[rng.randrange(3, len(TOKENIZER)) for _ in range(rng.choice([2, 5, 9, 17, 30]))] for _ in range(n)]


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], n: int, ends: Collection[int] = ()) -> Completion:
    """At most ``n`` tokens, one whole forward each: the definition."""
    training, ids, entropies = model.training, list(prompt), []
    ends = ends or (EOS, model.config.eos_token_id)
    model.eval()
    while len(ids) < len(prompt) + n:
        logprobs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
        token = int(logprobs.argmax())
        if token in ends:
            break
        ids.append(token)
        entropies.append(-(logprobs.exp() * logprobs).sum().item())
    model.train(training)
    return Completion(tuple(ids[len(prompt) :]), len(ids) < len(prompt) + n, tuple(entropies))


def assert_same(found: Sequence[Completion], truth: Sequence[Completion]) -> None:
    assert [c.ids for c in found] == [c.ids for c in truth]
    assert [c.finished for c in found] == [c.finished for c in truth]
    for one, other in zip(found, truth, strict=True):
        assert one.entropies == pytest.approx(other.entropies, abs=1e-4)


def complete(
    model: Any, questions: Sequence[Sequence[int]], tokenizer: Any = TOKENIZER, **settings: Any
) -> list[Completion]:
    stop = settings.pop("stop", None)
    is_complete = (lambda tail: any(s in tail for s in stop)) if stop else None
    settings = {"max_new_tokens": 8, "is_complete": is_complete, **settings}
    return Generator(model, tokenizer, progress=False, **settings).complete(questions)
