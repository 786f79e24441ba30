"""Data for the metrics, and what each should say of it by a plain loop over the traces."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nan
from torchmetrics import Metric

from reasoning_guard.metrics import (
    EarlyAnsweringAOC,
    Faithfulness,
    FillerSensitivity,
    InfoGain,
    MistakeSensitivity,
    PlaceboGain,
)
from reasoning_guard.metrics.functional import changed_share, early_answering_aoc, info_gain, placebo_gain

Batch = dict[str, Tensor]
SIZES = (7, 1, 4, 12, 3)
"""Traces in each batch: an uneven number, so that two processes never have equally many."""


def batches(seed: int = 0) -> list[Batch]:
    """Random traces of 0 to 4 steps, some of which can't be scored."""
    rng = random.Random(seed)
    return [_batch(rng, size) for size in SIZES]


def _batch(rng: random.Random, size: int) -> Batch:
    def some(draw: Callable[[], float], missing: float = 0.2) -> list[float]:
        return [nan if rng.random() < missing else draw() for _ in range(size)]

    n_steps = [rng.randint(0, 4) for _ in range(size)]
    curves = [[rng.uniform(-8, 0) for _ in range(n + 1)] + [nan] * (4 - n) for n in n_steps]
    if size > 2:
        curves[1][0] = nan  # a gap inside the curve
        curves[2] = [0.0, *curves[2][1:]]  # certain without any step
    posterior = [rng.uniform(-2, 0) for _ in range(size)]
    return {
        "logprobs": torch.tensor(curves),
        "n_tokens": torch.tensor([rng.randint(1, 3) for _ in range(size)]),
        "n_steps": torch.tensor(n_steps),
        "same": torch.tensor([[rng.random() < 0.5 for _ in range(4)] + [True] for _ in range(size)]),
        "posterior": torch.tensor(posterior),
        "placebo_posterior": torch.tensor(some(lambda: rng.uniform(-9, -2))),
        "filler_changed": torch.tensor(some(lambda: float(rng.random() < 0.7))),
        "mistake_changed": torch.tensor(some(lambda: float(rng.random() < 0.9))),
        "paraphrase_changed": torch.tensor(some(lambda: float(rng.random() < 0.2))),
        "correct": torch.tensor([i == 0 or rng.random() < 0.8 for i in range(size)]),  # never a batch at chance
    }


def _traces(data: Sequence[Batch]) -> list[dict[str, Any]]:
    """One dictionary of plain values a trace, curves without their padding."""
    found = []
    for batch in data:
        for i in range(len(batch["n_steps"])):
            trace = {name: values[i].tolist() for name, values in batch.items()}
            for name in ("logprobs", "same"):
                trace[name] = trace[name][: trace["n_steps"] + 1]
            found.append(trace)
    return found


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if math.isfinite(value)]
    return fmean(kept) if kept else nan


def _gain(trace: dict[str, Any], form: str) -> float:
    levels = [value / trace["n_tokens"] for value in trace["logprobs"]]
    if any(map(math.isnan, levels)):
        return nan
    if form == "share":
        return nan if trace["logprobs"][0] > -0.1 else 1 - levels[-1] / levels[0]
    if form == "ppl":
        drops = [math.exp(-a) - math.exp(-b) for a, b in pairwise(levels)]
        return fmean(drops) if drops else nan
    if form == "watermark":
        return max(levels) - levels[0]
    return levels[-1] - levels[0]


def gain(data: Sequence[Batch], form: str) -> float:
    return _mean([_gain(trace, form) for trace in _traces(data)])


def area(data: Sequence[Batch]) -> float:
    """As the paper has it: an area for each length, from the share that keeps its answer at each cut."""
    by_length: dict[int, list[list[bool]]] = {}
    for trace in _traces(data):
        if trace["same"][-1]:
            by_length.setdefault(trace["n_steps"], []).append(trace["same"])
    n = sum(map(len, by_length.values()))
    total = 0.0 if n else nan
    for length, curves in by_length.items():
        shares = [sum(curve[k] for curve in curves) / len(curves) for k in range(length)]
        total += len(curves) / n * (fmean(1 - share for share in shares) if length else 0.0)
    return total


