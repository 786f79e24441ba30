"""The page: one HTML file that needs nothing else, runs only its own script, and shows every trace as plain text."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reasoning_guard.atomic import replace_file
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.report.measures import measure
from reasoning_guard.report.numbers import number, seconds, setting, signed
from reasoning_guard.report.pairs import MOST_PAIRS, SHADES
from reasoning_guard.report.run import Run
from reasoning_guard.report.stories import hero, key_numbers, sections, tell
from reasoning_guard.report.tables import table

_PACKAGE = "reasoning_guard.report"


def write_report(path: str | os.PathLike[str], runs: Sequence[Run], *, title: str = "Reasoning guard") -> Path:
    """Write a report about one run, or about several side by side.

    Args:
        path: Where the HTML file goes; folders are made, an older file is replaced.
        runs: The runs, at least one, each under a name of its own.
        title: Title of the page.

    Returns:
        The path of the file.

    Raises:
        ConfigurationError: There is no run, or two runs have the same name.

    Example:
        >>> import tempfile
        >>> from reasoning_guard.evaluation import Evaluation, Row
        >>> rows = (Row(id="p1", values={"accuracy": 1.0}), Row(id="p2", values={"accuracy": 0.0}))
        >>> run = Run(name="tiny", evaluations=[Evaluation(step=0, rows=rows), Evaluation(step=10, rows=rows)])
        >>> page = write_report(f"{tempfile.mkdtemp()}/report.html", [run])
        >>> "Accuracy stayed at .50" in page.read_text(encoding="utf-8")
        True
    """
    target = Path(path)
    if target.is_dir():
        raise ConfigurationError(f"the report is a file, and {str(target)!r} is a folder: name a file in it")
    replace_file(target, render(runs, title=title).encode("utf-8", "replace"))
    return target


def render(runs: Sequence[Run], *, title: str) -> str:
    """Return the report as HTML; see :func:`write_report`."""
    _check(runs)
    stories = tell(runs)
    style, script = _resource("report.css"), _resource("viewer.js")
    return _environment().get_template("report.html.j2").render(
        title=title,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        stories=stories,
        heroes=hero(stories),
        sections=sections(stories),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        most_pairs=MOST_PAIRS,
        shades=SHADES,
    )  # fmt: skip


def _check(runs: Sequence[Run]) -> None:
    if not runs:
        raise ConfigurationError("a report needs at least one run; got none. Pass `runs=[load_run(directory)]`")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"runs in one report need different names; got {names}. Pass `name=` to load_run")


def _policy(style: str, script: str) -> str:
    """Content security policy: nothing is loaded, only our own style and script count, known by their hashes."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _resource(name: str) -> str:
    return (files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(key_numbers=key_numbers, table=table, measure=measure)
    environment.filters.update({f.__name__: f for f in (number, seconds, setting, signed)})
    environment.tests["finite"] = math.isfinite
    return environment
