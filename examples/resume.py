"""Resume a run that was killed, with the same baseline and the same history, and no record written twice.

    python examples/resume.py 300    # kill it
    python examples/resume.py 300    # goes on from the last multiple of ten
    python examples/resume.py 600    # goes on from 300

This is a loop under accelerate. The Hugging Face and Lightning trainers need nothing extra: resume as always.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from reasoning_guard import Guard, TraceFormat
from reasoning_guard_demo.model import EOS, build_model, build_tokenizer
from reasoning_guard_demo.task import ARMS, held_out_problems, training_examples

FORMAT = TraceFormat(name="demo", cue=" #", step_end=r";", answer=r"# (\S+)")
RUN = Path("runs/resume")


def batch(step: int, size: int = 32) -> dict[str, torch.Tensor]:
    rows = training_examples(ARMS["healthy"], size, seed=step)
    texts = [f"{row['prompt']}{row['completion']} {EOS}" for row in rows]
    ids = build_tokenizer()(texts, padding=True, return_tensors="pt")
    return {**ids, "labels": ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)}


def save(accelerator: Accelerator, step: int) -> None:
    """Name a checkpoint only once it is whole, so that a kill in between leaves the one before."""
    accelerator.save_state(str(RUN / "unfinished"))
    (RUN / "unfinished").rename(RUN / f"step-{step}")
    for older in set(RUN.glob("step-*")) - {RUN / f"step-{step}"}:
        shutil.rmtree(older)


def main(steps: int) -> None:
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer = accelerator.prepare(model, optimizer)

    guard = Guard(held_out_problems("id", 24), build_tokenizer(), format=FORMAT, max_new_tokens=48, progress=False)
    guard.prepare(model)  # the frozen reader is the model as it was before any training, so before the checkpoint
    accelerator.register_for_checkpointing(guard)
    done = max((int(path.name.removeprefix("step-")) for path in RUN.glob("step-*")), default=0)
    if steps <= done:
        sys.exit(f"this run has taken {done} steps already; ask for more, or remove {RUN}")
    if done:
        accelerator.load_state(str(RUN / f"step-{done}"))

    for step in range(done, steps):
        guard.step(model, step, every=max(1, steps // 4))
        if step % 10 == 0 and step > done:
            save(accelerator, step)
        accelerator.backward(model(**batch(step)).loss)
        optimizer.step()
        optimizer.zero_grad()
    guard.step(model, steps)
    save(accelerator, steps)
    print(f"went on from {done}; evaluations at {[evaluation.step for evaluation in guard.evaluations]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
