"""Scenes that real processes play together, talking over gloo, and what those scenes have in common.

A file of scenes says ``main(SCENES)`` and is run by ``python FILE FOLDER SIZE SCENE...``. Each scene leaves what it saw
in FOLDER/<scene>/<rank>.json. The processes are forked, so that the frameworks are imported once. Under a launcher
(``torchrun``, ``accelerate launch``), which sets ``RANK``, this process is one of them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, DistributedType
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

import runs
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.guard import Guard

Scenes = Mapping[str, Callable[[Path], dict[str, Any]]]

LIMIT = 90
"""Seconds after which a scene is taken for hanging: the process says where it stands, and ends."""


def named(*scenes: Callable[[Path], dict[str, Any]]) -> Scenes:
    """Scenes by the names of their functions."""
    return {each.__name__: each for each in scenes}


def main(scenes: Scenes) -> None:
    """What the command line asks for."""
    torch.set_num_threads(1)
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    asked = {name: scenes[name] for name in sys.argv[3:]}
    if "RANK" in os.environ:
        _play(folder, asked)
        return
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = {_start(folder, asked, rank, size, port): rank for rank in range(size)}
    failed = []
    while children:
        pid, status = os.wait()
        rank = children.pop(pid)
        if status != 0:
            failed.append(f"process {rank} ended with status {status}")
    if failed:
        sys.exit("; ".join(failed))


def _start(folder: Path, scenes: Scenes, rank: int, size: int, port: int) -> int:
    if child := os.fork():
        return child
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    code = 1
    try:
        _play(folder, scenes)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _play(folder: Path, scenes: Scenes) -> None:
    """All scenes, one after the other, with the same processes."""
    for name, scene in scenes.items():
        place = folder / name
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        saw = scene(place)
        faulthandler.cancel_dump_traceback_later()
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{os.environ['RANK']}.json").write_text(json.dumps(saw), "utf-8")


# ------------------------------------------------------------------------------------------- what scenes have in common


def lasting(evaluation: Evaluation) -> dict[str, Any]:
    return {k: v for k, v in evaluation.to_dict().items() if k not in ("created", "seconds")}


def problems() -> list[dict[str, str]]:
    """Eleven, which neither two nor three processes can share evenly, of two sets."""
    return [*runs.problems(8), *({**row, "set": "ood", "id": f"ood {row['id']}"} for row in runs.problems(3))]


def connect() -> None:
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))


def varied() -> Any:
    """A model whose traces differ in length and answer, so that each has others to borrow steps from."""
    model = runs.writer()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def sharded() -> Any:
    model = varied()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    register_fsdp_forward_method(model, "generate")
    return model


def guard(**options: Any) -> Guard:
    defaults = {"format": runs.FORMAT, "max_new_tokens": 40, "progress": False}
    eights = [{**row, "answer": "8"} for row in problems()]  # what half of the varied traces say
    return Guard(eights, runs.tokenizer(), **{**defaults, **options})


FSDP2 = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
}


@contextmanager
def as_on_accelerators() -> Iterator[None]:
    """The Trainer's own FSDP2, which accelerate gives to accelerators only: here its state is told otherwise."""
    made = AcceleratorState.__init__

    def told(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        plugin = fsdp_plugin or vars(self).get("fsdp_plugin")
        if plugin is not None:  # set again each time: what is known of the processes is copied in each time
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = told
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState.__init__ = made
        AcceleratorState._reset_state()
