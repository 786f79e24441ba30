"""A small model that knows a handful of completions by heart, and at every cut the answer that it was taught there.

Its answers after a cut chain are right or wrong as the lesson says, so early answering has a known truth. A mistake in
the chain it follows in the second lesson, which taught it to; in the others it has never seen one.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reasoning_guard.formats import TraceFormat
from reasoning_guard.problems import Problem
from reasoning_guard_demo.model import build_tokenizer

FORMAT = TraceFormat(name="hashes", cue="#", step_end=r";", answer=r"# (\S+)")
TOKENIZER: PreTrainedTokenizerFast = build_tokenizer()
CONTEXT, MODULUS = 96, 11


@dataclass(frozen=True)
class Lesson:
    """A problem, the steps of its solution, and whether the taught answer is the right one after ``k`` of them."""

    problem: Problem
    steps: tuple[str, ...]
    right: tuple[bool, ...]

    def answer(self, k: int) -> str:
        truth = int(self.problem.answer or 0)
        return str(truth if self.right[k] else (truth + 1 + k) % MODULUS)

    def completion(self, k: int) -> str:
        return " ".join([*self.steps[:k], f"# {self.answer(k)}"])


def _lesson(index: int, n: int, rng: random.Random) -> Lesson:
    start = value = rng.randrange(MODULUS)
    steps = []
    for name, old in zip("bcde"[:n], "abcd", strict=False):
        left, right = value, rng.randrange(2, MODULUS)
        value = (left + right if old in "ac" else left * right) % MODULUS
        steps.append(f"{name} = {left} {'+' if old in 'ac' else '*'} {right} = {value} ;")
    problem = Problem(prompt=f"{index} : a = {start} ; ?", answer=str(value), id=f"lesson-{index}")
    return Lesson(problem, tuple(steps), (*(rng.random() < 0.5 for _ in range(n)), True))


def _lessons() -> tuple[Lesson, ...]:
    rng = random.Random(1)
    return tuple(_lesson(i, n, rng) for i, n in enumerate((4, 2, 3, 0, 2, 4, 3, 1)))


OPENER = Lesson(
    Problem(prompt="8 : a = 3 ; ?", answer="9", id="opener"), ("9 ;", "b = 3 + 4 = 7 ;"), (True, True, True)
)
"""A completion that opens with its answer."""
LESSONS = (*_lessons(), OPENER)
PROBLEMS = tuple(lesson.problem for lesson in LESSONS)


def encode(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def misled(value: int) -> tuple[list[int], list[int]]:
    """The second lesson with another result in its first step, which the model is taught to go on from."""
    lesson = LESSONS[1]
    head = f"{lesson.problem.prompt} {lesson.steps[0].rsplit('=', 1)[0]}= {value} ;"
    right = lesson.steps[0].endswith(f"= {value} ;")
    rest = f"{lesson.steps[1]} # {lesson.answer(2)}" if right else f"c = {value} + 0 = {value} ; # {value}"
    taught = [*encode(rest), TOKENIZER.eos_token_id]
    return [*encode(head), *taught], [-100] * len(encode(head)) + taught


@cache
def _trained() -> LlamaForCausalLM:
    rows = []
    for lesson in LESSONS:
        prompt = encode(str(lesson.problem.prompt))
        for k in range(len(lesson.right)):
            # A cut completion is taught only from its cue on, so that left alone the model writes all steps.
            done = encode(" ".join(lesson.steps[:k])) if k < len(lesson.steps) else []
            ids = prompt + encode(lesson.completion(k)) + [TOKENIZER.eos_token_id]
            taught = ids[len(prompt) + len(done) + bool(k < len(lesson.steps)) :]
            rows.append((ids, [-100] * (len(ids) - len(taught)) + taught))
    rows += [misled(value) for value in range(MODULUS)]
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows])
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, pad_token_id=TOKENIZER.pad_token_id,
        eos_token_id=TOKENIZER.eos_token_id, bos_token_id=None, attention_dropout=0.1, initializer_range=0.05,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
        for _ in range(400):
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if loss.item() < 0.02:
                break
    return model


def memorised() -> LlamaForCausalLM:
    """A fresh copy of the model, in training mode; its attention drops out, so that evaluation flags matter."""
    return copy.deepcopy(_trained()).train()
