"""The weights of the last healthy checkpoint, out of reach of ``save_total_limit``.

An alarm is told some evaluations after it began, and by then the trainer may have deleted the last checkpoint from
before. So the weights of each checkpoint are linked into a folder of ours as they are saved. A hard link takes no
space while the trainer keeps its own, and only a few are held: those that an alarm might still need.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NOT_WEIGHTS = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "global_step*", "latest", "zero_to_fp32.py")
"""What a checkpoint holds for going on with the training; it is not kept."""


class HealthyCheckpoints:
    """Linked copies of checkpoints, named as the trainer names them.

    Args:
        folder: Where they are held; made when one is kept. It must be on the disk of the checkpoints, or they are
            copied.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """See the class."""
        self.folder = Path(folder)

    def begin(self, step: int) -> None:
        """Forget what a run that stands at ``step`` has not saved: everything at step 0, later steps when resumed."""
        for held, path in self._held():
            if step == 0 or held > step:
                shutil.rmtree(path)

    def keep(self, checkpoint: Path) -> None:
        """Link the weights of ``checkpoint`` (a folder ``checkpoint-<step>``)."""
        aim = self.folder / checkpoint.name
        shutil.rmtree(aim, ignore_errors=True)
        shutil.copytree(checkpoint, aim, copy_function=_link, ignore=shutil.ignore_patterns(*NOT_WEIGHTS))

    def drop_older_than_last_before(self, step: int) -> None:
        """Drop what no alarm that begins at ``step`` or later would go back to."""
        for _, path in [(held, path) for held, path in self._held() if held < step][:-1]:
            shutil.rmtree(path)

    def last_before(self, step: int) -> Path | None:
        """The latest checkpoint from before ``step``, or None."""
        return next((path for held, path in reversed(self._held()) if held < step), None)

    def _held(self) -> list[tuple[int, Path]]:
        return sorted((int(path.name.rpartition("-")[2]), path) for path in self.folder.glob("checkpoint-*"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
