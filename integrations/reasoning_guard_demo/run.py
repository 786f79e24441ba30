"""Fine-tune the base with the guard watching, and keep what is worth showing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import SFTTrainer

from reasoning_guard import Alert, Evaluation, TraceFormat
from reasoning_guard_demo.model import build_tokenizer, copy_model
from reasoning_guard_demo.recipes import FINE_TUNING
from reasoning_guard_demo.task import ARMS, held_out_problems, training_examples
from reasoning_guard_transformers import ReasoningGuardCallback

FORMAT = TraceFormat(name="modulo 11", cue=" #", step_end=r";", answer=r"# (\S+)")
"""Steps end at ";", and the answer follows "#"."""

PROBLEMS = 128
"""Number of held-out problems in each set."""

EVERY = 15
"""Training steps between evaluations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened in one fine-tuning.

    Attributes:
        arm: Name of the arm.
        seed: Seed of base, data and order.
        directory: Where the guard's records are.
        evaluations: All evaluations, the baseline first.
        alerts: What the guard said.
        steps: Training steps that were taken.
        seconds: Wall time of the training, the guard included.
    """

    arm: str
    seed: int
    directory: Path
    evaluations: tuple[Evaluation, ...]
    alerts: tuple[Alert, ...]
    steps: int
    seconds: float

    @property
    def alarmed(self) -> bool:
        """Whether there is an alarm. Notices do not count."""
        return any(alert.severity == "alarm" for alert in self.alerts)


def tell(
    base: LlamaForCausalLM,
    arm: str,
    seed: int,
    out: Path,
    *,
    action: str = "warn",
    every: int = EVERY,
    problems: int = PROBLEMS,
    beside: Sequence[Callable[[ReasoningGuardCallback], TrainerCallback]] = (),
    **options: Any,
) -> Story:
    """Fine-tune a copy of ``base`` on one arm with TRL's ``SFTTrainer`` and the callback.

    Args:
        base: The model before fine-tuning; left as it is.
        arm: One of :data:`~reasoning_guard_demo.task.ARMS`.
        seed: Seed of data and order.
        out: Folder of the run; whatever is there is replaced.
        action: What an alarm does.
        every: Training steps between evaluations.
        problems: Number of held-out problems in each set.
        beside: Further callbacks, each made from the guard's.
        options: Further arguments of the guard.

    Returns:
        What happened.
    """
    shutil.rmtree(out, ignore_errors=True)
    trainer = SFTTrainer(
        model=copy_model(base),
        args=FINE_TUNING.config(seed, out, {"report_to": "tensorboard", "logging_steps": EVERY}),
        train_dataset=Dataset.from_list(training_examples(ARMS[arm], FINE_TUNING.examples, seed)),
        processing_class=build_tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    settings = {"format": FORMAT, "max_new_tokens": 48, "action": action, "progress": False, **options}
    held_out = [problem for set in ("id", "ood") for problem in held_out_problems(set, problems)]
    callback = ReasoningGuardCallback(trainer, problems=held_out, every=every, **settings)
    trainer.add_callback(callback)
    for make in beside:
        trainer.add_callback(make(callback))
    result = trainer.train()
    guard = callback.guard
    return Story(
        arm=arm,
        seed=seed,
        directory=out / "reasoning_guard",
        evaluations=tuple(guard.evaluations),
        alerts=tuple(guard.alerts),
        steps=trainer.state.global_step,
        seconds=result.metrics["train_runtime"],
    )
