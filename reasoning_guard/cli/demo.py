"""``demo``: the accuracy trap in miniature."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import Terminal
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.places import check_folder


def demo(
    every_arm: Annotated[
        bool, typer.Option("--all", help="All seven kinds of fine-tuning, sound and broken, with a table.")
    ] = False,
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Comma-separated; each trains a model of its own.")] = "0",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for records, TensorBoard and page.")
    ] = Path("runs/demo"),
    as_json: options.Json = False,
) -> None:
    """Train a tiny model on this machine's CPU, fine-tune it soundly and into the trap, and watch the guard.

    It takes some minutes, and needs no network and no GPU, but the extra: pip install 'reasoning-guard[demo]'. Exit
    code 1 if the guard was silent on the broken run or raised an alert on the sound one.
    """
    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise ConfigurationError(f"`--seeds` takes whole numbers with commas between them, e.g. 0,1,2; got {seeds!r}")
    check_folder(out, "`--out`")
    say = Terminal(as_json, speaks=True)
    arguments = ["--seeds", seeds, "--out", str(out), *(["--all"] if every_arm else [])]
    with redirect_stdout(sys.stderr if as_json else sys.stdout), _arguments(arguments):
        code = _run()
    if as_json:
        say.result({"exit_code": code, "runs": _told(out)})
    raise typer.Exit(code)


def _run() -> int:
    """The demo lives in a package of its own, which the core does not import."""
    try:
        runpy.run_module("reasoning_guard_demo", run_name="__main__")
    except ImportError as error:
        raise ConfigurationError(str(error)) from error
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["reasoning_guard_demo", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _told(out: Path) -> list[dict[str, Any]]:
    from reasoning_guard.report import load_run

    runs = [load_run(folder.parent) for folder in sorted(out.glob("*/reasoning_guard"))]
    return [{"name": run.name, "alerts": [alert.to_dict() for alert in run.alerts]} for run in runs]
