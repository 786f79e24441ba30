"""The share of a GRPO step that the reward takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import LlamaForCausalLM

from reasoning_guard_demo.model import copy_model
from reasoning_guard_demo.reinforce import correctness, grpo_trainer, reinforce
from reasoning_guard_demo.run import FORMAT
from reasoning_guard_trl import InfoGainReward


def overhead(base: LlamaForCausalLM, steps: int = 5) -> str:
    """CPU seconds of a GRPO step at 8 prompts x 8 completions, and how much of them each reward takes."""
    lines = ["| reward | seconds a step | of them the reward | share |", "|---|---|---|---|"]
    for name, options in {
        "none": None,
        "InfoGain, frozen copy": {},
        "InfoGain, policy": {"scorer": "policy"},
        "InfoGain, frozen copy, leak penalty": {"leak_penalty": 0.1},
    }.items():
        timed = _Timed(InfoGainReward(format=FORMAT, **options)) if options is not None else None
        functions = [correctness] if timed is None else [correctness, timed]
        trainer = grpo_trainer(
            copy_model(base), functions, [1.0, 0.0][: len(functions)], max_steps=steps, per_device_train_batch_size=64
        )
        started = time.process_time()
        reinforce(trainer)
        total, spent = (time.process_time() - started) / steps, (timed.seconds / steps if timed else 0.0)
        lines.append(f"| {name} | {total:.2f} | {spent:.2f} | {spent / total:.0%} |")
    return "\n".join(lines)


class _Timed:
    """A reward function that adds up its CPU seconds."""

    def __init__(self, reward: Callable[..., Any]) -> None:
        self.reward, self.seconds = reward, 0.0
        self.__name__ = "timed"

    def __call__(self, **arguments: Any) -> Any:
        started = time.process_time()
        given = self.reward(**arguments)
        self.seconds += time.process_time() - started
        return given
