"""Real Lightning runs that take a second: the tiny model and task of ``runs``, under both names of the framework."""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytorch_lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Sampler

import runs
from reasoning_guard_demo.model import EOS
from reasoning_guard_lightning import ReasoningGuardCallback

FRAMEWORKS: dict[str, Any] = {"lightning.pytorch": lightning, "pytorch_lightning": pytorch_lightning}
warnings.filterwarnings("ignore", message=".*(does not have many workers|not support fp16|is not supported on CPU).*")
for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


class _Body:
    """A language model under a name of the user's own, trained on the loss per completion, averaged."""

    def __init__(
        self,
        model: Any = None,
        learning_rate: float = 1e-2,
        eval_mode: bool = False,
        optimizer: Any = torch.optim.AdamW,
    ) -> None:
        super().__init__()
        self.policy = runs.writer(attention_dropout=0.2) if model is None else model
        self.policy.train(not eval_mode)
        self.learning_rate, self.optimizer = learning_rate, optimizer
        self.modes: set[bool] = set()

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.modes.add(self.policy.training)
        loss = self._loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch["labels"]), sync_dist=True)

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        each = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
        return (each.sum(1) / (labels >= 0).sum(1)).mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=self.learning_rate)


class Module(_Body, lightning.LightningModule):
    """For ``lightning.pytorch``."""


class OtherModule(_Body, pytorch_lightning.LightningModule):
    """For ``pytorch_lightning``."""


def module(framework: Any = lightning, **options: Any) -> Any:
    return (Module if framework is lightning else OtherModule)(**options)


def _collate(rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    texts = [row["prompt"] + row["completion"] + f" {EOS}" for row in rows]
    batch = dict(runs.tokenizer()(texts, padding=True, padding_side="right", return_tensors="pt"))
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


class Dealt(Sampler[int]):
    """Every process gets every n-th example, in order, so that n small batches make one large one.

    Lightning's own sampler shuffles whatever it is given.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def _mine(self) -> range:
        there = torch.distributed.is_initialized()
        rank, size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)
        return range(rank, self.n, size)


def loader(n: int = 24, batch_size: int = runs.BATCH) -> DataLoader:
    return DataLoader(list(runs.examples(n)), batch_size=batch_size, collate_fn=_collate, sampler=Dealt(n))


QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 2,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,
}


def trainer(folder: Path, framework: Any = lightning, **settings: Any) -> Any:
    return framework.Trainer(default_root_dir=folder, **{**QUIET, **settings})


def guard(**options: Any) -> ReasoningGuardCallback:
    """The callback, with what keeps a test short."""
    defaults = {"format": runs.FORMAT, "max_new_tokens": 40, "progress": False, "on_error": "raise"}
    held_out = options.pop("problems", runs.problems())
    return ReasoningGuardCallback(held_out, tokenizer=runs.tokenizer(), **{**defaults, **options})


def fit(
    folder: Path, *callbacks: Any, framework: Any = lightning, model: Any = None, val: bool = True, **settings: Any
):
    """Fit; returns the trainer and the module. ``ckpt_path`` goes to ``fit``."""
    ckpt = {"ckpt_path": settings.pop("ckpt_path")} if "ckpt_path" in settings else {}
    size = settings.pop("batch_size", runs.BATCH)
    settings = {**settings, "enable_checkpointing": any("Checkpoint" in type(c).__name__ for c in callbacks)}
    model = module(framework) if model is None else model
    host = trainer(folder, framework, callbacks=list(callbacks), **settings)
    host.fit(model, loader(batch_size=size), loader(size) if val else None, **ckpt)
    return host, model


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Full:
    """A checkpoint IO whose disk is full from some call on."""

    def __init__(self, inner: Any, room: int) -> None:
        self.inner, self.room = inner, room

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.inner.save_checkpoint(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class FailingLogger(lightning.loggers.CSVLogger):
    """Fails at what the guard logs, on the main process, where loggers log."""

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if any("guard/" in name for name in metrics):
            raise ConnectionError
        super().log_metrics(metrics, step)
