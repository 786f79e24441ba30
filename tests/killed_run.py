"""``python killed_run.py FOLDER``: real runs that die of SIGKILL, each at another moment, in FOLDER/<moment>."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import runs
from reasoning_guard.generation import Generator
from reasoning_guard.history import History
from reasoning_guard_transformers import ReasoningGuardCallback

STEPS = 10
"""The run evaluates every 2 steps, saves every 4 unless told otherwise, and its alarm stops it at 8: at the third look
from step 4 on."""


def start(
    folder: Path, *, watched: bool = True, save_steps: int = 4, **options: Any
) -> tuple[Any, ReasoningGuardCallback | None]:
    """The same run each time it is called."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": save_steps}
    trainer = runs.plain_trainer(folder, model=runs.writer(attention_dropout=0.1), max_steps=STEPS, **settings)
    rules = [runs.FromStep(step=4)]
    options = {"action": "stop", "rules": rules, "patience": 3, **options}
    return trainer, runs.guard(trainer, **options) if watched else None


def _die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _between_steps(trainer: Any) -> None:
    trainer.add_callback(runs.Spy("on_step_begin", lambda state, control: state.global_step == 6 and _die()))


def _while_generating(trainer: Any) -> None:
    complete, calls = Generator.complete, iter(range(100))

    def third(self: Generator, *args: Any, **kwargs: Any) -> Any:
        return complete(self, *args, **kwargs) if trainer.state.global_step < 6 or next(calls) < 1 else _die()

    Generator.complete = third


def _while_writing(trainer: Any) -> None:
    append = History.append

    def half(self: History, evaluation: Any) -> None:
        append(self, evaluation)
        if evaluation.step == 6:
            path = self.directory / "evaluations.jsonl"
            os.truncate(path, path.stat().st_size - 200)
            _die()

    History.append = half


def _before_the_checkpoint(trainer: Any) -> None:
    trainer.add_callback(runs.Spy("on_evaluate", lambda state, control: state.global_step == 8 and _die()))


MOMENTS: dict[str, Callable[[Any], None]] = {
    "between steps": _between_steps,
    "while generating": _while_generating,
    "while writing": _while_writing,
    "before the checkpoint": _before_the_checkpoint,
}


def main(folder: Path) -> None:
    for moment, arm in MOMENTS.items():
        if (child := os.fork()) == 0:
            trainer, _ = start(folder / moment)
            arm(trainer)
            trainer.train()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{moment}: the run was not killed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
