"""``python dying_run.py FOLDER``: runs of two real processes, one of which dies inside an evaluation.

Each scene leaves FOLDER/<scene>/<rank>.said (what that process wrote), ``over.json`` (how it ended, and how many
seconds after the death) and, from those who came to the end, ``<rank>.json``. All are forks of one process, so that the
frameworks are imported once. The first is run by torchrun's agent, the others by nobody who would end the survivors.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import process_scenes as scenes
import runs
from reasoning_guard import processes
from reasoning_guard.batching import Batches
from reasoning_guard.guard import Guard

SIZE, SILENT = 2, 2.0
"""Processes; seconds that a silent one is waited for where that is tried."""


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _says_nothing() -> None:
    time.sleep(2 * SILENT)


def _dying(folder: Path, owner: Any, name: str, end: Callable[[], None], *, at: int, rank: int = 1) -> None:
    """Let ``end`` come in place of a call of ``owner.name`` at the evaluation of step ``at``, on one process."""
    whole, evaluate, now = getattr(owner, name), Guard.evaluate, [-1]

    def noted(self: Guard, model: Any, step: int) -> Any:
        now[0] = step
        return evaluate(self, model, step)

    def maybe(*args: Any, **kwargs: Any) -> Any:
        if now[0] == at and int(os.environ["RANK"]) == rank:
            (folder / "died").write_text(str(time.time()))
            end()
        return whole(*args, **kwargs)

    Guard.evaluate = noted
    setattr(owner, name, maybe)


# ------------------------------------------------------------------------------------------------------------- scenes


def _trained(run: Path, resume: bool = False) -> dict[str, Any]:
    settings = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
    trainer = runs.plain_trainer(run, max_steps=4, **settings)
    callback = runs.guard(trainer, problems=runs.problems(16), every=2, reference=None)
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-2") if resume else None)
    return {"evaluations": [scenes.lasting(e) for e in callback.guard.evaluations]}


def killed(folder: Path) -> dict[str, Any]:
    """DDP: one process is killed while it scores its share."""
    _dying(folder, Batches, "_launch_batch", _killed, at=4)
    return _trained(folder / "run")


def resumed(folder: Path) -> dict[str, Any]:
    """Goes on with the run of which one process was killed."""
    return _trained(folder.parent / "killed" / "run", resume=True)


def sharded(folder: Path) -> dict[str, Any]:
    """FSDP2: the main process, at whose door the others knock, is killed in the middle of a pass that needs it."""
    scenes.connect()
    guard, model = scenes.guard(reference=None, max_new_tokens=12), scenes.sharded()
    _dying(folder, model.model.layers[1], "forward", _killed, at=0, rank=0)
    guard.evaluate(model, 0)
    return {}


def silent(folder: Path) -> dict[str, Any]:
    """One process lives, and does not come back."""
    processes.PATIENCE = timedelta(seconds=SILENT)
    scenes.connect()
    guard, model = scenes.guard(reference=None, max_new_tokens=12), scenes.varied()
    _dying(folder, Batches, "_launch_batch", _says_nothing, at=0)
    guard.evaluate(model, 0)
    return {}


SCENES: dict[str, Callable[[Path], dict[str, Any]]] = {
    each.__name__: each for each in (killed, resumed, sharded, silent)
}


# -------------------------------------------------------------------------------------------------------- the processes


def play(folder: Path, scene: str) -> None:
    """Be one process of a scene; never returns."""
    place, rank = folder / scene, os.environ["RANK"]
    said = os.open(place / f"{rank}.said", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 1
    try:
        (place / f"{rank}.json").write_text(json.dumps(SCENES[scene](place)), "utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def launched(folder: Path, scene: str) -> str:
    """What the agent of torchrun says in the end."""
    config = LaunchConfig(1, 1, SIZE, run_id=scene, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    config.start_method = "fork"
    try:
        elastic_launch(config, play)(folder, scene)
    except ChildFailedError as error:
        return str(error)
    return ""


def forked(folder: Path, scene: str) -> list[int]:
    """How each process ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children: dict[int, int] = {}
    for rank in range(SIZE):
        if (child := os.fork()) == 0:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "MASTER_PORT": port}
            os.environ.update({"MASTER_ADDR": "localhost", **{name: str(value) for name, value in names.items()}})
            play(folder, scene)
        children[child] = rank
    ended = {children[pid]: status for pid, status in (os.wait() for _ in range(SIZE))}
    return [os.waitstatus_to_exitcode(ended[rank]) for rank in range(SIZE)]


def stage(folder: Path, scene: str, run: Callable[[Path, str], Any]) -> None:
    """Play one scene, and see how and when it ends."""
    place = folder / scene
    place.mkdir(parents=True)
    end, died, records = run(folder, scene), place / "died", place / "run" / "reasoning_guard" / "evaluations.jsonl"
    if records.exists():
        shutil.copy(records, place / "left.jsonl")
    seconds = time.time() - float(died.read_text()) if died.exists() else None
    (place / "over.json").write_text(json.dumps({"end": end, "seconds": seconds}))


def main(folder: Path) -> None:
    runs.writer()  # what all processes need, made once
    runs.problems(16)
    for scene in SCENES:
        stage(folder, scene, launched if scene == "killed" else forked)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
