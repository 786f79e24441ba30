"""``python killed_often.py FOLDER SEED``: real runs that die of SIGKILL again and again, at random points, in FOLDER.

Each kill falls at a random time after the beginning of a random evaluation or saving; then the run is resumed from its
last whole checkpoint, and killed again. After some kills it is let go to its end. FOLDER/kills.json tells what was.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

import killed_run
import runs
from reasoning_guard.guard import Guard

KILLS, KILLS_A_RUN, SAVE_STEPS, PROBLEMS = 20, 5, 2, 12
PHASES = {"evaluation": (Guard, "evaluate"), "saving": (Trainer, "_save_checkpoint")}
LIMIT = 60.0
"""Seconds that one life of a run may take."""


@dataclass(frozen=True)
class Kill:
    """One kill, and what it left.

    Attributes:
        run: Name of the run's folder.
        phase: What was going on when the clock was started.
        seconds: How long after the beginning of that it fell.
        resumes_at: Step of the last whole checkpoint, 0 without one.
        left: Steps of the whole records on disk.
        baseline: The first of these records as it is written there, or nothing.
    """

    run: str
    phase: str
    seconds: float
    resumes_at: int
    left: list[int]
    baseline: str


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The last one whose state, which the trainer writes at the end, is there; a kill leaves parts of the next."""

    def is_whole(checkpoint: Path) -> bool:
        try:
            return bool(json.loads((checkpoint / "trainer_state.json").read_text("utf-8")))
        except (OSError, ValueError):
            return False

    found = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def train(folder: Path) -> None:
    """Begin the run, or go on with it."""
    checkpoint = last_whole_checkpoint(folder)
    options = {"action": "warn", "problems": runs.problems(PROBLEMS), "reference": None}
    trainer, _ = killed_run.start(folder, save_steps=SAVE_STEPS, **options)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _told(phase: str, say: int) -> None:
    """Let a byte through the pipe when the phase begins, and one when it ends."""
    kind, name = PHASES[phase]
    do: Callable[..., Any] = getattr(kind, name)

    def telling(*args: Any, **kwargs: Any) -> Any:
        os.write(say, phase[0].encode())
        try:
            return do(*args, **kwargs)
        finally:
            os.write(say, phase[0].upper().encode())

    setattr(kind, name, telling)


def _life(folder: Path) -> tuple[int, int]:
    """A forked process that trains; its id, and where it tells what it is doing."""
    listen, say = os.pipe()
    if (child := os.fork()) == 0:
        os.close(listen)
        code = 1
        try:
            for phase in PHASES:
                _told(phase, say)
            train(folder)
            code = 0
        finally:
            os._exit(code)
    os.close(say)
    return child, listen


def _next(listen: int) -> str:
    """The next letter, or nothing at the end of that life."""
    ready, _, _ = select.select([listen], [], [], LIMIT)
    return os.read(listen, 1).decode() if ready else sys.exit("a run hangs")


def whole(folder: Path) -> dict[str, float]:
    """The run that nobody kills, and the longest that each phase takes in it."""
    child, listen = _life(folder)
    began, longest = {}, dict.fromkeys(PHASES, 0.0)
    while letter := _next(listen):
        phase = next(phase for phase in PHASES if phase[0] == letter.lower())
        if letter.islower():
            began[phase] = time.perf_counter()
        else:
            longest[phase] = max(longest[phase], time.perf_counter() - began[phase])
    if _ended(child, listen) != 0:
        sys.exit("the run that nobody kills failed")
    return longest


def _ended(child: int, listen: int) -> int:
    while _next(listen):  # a closed pipe would be an error in that life
        pass
    os.close(listen)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_once(folder: Path, phase: str, which: int, seconds: float) -> bool:
    """Live until ``seconds`` after the beginning of the ``which``-th ``phase``; False if the run ended before."""
    child, listen = _life(folder)
    letters = iter(lambda: _next(listen), "")
    if sum(1 for _ in zip(range(which), (x for x in letters if x == phase[0]), strict=False)) == which:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = _ended(child, listen)
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"{folder.name}: resumed, the run failed with {code}")
    return code != 0


def _left(folder: Path) -> list[str]:
    path = folder / "reasoning_guard" / "evaluations.jsonl"
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def _kill(folder: Path, rng: random.Random, longest: dict[str, float]) -> Kill | None:
    phase, which = rng.choice(list(PHASES)), rng.choice([1, 2])
    seconds = rng.random() * longest[phase]
    if not kill_once(folder, phase, which, seconds):
        return None
    checkpoint, lines = last_whole_checkpoint(folder), _left(folder)
    at = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    return Kill(folder.name, phase, seconds, at, [json.loads(x)["step"] for x in lines], "".join(lines[:1]))


def main(folder: Path, seed: int) -> None:
    rng, kills, number = random.Random(seed), [], 0
    runs.problems(PROBLEMS)  # what all lives need, made once before the first fork
    longest = whole(folder / "whole")
    while len(kills) < KILLS:
        run, number = folder / f"run-{number}", number + 1
        for _ in range(min(KILLS_A_RUN, KILLS - len(kills))):
            if (kill := _kill(run, rng, longest)) is None:
                break
            kills.append(kill)
        else:
            child, listen = _life(run)
            if (code := _ended(child, listen)) != 0:
                sys.exit(f"{run.name}: resumed from {kills[-1].resumes_at}, the run failed with {code}")
    (folder / "kills.json").write_text(json.dumps([asdict(kill) for kill in kills]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
