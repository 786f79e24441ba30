"""Run a script of the tests in a process of its own, which imports from wherever this one does."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType


def run_script(
    script: ModuleType, *arguments: object, timeout: float, launcher: tuple[str, ...] = (), about: str = "", **more: str
) -> None:
    """Run a script, which must end well; ``more`` goes into its environment, ``about`` before its last words."""
    path = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
    command = [sys.executable, *launcher, str(script.__file__), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, **more}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, about + done.stderr[-6000:]
