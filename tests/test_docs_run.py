"""Every code block and every command of README and docs is run, or is checked in a way that stands here."""

from __future__ import annotations

import builtins
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import two_checkpoints
from documents import FIXTURES, OWN_TEST, PAGES, ROOT, Block, blocks, free_names, record, set_the_table
from in_fork import in_fork
from reasoning_guard.cli.app import main

RUN, SHOWN = ("python", "diff", "bash"), ("text", "json", "pycon", "py")
# "py": lines of an example, which test_examples.py holds against the example; the example as a whole is run.
OURS = [page for page in PAGES if page.name not in OWN_TEST]
PYTHON = [b for page in OURS for b in blocks(page, "python", "diff") if not b.excuse]
COMMANDS = [(b, line) for page in OURS for b in blocks(page, "bash") if not b.excuse for line in b.text.splitlines()]


def test_every_block_says_its_language_and_few_are_excused() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert {block.language for block in found} <= {*RUN, *SHOWN}
    excused = [f"{block}: {block.excuse}" for block in found if block.excuse]
    assert len(excused) <= 2, excused


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but the few names that a reader has: a trainer, problems, a model."""
    monkeypatch.chdir(tmp_path)
    set_the_table(tmp_path)
    wanted = free_names(block.code) - set(vars(builtins)) - {"__name__"}
    assert wanted <= FIXTURES.keys(), f"{block} needs {wanted - FIXTURES.keys()}: import or define it in the block"
    namespace = {"__name__": "__main__", **{name: FIXTURES[name](tmp_path) for name in wanted}}
    exec(compile(block.code, str(block.page), "exec"), namespace)


def test_pages_that_have_a_test_of_their_own_do_have_it() -> None:
    for page, test in OWN_TEST.items():
        assert f'"{page}"' in (ROOT / "tests" / test).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command line is tried: two models, one of which no longer reads its steps, and a healthy run."""
    folder = two_checkpoints.save_all(tmp_path_factory.mktemp("checkpoints"))
    record(folder / "runs" / "healthy" / "reasoning_guard")
    return folder


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=[f"{b}-{line[:40]}" for b, line in COMMANDS])
def test_commands_do_what_they_say(block: Block, command: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    words = shlex.split(command, comments=True)
    if not words:
        return
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), "a target that does nothing"
    elif words[0] == "reasoning-guard":
        done = in_fork(main, words[1:], request.getfixturevalue("checkpoints"))
        assert done.code == int(found[1] if (found := re.search(r"# exit code (\d)", command)) else 0), done.err
    elif "install" in words:
        check_install(words[-1])
    else:
        run(command, tmp_path)


def check_install(what: str) -> None:
    """Extras that exist; that they can be installed is what setting the project up shows."""
    extras = re.fullmatch(r"(?:\.|reasoning-guard)(?:\[([\w,-]+)\])?", what)
    assert extras, what
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {*filter(None, (extras[1] or "").split(","))} <= known.keys()


def run(command: str, folder: Path) -> None:
    """Run a command where the reader's files are, with this checkout in place of an installed package."""
    set_the_table(folder)
    scripts = folder / ".bin"
    scripts.mkdir()
    (scripts / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    (scripts / "python").chmod(0o755)
    paths = os.pathsep.join([str(scripts), str(Path(sys.executable).parent), os.environ["PATH"]])
    source = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
