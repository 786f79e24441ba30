"""``python distributed_run.py FOLDER SIZE SCENE...``: guarded runs and evaluations on several processes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

import process_scenes as scenes
import runs
from reasoning_guard import processes
from reasoning_guard.batching import Batches
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.generation import Generator
from reasoning_guard.guard import Guard
from reasoning_guard.healthy import HealthyCheckpoints
from reasoning_guard.history import History
from reasoning_guard.offline import SavedTraces
from reasoning_guard.offline.scoring import check_scores
from reasoning_guard.offline.store import ScoreFile
from reasoning_guard.probes import FillerProbe
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer
from tiny_models import passes_of


def _end(trainer: Any, guard: Guard) -> dict[str, Any]:
    return {
        "step": trainer.state.global_step,
        "evaluations": [scenes.lasting(e) for e in guard.evaluations],
        "alerts": [alert.to_dict() for alert in guard.alerts],
        "stop_reason": guard.stop_reason,
        "logged": runs.steps(runs.log(trainer, "eval_guard/seconds")),
    }


def _counted_prompts() -> list[int]:
    """How many prompts each call of the generator gets, filled as it is called."""
    shares: list[int] = []
    complete = Generator.complete

    def counting(self: Generator, prompts: Any, label: str = "") -> Any:
        shares.append(len(prompts))
        return complete(self, prompts, label)

    Generator.complete = counting
    return shares


def _train(
    folder: Path,
    *,
    max_steps: int = 4,
    settings: dict[str, Any] | None = None,
    beside: Callable[[Any], Sequence[TrainerCallback]] = lambda _: (),
    **options: Any,
) -> dict[str, Any]:
    settings = {"ddp_timeout": 60, "per_device_train_batch_size": 4, **(settings or {})}
    trainer = runs.plain_trainer(folder / "run", max_steps=max_steps, **settings)
    for each in beside(trainer):
        trainer.add_callback(each)
    callback = runs.guard(trainer, **{"problems": scenes.problems(), "every": 2, **options})
    trainer.train()
    sharded = any(isinstance(module, FSDPModule) for module in trainer.model.modules())
    kept = Path(callback.guard.kept_checkpoint or "").name
    return {
        **_end(trainer, callback.guard),
        "sharded": sharded,
        "kept": kept,
        "weights": not sharded and _sum(trainer.model),
    }


def _sum(model: Any) -> float:
    return float(sum(parameter.detach().double().sum() for parameter in model.parameters()))


def ddp(folder: Path) -> dict[str, Any]:
    return _train(folder)


class OnlyOn(runs.FromStep):
    """A rule that sees its alarm on one process alone."""

    rank = 0

    def check(self, comparison: Any) -> Any:
        return super().check(comparison) if dist.get_rank() == self.rank else None


class OnlyOnTheOther(OnlyOn):
    rank = 1


def stop(folder: Path) -> dict[str, Any]:
    return _train(folder, max_steps=8, rules=[OnlyOn(step=4)], patience=1, action="stop")


def no_stop(folder: Path) -> dict[str, Any]:
    return _train(folder, rules=[OnlyOnTheOther()], patience=1, action="stop")


class FailingTracker(TrainerCallback):
    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        if dist.get_rank() == 0 and any("guard/" in name for name in logs):
            raise ConnectionError


def beside(folder: Path) -> dict[str, Any]:
    """The main process alone: a tracker fails, a value is logged, and there is no room for one checkpoint's weights."""
    held = HealthyCheckpoints.keep

    def keep(self: HealthyCheckpoints, checkpoint: Path) -> None:
        if checkpoint.name == "checkpoint-4":
            raise OSError(errno.ENOSPC, "No space left on device")
        held(self, checkpoint)

    def around(trainer: Any) -> list[TrainerCallback]:
        def log(state: Any, _: Any) -> None:
            if dist.get_rank() == 0 and state.global_step == 4:
                trainer.log({"eval_bleu": 0.5})

        return [FailingTracker(), runs.Spy("on_step_end", log)]

    HealthyCheckpoints.keep = keep
    saving = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 3}  # any log at a step drops that step's own
    rollback = {"action": "rollback", "rules": [runs.FromStep(step=6)], "patience": 1}
    try:
        return _train(folder, max_steps=6, settings=saving, beside=around, **rollback)
    finally:
        HealthyCheckpoints.keep = held


