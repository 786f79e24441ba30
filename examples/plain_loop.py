"""Guard a training loop of your own: plain PyTorch here, and the same lines under accelerate. It learns a tiny task.

python examples/plain_loop.py 300
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from reasoning_guard import Guard, TraceFormat
from reasoning_guard_demo.model import EOS, build_model, build_tokenizer
from reasoning_guard_demo.task import ARMS, held_out_problems, training_examples

FORMAT = TraceFormat(name="demo", cue=" #", step_end=r";", answer=r"# (\S+)")


def batches(steps: int, size: int = 32) -> Iterator[dict[str, torch.Tensor]]:
    tokenizer, rows = build_tokenizer(), training_examples(ARMS["healthy"], steps * size)
    for start in range(0, len(rows), size):
        texts = [f"{row['prompt']}{row['completion']} {EOS}" for row in rows[start : start + size]]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        yield {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def main(steps: int) -> None:
    model, tokenizer = build_model(), build_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    guard = Guard(
        held_out_problems("id", 24), tokenizer, format=FORMAT, max_new_tokens=48, action="stop",
        directory="runs/plain_loop/reasoning_guard", progress=False,
    )  # fmt: skip
    for step, batch in enumerate(batches(steps)):
        evaluation = guard.step(model, step, every=50)  # the first call makes the baseline
        if evaluation is not None:
            print(step, {name: round(value, 3) for name, value in guard.scalars(evaluation).items()})
        if guard.should_stop:
            break
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    guard.step(model, steps)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
