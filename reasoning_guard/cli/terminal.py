"""What a command says, and where: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

BROKEN, WRONG_USE, NOT_JUDGED, DEFECT = 1, 2, 3, 70
"""Exit codes beside 0, and 130 for Ctrl-C."""


def complain(message: str) -> None:
    """Say on standard error what went wrong; of several processes, only the first does."""
    _error_console(quiet=os.environ.get("RANK", "0") != "0").print(
        f"[bold red]error:[/] {escape(message)}", highlight=False
    )


class Terminal:
    """Where a command writes.

    Attributes:
        out: Standard output, for tables; silent with ``--json``.
        err: Standard error, for progress and notes.
        speaks: Whether this process is the one that speaks.
    """

    def __init__(self, as_json: bool, speaks: bool) -> None:
        self.speaks = speaks
        self.out = Console(file=sys.stdout, quiet=as_json or not speaks, highlight=False)
        self.err = _error_console(quiet=not speaks)
        self._json = sys.stdout if as_json and speaks else None

    def result(self, values: Mapping[str, Any]) -> None:
        """Print the result for machines, but only with ``--json``."""
        if self._json is not None:
            from reasoning_guard.history import plain

            self._json.write(json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            self._json.flush()

    def note(self, message: str) -> None:
        """Print something the user should know."""
        self.err.print(f"[yellow]note:[/] {escape(message)}", highlight=False)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what takes time: a spinner on a terminal, a line elsewhere."""
        if self.err.is_terminal:
            with self.err.status(escape(what)):
                yield
        else:
            self.err.print(f"{escape(what)} ...")
            yield

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar on a terminal, a line elsewhere; yields a function to call with (done, total)."""
        if not self.err.is_terminal:
            self.err.print(f"{escape(what)} ...")
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.err, transient=True) as progress:
            task = progress.add_task(escape(what), total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def terminal(as_json: bool) -> Iterator[Terminal]:
    """Silence the frameworks, keep their prints off standard output, and show warnings as notes."""
    from reasoning_guard.processes import is_main_process

    _join_processes()
    made = Terminal(as_json, is_main_process())
    _hush(made)
    with redirect_stdout(sys.stderr):
        yield made


def load(say: Terminal, name: str, device: str | None, dtype: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, and say so."""
    from reasoning_guard.offline import load_model

    with say.doing(f"loading {name}"):
        return load_model(name, device=device, dtype=dtype)


def _error_console(quiet: bool = False) -> Console:
    return Console(stderr=True, quiet=quiet, highlight=False)


def _join_processes() -> None:
    """Take part in the run of ``accelerate launch``, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState()


def _hush(terminal: Terminal) -> None:
    import transformers

    from reasoning_guard.errors import ReasoningGuardWarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, ReasoningGuardWarning):
            terminal.note(str(message))

    warnings.showwarning = show
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logger = logging.getLogger("reasoning_guard")
    logger.handlers = [_Notes(terminal)]
    logger.propagate = False
    logging.getLogger("reasoning_guard.guard").setLevel(logging.ERROR)  # its alerts are shown by the commands


class _Notes(logging.Handler):
    """Log records of the package as notes."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.note(record.getMessage())
