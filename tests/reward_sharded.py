"""``python reward_sharded.py FOLDER 2 SCENE...``: rewards on a model whose weights two processes share (FSDP2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from torch.distributed.fsdp import FSDPModule, fully_shard
from trl import GRPOConfig, GRPOTrainer

import process_scenes as scenes
import reasoning_guard_trl as trl
import runs
from reasoning_guard.rewards import (
    AnswerConfidenceReward,
    CalibrationReward,
    FaithfulnessReward,
    InfoGainReward,
    RolloutMonitor,
    TraceReward,
)
from reasoning_guard_demo.arithmetic import Exercise
from reward_tasks import FORMAT, TOKENIZER, adder, batch, exercises, honest
from tiny_models import passes_of

REWARDS = (InfoGainReward, AnswerConfidenceReward, CalibrationReward, FaithfulnessReward, RolloutMonitor)


def written() -> list[tuple[Exercise, str]]:
    """Two halves for two processes. All of the second is wrong, so that InfoGain there has nothing to read."""
    of = exercises(6)
    return [(each, honest(each)) for each in of for _ in range(2)] + [(each, "# 12") for each in of for _ in range(2)]


def half(rank: int) -> Sequence[tuple[Exercise, str]]:
    """What one process wrote."""
    everything = written()
    return everything[: len(everything) // 2] if rank == 0 else everything[len(everything) // 2 :]


def sharded() -> Any:
    """The adder, its weights shared out."""
    model = adder()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def attached(kind: type[TraceReward], model: Any, **options: Any) -> TraceReward:
    """A reward that the policy itself reads."""
    reward = kind(scorer="policy", format=FORMAT, **options)
    reward.attach(model, TOKENIZER)
    return reward


def policy(folder: Path) -> dict[str, Any]:
    """Either process has the half without a right answer once."""
    scenes.connect()
    model, saw = sharded(), {}
    shapes = passes_of(model)
    for kind in REWARDS:
        reward = attached(kind, model)
        given = [reward(**batch(half((dist.get_rank() + turn) % 2))) for turn in range(2)]
        saw[reward.name] = {"given": given, "calls": len(shapes)}
    return saw


def broken(folder: Path) -> dict[str, Any]:
    """One process fails beside the model; both leave the call, and the next one works."""
    scenes.connect()
    model, calls = sharded(), []

    def correct(completions: Any, **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 1 and dist.get_rank() == 1:
            raise RuntimeError("the grader is away")
        return [1.0] * len(completions)

    reward, said = attached(InfoGainReward, model, correct=correct), []
    for _ in range(2):
        try:
            said.append(len(reward(**batch(half(dist.get_rank())))))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return {"said": said}


def reference(folder: Path) -> dict[str, Any]:
    """A copy cannot be made; a whole model beside the sharded one can read."""
    scenes.connect()
    reward = InfoGainReward(format=FORMAT)
    try:
        reward.attach(sharded(), TOKENIZER)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "made"
    given = InfoGainReward(scorer=adder(), format=FORMAT)
    given.attach(sharded(), TOKENIZER)
    return {"said": said, "given": given(**batch(half(dist.get_rank())))}


def grpo(folder: Path) -> dict[str, Any]:
    """GRPO under the Trainer's own FSDP2, which accelerate gives to accelerators only: its state is told otherwise."""
    rewards = [kind(format=FORMAT, scorer="policy") for kind in (trl.InfoGainReward, trl.FaithfulnessReward)]
    own = {"num_generations": 4, "max_completion_length": 32, "max_steps": 2}
    rows = [{"prompt": of.prompt(0), "solution": str(of.answer)} for of in exercises(16)]
    with scenes.as_on_accelerators():
        config = {"fsdp": True, "fsdp_config": scenes.FSDP2, **runs.SETTINGS, **own}
        training = GRPOTrainer(
            model=adder().train(),
            reward_funcs=rewards,
            args=GRPOConfig(output_dir=str(folder / "run"), **config),
            train_dataset=Dataset.from_list(rows),
            processing_class=runs.tokenizer(),
        )
        training.train()
    sharded = any(isinstance(module, FSDPModule) for module in training.model.modules())
    return {"sharded": sharded, "log": training.state.log_history}


if __name__ == "__main__":
    torch.set_num_threads(1)
    adder()  # taught once, before the processes part
    scenes.main(scenes.named(policy, broken, reference, grpo))
