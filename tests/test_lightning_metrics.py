"""The torchmetrics classes inside a LightningModule: logged by ``self.log``, and carried by its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MetricCollection

import lightning_runs
import runs
from reasoning_guard import Guard
from reasoning_guard.metrics import EarlyAnsweringAOC, InfoGain, metric_inputs


def held_out_rows(model: Any) -> Any:
    """What a guard finds, as the metrics take it."""
    guard = Guard(
        runs.problems(), runs.tokenizer(), format=runs.FORMAT, max_new_tokens=40, reference=None, progress=False
    )
    return guard.evaluate(model, 0)


class _Measuring:
    """Measures at each validation, as users do: objects are logged, and torchmetrics computes, syncs and resets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.info_gain = InfoGain()
        self.all = MetricCollection({"aoc": EarlyAnsweringAOC(), "share": InfoGain(form="share")}, prefix="held_out/")
        self.kept = InfoGain()  # never reset: it survives checkpoints only if its states are saved
        self.kept.persistent(True)
        self.expected: list[float] = []

    def on_validation_epoch_start(self) -> None:
        if self.trainer.sanity_checking:
            return
        evaluation = held_out_rows(self.policy)
        inputs = metric_inputs(evaluation.rows)
        self.expected.append(evaluation.mean("info_gain"))
        for metric in (self.info_gain, self.kept):
            metric.update(inputs["logprobs"], inputs["n_tokens"], inputs["n_steps"])
        self.all.update(**inputs)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self.log("held_out/info_gain", self.info_gain)
        self.log_dict(self.all)


class Module(_Measuring, lightning_runs.Module):
    """For ``lightning.pytorch``."""


class OtherModule(_Measuring, lightning_runs.OtherModule):
    """For ``pytorch_lightning``."""


@pytest.mark.parametrize("name", lightning_runs.FRAMEWORKS)
def test_metrics_are_logged_and_survive_checkpointing(name: str, tmp_path: Path) -> None:
    framework = lightning_runs.FRAMEWORKS[name]
    kind = Module if framework is lightning_runs.lightning else OtherModule
    saved = framework.callbacks.ModelCheckpoint(tmp_path / "best", monitor="held_out/info_gain", save_top_k=-1)
    module = kind(model=runs.writer())
    host, _ = lightning_runs.fit(tmp_path, saved, framework=framework, model=module)
    assert len(module.expected) == 2
    logged = {int(path.split("step=")[1][0]): float(score) for path, score in saved.best_k_models.items()}
    assert logged == pytest.approx(dict(zip((3, 6), module.expected, strict=True)), abs=1e-5)
    assert set(host.callback_metrics) >= {"held_out/info_gain", "held_out/aoc", "held_out/share"}
    assert module.info_gain.info_gain_counts.sum() == 0  # Lightning has reset what it logged

    again = kind(model=runs.writer())
    lightning_runs.fit(
        tmp_path / "again", framework=framework, model=again, ckpt_path=tmp_path / "best" / "epoch=0-step=3.ckpt"
    )
    assert again.expected == pytest.approx(module.expected[1:])
    assert again.kept.info_gain_counts.tolist() == module.kept.info_gain_counts.tolist()
    assert torch.equal(again.kept.info_gain_totals, module.kept.info_gain_totals)
