"""Keep the weights of the last healthy checkpoint out of reach of a trainer that tidies up.

An alarm is reported some evaluations after it began. By then the trainer may have deleted the last checkpoint from
before. So weights are held in a folder of the guard's own. They are either linked from the trainer's own checkpoints (a
hard link takes no space while the trainer keeps its own), or written there by the host. Only the few that an alarm
might still need are held.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasoning_guard.guard import Guard

NOT_WEIGHTS = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "global_step*", "latest", "zero_to_fp32.py")
"""What a checkpoint holds for going on with the training; it is not kept."""

_PART = "part-of-"


class HealthyCheckpoints:
    """Checkpoints named ``checkpoint-<step>``, files or folders.

    Args:
        folder: Where they are held; it is made when one is kept. If it is on another disk than the trainer's
            checkpoints, these are copied.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """See the class."""
        self.folder = Path(folder)

    def begin(self, step: int) -> None:
        """Forget what a run that stands at ``step`` has not saved: everything at step 0, later steps if resumed.

        Whatever a kill left half written goes too.
        """
        for path in self.folder.glob(f"{_PART}*"):
            _remove(path)
        for held, path in self._held():
            if step == 0 or held > step:
                _remove(path)

    def part(self, step: int, suffix: str = "") -> Path:
        """Return where a host writes the weights of ``step`` by itself; :meth:`settle` says that they are whole.

        >>> HealthyCheckpoints("healthy").part(7, ".ckpt").as_posix()
        'healthy/part-of-checkpoint-7.ckpt'
        """
        return self.folder / f"{_PART}checkpoint-{step}{suffix}"

    def settle(self, part: Path) -> None:
        """Hold what a host has written to :meth:`part`."""
        aim = part.with_name(part.name.removeprefix(_PART))
        _remove(aim)
        os.replace(part, aim)

    def keep(self, checkpoint: Path) -> None:
        """Link the weights of ``checkpoint`` (a folder ``checkpoint-<step>``): all of them or none."""
        part = self.folder / f"{_PART}{checkpoint.name}"
        _remove(part)
        try:
            shutil.copytree(checkpoint, part, copy_function=_link, ignore=shutil.ignore_patterns(*NOT_WEIGHTS))
        except OSError:
            _remove(part)
            raise
        self.settle(part)

    def drop_all_but(self, steps: Iterable[int]) -> None:
        """Drop all checkpoints except the last one before each of ``steps``, and the newest two.

        One of these two is the last before whatever comes next, since an evaluation may be of the very step of the
        newest.
        """
        held = self._held()
        kept = {path for path in (self.last_before(step) for step in steps) if path} | {path for _, path in held[-2:]}
        for _, path in held:
            if path not in kept:
                _remove(path)

    def last_before(self, step: int) -> Path | None:
        """Return the latest checkpoint from before ``step``, or None."""
        return next((path for held, path in reversed(self._held()) if held < step), None)

    def _held(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem.rpartition("-")[2]), path) for path in self.folder.glob("checkpoint-*"))


def returns(guard: Guard) -> list[int]:
    """Return the steps at which an alarm that is open, or that may still be reported, can have begun.

    An alarm that is reported at the next evaluation began at one of the last ``patience`` evaluations, failed ones not
    counted.

    Args:
        guard: The guard of the run.

    Returns:
        Training steps.
    """
    looks = [e.step for e in guard.evaluations if e.failure is None and e.rows][-guard.patience :]
    return looks + [alert.since for alert in guard.alarms if alert.open]


def _remove(path: Path) -> None:
    """A checkpoint is one file, or a folder of shards."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
