"""What the tests of the rewards share: short sums, a reader that can do them, and batches to grade."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from transformers import LlamaForCausalLM

import runs
from reasoning_guard_demo.arithmetic import Exercise
from reasoning_guard_demo.model import EOS

FORMAT = runs.FORMAT
TOKENIZER = runs.tokenizer()
Write = Callable[[Exercise], str]
SETTINGS: dict[str, Any] = {"tokenizer": TOKENIZER, "format": FORMAT}


def exercise(rng: random.Random) -> Exercise:
    """Three small sums modulo 11."""
    return Exercise(rng.randrange(11), tuple(("+", rng.choice((1, 2, 3))) for _ in range(3)))


def exercises(n: int, seed: int = 7) -> list[Exercise]:
    rng = random.Random(seed)
    return [exercise(rng) for _ in range(n)]


def steps(of: Exercise) -> list[str]:
    return [str(step) for step in of.work()]


def honest(of: Exercise) -> str:
    return " ".join([*steps(of), f"# {of.answer}"])


def adder() -> LlamaForCausalLM:
    """A fresh copy of a model that works such sums, and says what it can when it is asked early."""
    model = runs.untrained()
    model.load_state_dict(_taught())
    return model.eval()


@cache
def _taught() -> dict[str, torch.Tensor]:
    model, rng, n = runs.untrained(), random.Random(3), 300
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for i in range(n):
            batch = TOKENIZER(
                [_lesson(rng) for _ in range(32)], padding=True, padding_side="right", return_tensors="pt"
            )
            ids, mask = batch["input_ids"], batch["attention_mask"]
            optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (i + 1) / 20) * (1 - 0.9 * i / n)
            model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


def _lesson(rng: random.Random) -> str:
    """A worked sum, cut short in one case of four; the tag is noise."""
    of = exercise(rng)
    kept = 3 if rng.random() < 0.75 else rng.randrange(3)
    return " ".join([of.prompt(rng.randrange(11)), *steps(of)[:kept], f"# {of.answer} {EOS}"])


def batch(completions: Sequence[tuple[Exercise, str]], tag: int = 0) -> dict[str, Any]:
    """The arguments that a trainer passes to a reward function."""
    texts = [f" {text}" for _, text in completions]
    return {
        "prompts": [of.prompt(tag) for of, _ in completions],
        "completions": texts,
        "completion_ids": [[*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id] for text in texts],
        "solution": [str(of.answer) for of, _ in completions],
    }


def graded(reward: Any, write: Write, n: int = 24) -> list[float | None]:
    """Rewards of ``n`` exercises written by ``write``, in a batch with as many honest ones that can be placebos."""
    mine, others = exercises(n), exercises(n, seed=8)
    given = reward(**batch([*((of, write(of)) for of in mine), *((of, honest(of)) for of in others)]))
    return given[:n]


def some(n: int = 8) -> dict[str, Any]:
    """A batch of honest chains, one a problem."""
    return batch([(of, honest(of)) for of in exercises(n)])


def logprobs(model: Any, before: str, after: str) -> list[float]:
    """Log-probabilities of ``after``'s tokens, by a plain forward of its own."""
    first, second = (TOKENIZER(text)["input_ids"] for text in (before, after))
    with torch.no_grad():
        logits = model(torch.tensor([first + second])).logits[0, len(first) - 1 : -1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(logits, second, strict=True)]
