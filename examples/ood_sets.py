"""Add a second held-out set, of problems unlike the training data, which shows what only works on familiar problems.

    python examples/ood_sets.py 300

Every problem of the training data carries a tag that gives the answer away. On held-out problems whose tag does so too
("id"), reading the tag works as well as reasoning. On those whose tag is noise ("ood"), it does not.
"""

from __future__ import annotations

import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from reasoning_guard import TraceFormat
from reasoning_guard_demo.model import build_model, build_tokenizer
from reasoning_guard_demo.task import ARMS, held_out_problems, training_examples
from reasoning_guard_transformers import ReasoningGuardCallback

FORMAT = TraceFormat(name="demo", cue=" #", step_end=r";", answer=r"# (\S+)")


def main(steps: int) -> None:
    args = SFTConfig(
        output_dir="runs/ood_sets", max_steps=steps, per_device_train_batch_size=32, learning_rate=3e-3,
        use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    train = Dataset.from_list(training_examples(ARMS["trap"], steps * 32))
    trainer = SFTTrainer(build_model(), args, train_dataset=train, processing_class=build_tokenizer())

    held_out = [{**row, "set": name} for name in ("id", "ood") for row in held_out_problems(name, 24)]
    callback = ReasoningGuardCallback(
        trainer, problems=held_out, format=FORMAT, max_new_tokens=48, every=max(1, steps // 4)
    )
    trainer.add_callback(callback)
    trainer.train()

    for evaluation in callback.guard.evaluations:
        home, away = (evaluation.mean("accuracy", set) for set in evaluation.sets)
        print(f"step {evaluation.step:4d}  accuracy {home:.2f} at home, {away:.2f} elsewhere")
    print(*[alert.text() for alert in callback.guard.alerts] or ["no alert"], sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
