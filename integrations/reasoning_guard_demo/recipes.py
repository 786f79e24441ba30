"""Train the base and its fine-tunings with TRL's own ``SFTTrainer``, on a CPU, in seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import datasets
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from reasoning_guard_demo.model import build_model, build_tokenizer, copy_model
from reasoning_guard_demo.task import ARMS, BASE, training_examples

# Transformers 5 renamed the switch, and TRL turns it on by default; a model this small only loses time to it.
_CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in SFTConfig.__dataclass_fields__
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings of a training run, apart from its data and its seed.

    Attributes:
        steps: Optimizer steps.
        examples: Size of the training data, which is gone through as often as the steps require.
        learning_rate: Peak of AdamW's learning rate, reached after ``warmup_steps``. A cosine takes it down to a tenth.
        warmup_steps: Steps of linear warm-up.
        batch_size: Examples in each step.
    """

    steps: int
    examples: int
    learning_rate: float
    warmup_steps: int
    batch_size: int = 32

    def config(self, seed: int, output_dir: str | PathLike[str], settings: dict[str, Any]) -> SFTConfig:
        """Return the trainer's arguments; ``settings`` override the recipe's own."""
        recipe: dict[str, Any] = {
            "output_dir": str(output_dir),
            "seed": seed,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "completion_only_loss": True,
            "max_length": None,  # all examples are short: nothing to cut off, one pass over the data less
            "use_cpu": True,
            "bf16": False,
            _CHECKPOINTING: False,
            "dataloader_pin_memory": False,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        return SFTConfig(**recipe | settings)


BASE_RECIPE = Recipe(steps=300, examples=9600, learning_rate=3e-3, warmup_steps=50)
"""Every example is new: the base is to learn the rules, not the examples."""

FINE_TUNING = Recipe(steps=150, examples=2000, learning_rate=2e-3, warmup_steps=10)


def train_base(seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """Train the base from scratch. It reasons, and gets about three problems in four right.

    Args:
        seed: Seed of the initial weights, the data and their order.
        settings: Fields of :class:`trl.SFTConfig` that differ from the recipe's.

    Returns:
        The trained model.
    """
    rows = training_examples(BASE, BASE_RECIPE.examples, seed)
    return _train(build_model(seed), rows, BASE_RECIPE, seed, settings)


def fine_tune(
    model: LlamaForCausalLM,
    arm: str,
    seed: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    eval_dataset: Dataset | None = None,
    **settings: Any,
) -> LlamaForCausalLM:
    """Fine-tune a copy of ``model`` on one arm.

    Args:
        model: The base; it is left as it is.
        arm: A key of :data:`reasoning_guard_demo.task.ARMS`.
        seed: Seed of the data and their order.
        callbacks: Callbacks for the trainer.
        eval_dataset: What the trainer itself evaluates on, if ``settings`` ask for it (``eval_strategy``).
        settings: Fields of :class:`trl.SFTConfig` that differ from the recipe's.

    Returns:
        The trained copy.

    Raises:
        ValueError: There is no such arm.
    """
    if arm not in ARMS:
        raise ValueError(f"There is no arm {arm!r}; choose one of {', '.join(ARMS)}.")
    rows = training_examples(ARMS[arm], FINE_TUNING.examples, seed)
    return _train(copy_model(model), rows, FINE_TUNING, seed, settings, callbacks, eval_dataset)


def _train(
    model: LlamaForCausalLM,
    rows: list[dict[str, str]],
    recipe: Recipe,
    seed: int,
    settings: dict[str, Any],
    callbacks: Sequence[TrainerCallback] = (),
    eval_dataset: Dataset | None = None,
) -> LlamaForCausalLM:
    """Run the trainer and return its model, freed of what the trainer attached to it."""
    with tempfile.TemporaryDirectory() as scratch, _no_progress_bars(), _one_thread():
        trainer = SFTTrainer(
            model=model,
            args=recipe.config(seed, settings.pop("output_dir", scratch), settings),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=eval_dataset,
            processing_class=build_tokenizer(),
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return copy_model(model)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep ``datasets`` quiet: preparing these examples takes a second."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: matrices this small gain little from more, and threads that share busy cores wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