class BrokenOnPurposeError(RuntimeError):
    """An error that pickles and does not unpickle."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def _break(*args: Any, **kwargs: Any) -> Any:
    raise BrokenOnPurposeError("broken", "on purpose")


def _breaking(owner: Any, name: str, on: int, call: int) -> Callable[[], None]:
    """Break the ``call``-th call of ``owner.name`` on one process; returns how to mend it."""
    whole, calls = getattr(owner, name), iter(range(10**6))

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        return _break() if dist.get_rank() == on and next(calls) == call else whole(*args, **kwargs)

    setattr(owner, name, sometimes)
    return lambda: setattr(owner, name, whole)


PARTS: dict[str, tuple[Any, str]] = {
    "prompts": (TraceReader, "prompt_ids"),
    "generator": (Generator, "complete"),
    "reader": (TraceReader, "read"),
    "scorer": (AnswerScorer, "score_trees"),
    "one batch": (Batches, "_launch_batch"),
    "gate": (sys.modules["reasoning_guard.evaluate"], "gate"),
    "probe": (FillerProbe, "read"),
    "records": (History, "append"),
    "decision": (Guard, "_decide"),
    "speaking": (sys.modules["reasoning_guard.guard"], "say_what_is_odd"),
}


EVALUATING = ("prompts", "generator", "reader", "scorer", "one batch", "gate")
"""The parts without which there is no evaluation."""


def broken_part(folder: Path) -> dict[str, Any]:
    """One part after the other breaks on one process, each in a run of its own; afterwards it is whole again."""
    scenes.connect()
    saw = {}
    for part, (owner, name) in PARTS.items():
        for rank in range(2):
            guard = scenes.guard(
                directory=folder / part / str(rank), reference=None, max_new_tokens=12, probes=[FillerProbe()]
            )
            model = scenes.varied()
            guard.prepare(model)
            guard.begin(0)
            mend = _breaking(owner, name, on=rank, call=0)
            guard.evaluate(model, 0)
            mend()
            guard.evaluate(model, 1)
            saw[f"{part} on {rank}"] = {
                "evaluations": [scenes.lasting(e) for e in guard.evaluations],
                "kept": [e.step for e in History(folder / part / str(rank)).load()],
            }
    return saw


def refused_file(folder: Path) -> dict[str, Any]:
    """A file that holds something else; only the first process looks at it, and all hear what it found."""
    scenes.connect()
    looked = []
    check = ScoreFile.check
    ScoreFile.check = lambda self, known: looked.append(len(known)) or check(self, known)
    out = folder / "scores.jsonl"
    if processes.is_main_process():
        folder.mkdir(parents=True)
        out.write_text("mine", "utf-8")
    try:
        check_scores(out, SavedTraces((), runs.FORMAT))
        said = ""
    except ConfigurationError as error:
        said = str(error)
    ScoreFile.check = check
    return {"looked": len(looked), "said": said}


# ------------------------------------------------------------------------------------------------------- sharded models


def fsdp(folder: Path) -> dict[str, Any]:
    """One pass and a pass a branch; few problems to a batch, so that there are several."""
    scenes.connect()
    saw = {}
    for way in ("shared", "independent"):
        guard = scenes.guard(on_error="raise")
        guard.prepare(scenes.varied())
        model = scenes.sharded()
        guard._prepared = model
        guard._measurer.scorer = AnswerScorer(
            model,
            runs.tokenizer(),
            runs.FORMAT,
            shared=None if way == "shared" else False,
            token_budget=300,
        )
        shapes = passes_of(model)
        saw[way] = {"evaluation": scenes.lasting(guard.evaluate(model, 0)), "calls": len(shapes)}
    return saw


def whole(folder: Path, **options: Any) -> dict[str, Any]:
    """Every process has the whole model and reads a share of the problems."""
    if "RANK" in os.environ:
        scenes.connect()
    shares = _counted_prompts()
    guard = scenes.guard(on_error="raise", **options)
    return {"evaluation": scenes.lasting(guard.evaluate(scenes.varied(), 0)), "share": shares[0]}


def zero3(folder: Path) -> dict[str, Any]:
    """DeepSpeed's way to shard, with every parameter released between passes."""
    import deepspeed

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # gloo does; this would be compiled first
    scenes.connect()
    guard, model = scenes.guard(on_error="raise"), scenes.varied()
    guard.prepare(model)  # the frozen reference is taken while the model is whole
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config, optimizer=torch.optim.AdamW(model.parameters()))
    sizes = [parameter.numel() for parameter in engine.module.parameters()]
    shapes = passes_of(engine.module)
    evaluation = scenes.lasting(guard.evaluate(engine.module, 0))
    return {"evaluation": evaluation, "calls": len(shapes), "held": sum(sizes)}


def fsdp_broken(folder: Path) -> dict[str, Any]:
    """Failures beside the model on one process, and inside it on all, are recorded; the processes stay together."""
    scenes.connect()
    guard, model = scenes.guard(), scenes.sharded()
    mend = _breaking(TraceReader, "read", on=1, call=2)
    failures = [guard.evaluate(model, 0).failure]
    mend()
    model.lm_head.forward, whole = _break, model.lm_head.forward
    failures.append(guard.evaluate(model, 1).failure)
    model.lm_head.forward = whole
    failures.append(guard.evaluate(model, 2).failure)
    return {"failures": failures}


def fsdp_torn(folder: Path) -> dict[str, Any]:
    """One process fails in the middle of a forward pass: it gives up, loudly, and its end is the end of the others."""
    processes.PATIENCE_AFTER_A_BREAK = timedelta(seconds=3)
    scenes.connect()
    guard, model = scenes.guard(), scenes.sharded()
    _breaking(model.model.layers[1], "forward", on=1, call=1)
    guard.evaluate(model, 0)
    return {}


def fsdp_training(folder: Path) -> dict[str, Any]:
    """A run of the Trainer with its model sharded."""
    with scenes.as_on_accelerators():
        return _train(folder, settings={"fsdp": True, "fsdp_config": scenes.FSDP2})


SCENES = scenes.named(
    whole, ddp, stop, no_stop, beside, broken_part, refused_file, zero3, fsdp, fsdp_broken, fsdp_torn, fsdp_training
)

if __name__ == "__main__":
    scenes.main(SCENES)
