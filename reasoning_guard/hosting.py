"""What every host does in the same way, whatever framework it adapts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reasoning_guard.errors import ConfigurationError, HistoryError, LostProcessError, warn_once
from reasoning_guard.sinks import Sink

logger = logging.getLogger(__name__)


def safely(act: Callable[[], None], on_error: str) -> None:
    """Call ``act``. An error of the guard's own never ends the user's run.

    Args:
        act: What may fail. The error is logged with its traceback.
        on_error: The guard's setting; with "raise", the error is raised after all.

    Raises:
        ConfigurationError: Wrong configuration, or records of another run (``HistoryError``). These end a run, before
            its first step.
        LostProcessError: Another process of the run is gone, which has ended the run already.
    """
    try:
        act()
    except (ConfigurationError, HistoryError, LostProcessError):
        raise
    except Exception:
        if on_error == "raise":
            raise
        logger.exception("reasoning_guard failed; training goes on")


def show(line: str, write: Callable[[str], None] = print) -> None:
    """Print a line. Characters that a terminal cannot show are no error, nor is a terminal that has gone.

    Args:
        line: The line.
        write: What prints it.
    """
    try:
        try:
            write(line)
        except UnicodeEncodeError:
            write(line.encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError) as error:  # the latter of a stream that was closed
        logger.warning("an evaluation could not be printed: %s", error)


def check_name(name: str, where: str, known: Collection[str]) -> None:
    """Refuse a value name that no evaluation will have, before anybody selects or stops by it.

    Args:
        name: The name that is asked for, e.g. ``"guard/info_gain"``.
        where: Who asks, for the message.
        known: Names of the values that the guards of the run may give.

    Raises:
        ConfigurationError: There is no such value.
    """
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise ConfigurationError(
            f"{where}: no evaluation will have a value {name!r}"
            f"{f'; did you mean {near[0]!r}?' if near else f'; there are {sorted(known)}'}"
        )


def say_no_records(step: int, directory: Path | None) -> None:
    """Warn where a run that goes on has no records, so that its baseline is made in the middle of it.

    Args:
        step: Training step at which the run stands; at 0 there is nothing to say.
        directory: Where its records were looked for.
    """
    if step > 0:
        warn_once(
            f"the run goes on at step {step}, and there are no records of it in {directory}: the model as it is now "
            "becomes the baseline, and what happened before can't be seen. Pass `directory=` the folder in which the "
            "run kept them",
            key=f"no records in {directory}",
        )


def sinks_for_training(sinks: Sequence[Sink], before: Sequence[Sink], now: Sequence[Sink]) -> list[Sink]:
    """Replace a guard's sinks of an earlier training by those of this one; keep the user's own.

    Args:
        sinks: All sinks of the guard.
        before: The sinks that the host gave it for the earlier training.
        now: The sinks for this one.

    Returns:
        The user's own sinks, then ``now``.
    """
    return [*(sink for sink in sinks if sink not in before), *now]


def template_of(trainer: Any) -> dict[str, Any]:
    """Find how a TRL trainer renders chat messages, as far as that differs from the tokenizer's own way.

    Args:
        trainer: Any trainer.

    Returns:
        What it passes to the tokenizer's ``apply_chat_template``: a template of its own, tools, and the template's
        arguments (``chat_template_kwargs={"enable_thinking": False}``).
    """
    own = {name: getattr(trainer, name, None) or None for name in ("chat_template", "tools")}
    arguments = getattr(trainer, "chat_template_kwargs", None) or {}
    return {**{name: value for name, value in own.items() if value is not None}, **arguments}


def is_due(step: int, every: int, last: int | None) -> bool:
    """Say whether an evaluation is due: there is a multiple of ``every`` since the last one.

    Steps may be skipped (gradient accumulation, several optimizers), so dividing is not enough.

    Args:
        step: Training step now.
        every: Steps between evaluations.
        last: Step of the last evaluation, None before the first.

    Returns:
        Whether to evaluate.

    Example:
        >>> [step for step in (0, 3, 6, 9) if is_due(step, 5, last=0)]
        [6, 9]
    """
    return last is None or step // every > last // every
