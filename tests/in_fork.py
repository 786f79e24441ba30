"""A command in a process of its own that need not import everything again: a fork of this one."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch  # noqa: F401  what a fork must not import again

import reasoning_guard.offline  # noqa: F401


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def in_fork(main: Callable[[], None], arguments: Sequence[str], cwd: Path) -> Done:
    """Call ``main`` as a script would be, and see what it wrote and how it ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if (child := os.fork()) == 0:
            _be(main, arguments, cwd, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        for file in (out, err):
            file.seek(0)
        return Done(os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode())


def _be(main: Callable[[], None], arguments: Sequence[str], cwd: Path, out: int, err: int) -> None:
    """The child; never returns."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", closefd=False) for fd in (1, 2))
        os.environ["COLUMNS"] = "80"
        os.chdir(cwd)
        sys.argv = ["reasoning-guard", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