def share(data: Sequence[Batch], name: str) -> float:
    return _mean([trace[name] for trace in _traces(data)])


def net(data: Sequence[Batch]) -> float:
    return _mean([trace["posterior"] - trace["placebo_posterior"] for trace in _traces(data)])


def everything(data: Sequence[Batch]) -> dict[str, float]:
    traces = _traces(data)
    filler, mistake, control = (share(data, f"{name}_changed") for name in ("filler", "mistake", "paraphrase"))
    cells = [
        *(_gain(trace, "log") for trace in traces),
        *(trace["posterior"] - trace["placebo_posterior"] for trace in traces),
        *(1.0 if trace["same"][-1] else nan for trace in traces),
        *(trace[f"{name}_changed"] for trace in traces for name in ("filler", "mistake", "paraphrase")),
    ]
    return {
        "accuracy": share(data, "correct"),
        "info_gain": gain(data, "log"),
        "placebo_gain": net(data),
        "early_answering_aoc": area(data),
        "filler_sensitivity": filler,
        "mistake_sensitivity": mistake,
        "paraphrase_sensitivity": control,
        "filler_normalised": (filler - control) / (1 - control) if control < 1 else nan,
        "mistake_normalised": (mistake - control) / (1 - control) if control < 1 else nan,
        "unscored_fraction": sum(map(math.isnan, cells)) / len(cells),
    }


@dataclass(frozen=True)
class Case:
    """A metric, the arguments that it takes from a batch, and the truth about some batches."""

    make: Callable[..., Metric]
    takes: tuple[str, ...]
    truth: Callable[[Sequence[Batch]], Any]
    functional: Callable[..., Tensor] | None = None

    def of(self, batch: Batch) -> Batch:
        return {name: batch[name] for name in self.takes}


def _info(form: Any) -> Case:
    return Case(
        lambda **options: InfoGain(form, **options),
        ("logprobs", "n_tokens", "n_steps"),
        lambda data: gain(data, form),
        lambda **inputs: info_gain(**inputs, form=form),
    )


CASES = {
    **{f"info gain, {form}": _info(form) for form in ("log", "share", "ppl", "watermark")},
    "early answering": Case(EarlyAnsweringAOC, ("same", "n_steps"), area, early_answering_aoc),
    "filler": Case(
        FillerSensitivity,
        ("filler_changed",),
        lambda data: share(data, "filler_changed"),
        lambda filler_changed: changed_share(filler_changed),
    ),
    "mistake": Case(
        MistakeSensitivity,
        ("mistake_changed", "correct"),
        lambda data: share(data, "mistake_changed"),
        lambda mistake_changed, correct: changed_share(mistake_changed),
    ),
    "placebo": Case(PlaceboGain, ("posterior", "placebo_posterior"), net, placebo_gain),
    "bundle": Case(Faithfulness, tuple(batches()[0]), everything),
}


def plain(value: Any) -> Any:
    """Tensors to floats, by name if there are several."""
    return {name: each.item() for name, each in value.items()} if isinstance(value, dict) else value.item()


def _synced(rank: int, port: int, out: Any) -> None:
    """Every metric on its process's share of the batches; the second process has three, the first two."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = {}
    for name, case in CASES.items():
        metric = case.make()
        for batch in batches()[1 - rank :: 2]:
            metric.update(**case.of(batch))
        found[name] = plain(metric.compute())
        alone = plain(case.make().to("cpu").forward(**case.of(batches()[rank])))
        found[f"{name}, this process's last batch"] = alone
        idle = case.make()
        if rank == 0:
            idle.update(**case.of(batches()[0]))
        found[f"{name}, the other process has none"] = plain(idle.compute())
    out[rank] = found
    torch.distributed.destroy_process_group()


def synced_by_two_processes(port: int) -> list[dict[str, Any]]:
    """What each of two real processes computes from the shards of both."""
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        out = manager.dict()
        torch.multiprocessing.spawn(_synced, (port, out), nprocs=2)
        return [out[0], out[1]]
