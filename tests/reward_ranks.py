"""One rank of a GRPO run of one step, whose groups are split over the ranks; what it graded goes to a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

import runs
from reasoning_guard_trl import InfoGainReward
from reward_tasks import FORMAT, exercises


class Recorded(InfoGainReward):
    """Keeps what it was asked and what it said."""

    def __call__(self, prompts: Any, completions: Any, **arguments: Any) -> Any:
        given = super().__call__(prompts, completions, **arguments)
        kept = {name: list(arguments[name]) for name in ("completion_ids", "solution")}
        luck = self.monitor.latest
        self.record = {
            "prompts": prompts,
            "completions": completions,
            **kept,
            "given": given,
            "luck": luck and luck.advantage,
        }
        return given


def main(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder / "adder")
    reward = Recorded(format=FORMAT, scorer=model, tokenizer=runs.tokenizer())
    rows = [{"prompt": of.prompt(0), "solution": str(of.answer)} for of in exercises(8)]
    trainer = GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder / "adder").train(),
        reward_funcs=[reward],
        args=GRPOConfig(
            output_dir=str(folder),
            num_generations=8,
            max_completion_length=32,
            **{**runs.SETTINGS, "max_steps": 1, "per_device_train_batch_size": 12},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=runs.tokenizer(),
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    (folder / f"rank{rank}.json").write_text(json.dumps(reward.record), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # gloo's threads now and then abort a process that ends by itself, without a guard too
