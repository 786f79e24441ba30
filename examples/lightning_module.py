"""Guard a LightningModule around a language model: one more callback, whose numbers choose the best checkpoint.

python examples/lightning_module.py 300
"""

from __future__ import annotations

import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from reasoning_guard import TraceFormat
from reasoning_guard_demo.model import EOS, build_model, build_tokenizer
from reasoning_guard_demo.task import ARMS, held_out_problems, training_examples
from reasoning_guard_lightning import ReasoningGuardCallback

FORMAT = TraceFormat(name="demo", cue=" #", step_end=r";", answer=r"# (\S+)")


class FineTuning(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = build_model()  # the guard finds it; say `get_model=` where there are several

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def loader(size: int, seed: int) -> DataLoader:
    tokenizer = build_tokenizer()

    def collate(rows):
        texts = [f"{row['prompt']}{row['completion']} {EOS}" for row in rows]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    return DataLoader(training_examples(ARMS["healthy"], size, seed), batch_size=32, collate_fn=collate)


def main(steps: int) -> None:
    guard = ReasoningGuardCallback(
        held_out_problems("id", 24), tokenizer=build_tokenizer(), format=FORMAT, max_new_tokens=48
    )
    best = ModelCheckpoint(monitor="guard/accuracy", mode="max")
    trainer = Trainer(
        max_steps=steps, val_check_interval=max(1, steps // 4), callbacks=[guard, best], accelerator="cpu",
        default_root_dir="runs/lightning_module", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(FineTuning(), loader(steps * 32, seed=0), loader(64, seed=1))
    print(f"accuracy {trainer.callback_metrics['guard/accuracy']:.2f}; best checkpoint: {best.best_model_path}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
