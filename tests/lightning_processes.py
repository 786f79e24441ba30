"""``python lightning_processes.py FOLDER STRATEGY...``: guarded runs on two processes, each in FOLDER/STRATEGY."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import lightning_runs
import runs


class CpuFSDP(FSDPStrategy):
    """The strategy on a CPU: PyTorch shards there as well, Lightning refuses it and asks for the index of a device."""

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        settings = {"mixed_precision": self.mixed_precision_config, "sharding_strategy": self.sharding_strategy}
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **settings, **self.kwargs)


def module() -> Any:
    """AdamW would blow the last bit of a tiny gradient up to a whole step."""
    return lightning_runs.module(model=runs.writer(), optimizer=torch.optim.SGD, learning_rate=0.3)


def strategy(name: str) -> Any:
    if name == "fsdp":
        layers = ModuleWrapPolicy({LlamaDecoderLayer})
        return CpuFSDP(auto_wrap_policy=layers, process_group_backend="gloo")
    return name


def main(folder: Path, name: str) -> None:
    """Batches of 4 on two processes are the batches of 8 that one process has.

    FSDP on a CPU dies of a segmentation fault in PyTorch where a checkpoint gathers the shards, with and without a
    guard: there nothing is saved.
    """
    saves = name != "fsdp"
    action = "stop" if saves else "warn"
    guard = lightning_runs.guard(directory=folder / "guard", action=action, rules=[runs.FromStep(step=6)])
    early = EarlyStopping("guard/info_gain", mode="max", patience=9)
    best = [ModelCheckpoint(dirpath=folder / "best", monitor="guard/info_gain", mode="max")] if saves else []
    trainer, _ = lightning_runs.fit(
        folder, guard, early, *best, model=module(), strategy=strategy(name), devices=2, max_epochs=4, batch_size=4,
    )  # fmt: skip
    number = float(trainer.callback_metrics["guard/info_gain"])
    said = {"step": trainer.global_step, "info_gain": number, "guard": [e.step for e in guard.guard.evaluations]}
    (folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(said))


def faults(folder: Path) -> None:
    """On the main process the logger fails, and there is room for the weights of two looks."""
    guard = lightning_runs.guard(
        directory=folder / "guard", action="rollback", rules=[runs.FromStep(step=9)], patience=1, on_error="record"
    )
    host = lightning_runs.trainer(
        folder, callbacks=[guard], logger=lightning_runs.FailingLogger(folder), strategy="ddp", devices=2, max_epochs=4
    )
    host.strategy.checkpoint_io = lightning_runs.Full(host.strategy.checkpoint_io, room=2)
    host.fit(module(), lightning_runs.loader(batch_size=4), lightning_runs.loader(4))
    policy = host.lightning_module.policy
    said = {
        "step": host.global_step,
        "guard": [e.step for e in guard.guard.evaluations],
        "kept": Path(guard.guard.kept_checkpoint or "").name,
        "weights": float(sum(parameter.detach().double().sum() for parameter in policy.parameters())),
    }
    (folder / f"rank-{host.global_rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        place = Path(sys.argv[1]) / name
        faults(place) if name == "faults" else main(place, name)
