"""A real ``GRPOTrainer`` that takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import runs


def _has_answer(completions: list[str], **_: Any) -> list[float]:
    return [float("#" in text) + len(text) % 3 for text in completions]


def grpo_trainer(folder: Path, **settings: Any) -> GRPOTrainer:
    """Four steps, groups of four, prompts of the demo's task."""
    own = {"num_generations": 4, "max_completion_length": 12, "max_steps": 4}
    return GRPOTrainer(
        model=runs.writer(),
        args=GRPOConfig(output_dir=str(folder), **{**runs.SETTINGS, **own, **settings}),
        reward_funcs=_has_answer,
        train_dataset=Dataset.from_list([{"prompt": p["prompt"]} for p in runs.problems(16)]),
        processing_class=runs.tokenizer(),
    )
