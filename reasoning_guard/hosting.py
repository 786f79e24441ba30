"""What every host does in the same way, whatever framework it adapts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from reasoning_guard.errors import ConfigurationError, HistoryError, LostProcessError
from reasoning_guard.guard import Guard
from reasoning_guard.sinks import Sink

logger = logging.getLogger(__name__)


def safely(guard: Guard, act: Callable[[], None]) -> None:
    """Call ``act``; an error of ours never ends the user's run.

    Args:
        guard: Its ``on_error`` says whether errors are raised after all.
        act: What may fail. It is logged with its traceback.

    Raises:
        ConfigurationError: Wrong configuration, and records of another run (``HistoryError``): those end a run, before
            its first step.
        LostProcessError: Another process of the run is gone, which has ended it already.
    """
    try:
        act()
    except (ConfigurationError, HistoryError, LostProcessError):
        raise
    except Exception:
        if guard.on_error == "raise":
            raise
        logger.exception("reasoning_guard failed; training goes on")


def take_over_sinks(guard: Guard, before: Sequence[Sink], now: Sequence[Sink]) -> list[Sink]:
    """Replace the sinks of an earlier training by those of this one, beside whatever sinks the user has added.

    Args:
        guard: The guard.
        before: What this function returned for the earlier training.
        now: The sinks of this one.

    Returns:
        ``now``, to be given back next time.
    """
    guard.sinks = [*(sink for sink in guard.sinks if sink not in before), *now]
    return list(now)


def is_due(step: int, every: int, last: int | None) -> bool:
    """Whether an evaluation every ``every`` steps is due: a multiple of it lies behind the last one.

    Steps may be skipped (gradient accumulation, several optimizers), so it is not enough to divide.

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
