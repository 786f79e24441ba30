"""Take the documentation's pictures of a real run: ``python -m benchmarks.pictures``, or ``make pictures``.

Needs what ``make demo`` leaves in ``runs/demo`` and a Chromium. TensorBoard is started for as long as its picture takes
and nothing is fetched from anywhere.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.browser import screenshot

PATIENCE = 90
"""Seconds for TensorBoard to start."""


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    server = subprocess.Popen([*command, "--host", "127.0.0.1", "--load_fast=false"], stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/"
        _wait_for(address + "data/plugin/custom_scalars/layout")
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for(address: str) -> None:
    """Until there is an answer that is more than "nothing yet"."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if len(urllib.request.urlopen(address, timeout=5).read()) > len("null\n"):
                return
        except urllib.error.URLError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"no answer from {address} within {PATIENCE} s")


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of the demo (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default %(default)s)")
    options = parser.parse_args()
    screenshot((options.run / "report.html").resolve().as_uri(), options.out.resolve() / "report.png", size=(1280, 700))
    with tensorboard(options.run / "trap-0") as address:
        picture = options.out.resolve() / "tensorboard.png"
        screenshot(f"{address}#custom_scalars&_smoothingWeight=0", picture, size=(1160, 800), wait=20_000)


if __name__ == "__main__":
    main()
