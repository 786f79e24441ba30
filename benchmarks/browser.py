"""A headless Chromium: opens a page, asks it something, takes its picture. No driver, only its command line."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NONE_FOUND = "no chromium, chromium-browser or google-chrome on the PATH"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
_OUTER = """<!doctype html><iframe id="f" src="PAGE" width="WIDTH" height="800"></iframe><pre id="result"></pre><script>
onload = () => {
  const win = document.getElementById("f").contentWindow, doc = win.document;
  const all = (query) => [...doc.querySelectorAll(query)];
  const said = (() => { BODY })();
  document.getElementById("result").textContent = JSON.stringify(said);
};</script>"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a folder's files are served to this machine."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(page: Path, body: str, *, width: int = 1200, anchor: str = "") -> dict[str, Any]:
    """Open ``page`` in a frame and run a function body over it, which knows ``win``, ``doc`` and ``all(selector)``.

    Args:
        page: An HTML file; it is opened as a browser would, with its own security policy.
        body: JavaScript that returns something JSON can say.
        width: Width of the frame in pixels.
        anchor: What stands behind ``#`` in the address.

    Returns:
        What it returned.

    Raises:
        RuntimeError: The page wrote to the console, which none of ours does unless something is wrong.
    """
    fill = {"PAGE": page.name + anchor, "WIDTH": str(width), "BODY": body}
    (page.parent / "outer.html").write_text(re.sub("PAGE|WIDTH|BODY", lambda m: fill[m[0]], _OUTER), encoding="utf-8")
    with served(page.parent) as address:
        done = _run(f"{address}/outer.html", "--window-size=1400,900", "--dump-dom")
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "favicon" not in line]
    found = re.search(r'<pre id="result">(.*)</pre>', done.stdout, re.DOTALL)
    if complaints or not found:
        raise RuntimeError("\n".join(complaints) or done.stderr[-2000:])
    return json.loads(html.unescape(found[1]))


def screenshot(address: str, out: Path, *, size: tuple[int, int], wait: int = 0, dark: bool = False) -> None:
    """Save what a window of ``size`` pixels shows as PNG.

    Args:
        address: Address of a page, ``file://`` or ``http://``.
        out: Path of the picture.
        size: Width and height.
        wait: Milliseconds of page time to let pass before the picture is taken.
        dark: Whether the page is told that its reader prefers dark colours.
    """
    flags = [f"--screenshot={out}", f"--window-size={size[0]},{size[1]}"]
    flags += [f"--virtual-time-budget={wait}"] if wait else []
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(address, *flags)


def print_to_pdf(address: str, out: Path) -> None:
    """Save the page as it would be printed."""
    _run(address, f"--print-to-pdf={out}", "--no-pdf-header-footer")


def _run(address: str, *flags: str) -> subprocess.CompletedProcess[str]:
    if CHROMIUM is None:
        raise RuntimeError(NONE_FOUND)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_FLAGS, *flags, f"--user-data-dir={profile}", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
