"""``reasoning-guard``: the commands, and what every error looks like."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape

from reasoning_guard import __version__
from reasoning_guard.cli import calibrate, compare, curate, demo, doctor, report, score
from reasoning_guard.cli.terminal import DEFECT, WRONG_USE, complain
from reasoning_guard.errors import ReasoningGuardError


def _paragraphs(command: Callable[..., None]) -> str:
    """Join the lines of a command's docstring, since the terminal breaks them where it likes; no markup."""
    return escape("\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n")))


app = typer.Typer(
    name="reasoning-guard",
    help="Does the written reasoning still carry the answers?\n\nExit codes: 0 fine, 1 a rule or a check is broken, "
    "2 wrong use, 3 nothing could be judged, 70 a bug in this package, 130 interrupted. With --json, "
    "standard output is one JSON object, and messages go to standard error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo.demo,
    doctor.doctor,
    score.score,
    compare.compare,
    curate.curate,
    report.report,
    calibrate.calibrate,
):
    app.command(help=_paragraphs(command))(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"reasoning-guard {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of no command."""


def main() -> None:
    """Run a command. Whatever a user can fix is said in a sentence, without a traceback."""
    try:
        app()
    except ReasoningGuardError as error:
        complain(str(error))
        sys.exit(WRONG_USE)
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(WRONG_USE)
    except Exception as error:  # a gate must not take it for a broken rule
        traceback.print_exc()
        complain(f"this should not have happened, and nothing was judged: {type(error).__name__}: {error}")
        sys.exit(DEFECT)
