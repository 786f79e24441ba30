"""Guard a LoRA fine-tuning: the frozen reader costs nothing, because it is the model with its adapter switched off.

python examples/peft_lora.py 300
"""

from __future__ import annotations

import sys

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from reasoning_guard import TraceFormat
from reasoning_guard_demo.model import build_model, build_tokenizer
from reasoning_guard_demo.task import ARMS, held_out_problems, training_examples
from reasoning_guard_transformers import ReasoningGuardCallback

FORMAT = TraceFormat(name="demo", cue=" #", step_end=r";", answer=r"# (\S+)")


def main(steps: int) -> None:
    args = SFTConfig(
        output_dir="runs/peft_lora", max_steps=steps, per_device_train_batch_size=32, learning_rate=3e-3,
        use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    trainer = SFTTrainer(
        build_model(), args, train_dataset=Dataset.from_list(training_examples(ARMS["healthy"], steps * 32)),
        processing_class=build_tokenizer(), peft_config=LoraConfig(r=8, target_modules="all-linear"),
    )  # fmt: skip

    callback = ReasoningGuardCallback(
        trainer, problems=held_out_problems("id", 24), format=FORMAT, max_new_tokens=48, every=max(1, steps // 4)
    )
    trainer.add_callback(callback)
    trainer.train()

    print(f"frozen reader: {callback.guard.reference.description}")
    for evaluation in callback.guard.evaluations:
        own, independent = evaluation.mean("info_gain"), evaluation.mean("reference/info_gain")
        print(f"step {evaluation.step:4d}  InfoGain to itself {own:5.2f}, to the frozen reader {independent:5.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
