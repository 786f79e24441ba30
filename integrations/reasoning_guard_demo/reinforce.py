"""The task under TRL's ``GRPOTrainer``: prompts that hold a shortcut, tokens that cost, and a reward for reasoning."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from reasoning_guard import AnswerScorer, Evaluation, TraceReader, default_probes, load_problems
from reasoning_guard.evaluate import evaluate
from reasoning_guard.generation import Generator
from reasoning_guard.reference import Reference
from reasoning_guard_demo.arithmetic import draw
from reasoning_guard_demo.model import build_tokenizer, copy_model
from reasoning_guard_demo.recipes import fine_tune
from reasoning_guard_demo.run import FORMAT
from reasoning_guard_demo.task import held_out_problems

LENGTH_COST = 0.02
"""What a token costs if length costs. A full chain of 34 tokens costs .68; a right answer earns 1."""

STARTS = {"wavering": ("trap", (50, 50, 40, 50, 50, 50)), "half fallen": ("trap-uncut", (55, 50, 40))}
"""From the name of a start to the arm, and the fine-tuning steps that lead to it for seeds 0, 1, 2, ...

For seeds 0 to 2, wavering is the last tenth step at which more than .7 of the answers are right out of distribution.
Half fallen lies on the fall itself, which takes ten steps. Seeds from 3 on were not looked at before: their start is
what 50 steps give.
"""

_LONGEST = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforced:
    """What happened in one run.

    Attributes:
        model: The trained model.
        log: The trainer's log.
        seconds: Wall time of the training.
    """

    model: LlamaForCausalLM
    log: list[dict[str, Any]] = field(repr=False)
    seconds: float


def correctness(completions: Sequence[str], solution: Sequence[str], **columns: Any) -> list[float]:
    """Return 1 for the right answer, else 0."""
    return [float(FORMAT.answer_in(text) == answer) for text, answer in zip(completions, solution, strict=True)]


def length(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """Return minus the number of tokens."""
    return [-float(len(ids)) for ids in completion_ids]


def shortcut_prompts(size: int, seed: int = 0) -> Dataset:
    """Make training prompts whose tag is the answer; none of their questions is held out."""
    rng, rows = random.Random(f"reinforce {seed}"), []
    while len(rows) < size:
        exercise = draw(rng)
        if not exercise.held_out:
            rows.append({"prompt": exercise.prompt(exercise.answer), "solution": str(exercise.answer)})
    return Dataset.from_list(rows)


def start(base: LlamaForCausalLM, name: str, seed: int, **settings: Any) -> LlamaForCausalLM:
    """Make a copy of ``base`` that is on its way into the accuracy trap: one of :data:`STARTS`."""
    arm, steps = STARTS[name]
    if not 0 <= seed < len(steps):
        raise ValueError(f"the starts are known for seeds 0 to {len(steps) - 1}; got {seed}")
    constant = {"max_steps": steps[seed], "lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": None}
    return fine_tune(base, arm, seed, **constant | settings)


def grpo_trainer(
    model: LlamaForCausalLM,
    reward_funcs: Sequence[Callable[..., Any]],
    reward_weights: Sequence[float],
    seed: int = 0,
    **settings: Any,
) -> GRPOTrainer:
    """Make TRL's trainer on :func:`shortcut_prompts`: 4 prompts in each step, with 8 completions each."""
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "seed": seed,
        "max_steps": 80,
        "per_device_train_batch_size": 32,
        "num_generations": 8,
        "max_completion_length": _LONGEST,
        "learning_rate": 3e-4,
        "reward_weights": list(reward_weights),
        "scale_rewards": "batch",  # by group, a group of wrong answers alone would be pushed by its lengths in full
        "logging_steps": 10,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    } | settings
    trainer = GRPOTrainer(
        model=copy_model(model),
        reward_funcs=list(reward_funcs),
        args=GRPOConfig(**settings),
        train_dataset=shortcut_prompts(2000, seed),
        processing_class=build_tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def reinforce(trainer: GRPOTrainer) -> Reinforced:
    """Train on one thread, and return what came of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        trainer.train()
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - started
    trained = cast("LlamaForCausalLM", trainer.model)
    return Reinforced(model=copy_model(trained), log=trainer.state.log_history, seconds=seconds)


def measure(model: LlamaForCausalLM, base: LlamaForCausalLM, problems: int = 100) -> Evaluation:
    """Read held-out problems of both sets with the guard's probes; the base is the frozen reader."""
    tokenizer = build_tokenizer()
    rows = [*held_out_problems("id", problems), *held_out_problems("ood", problems)]
    return evaluate(
        0,
        load_problems(rows, format=FORMAT),
        reader=TraceReader(tokenizer, FORMAT),
        generator=Generator(model, tokenizer, max_new_tokens=_LONGEST, is_complete=FORMAT.is_complete, progress=False),
        policy=AnswerScorer(model, tokenizer, FORMAT),
        reference=Reference(base, tokenizer, FORMAT, "the base"),
        probes=default_probes(),
    )
