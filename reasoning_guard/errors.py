"""Everything that can go wrong, on one page.

A user's mistake is a :class:`ConfigurationError`, raised at construction, before any training time is spent.
A trace that cannot be scored is never an error: it is NaN with a reason (see :mod:`reasoning_guard.evaluation`).
"""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary


class ReasoningGuardError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigurationError(ReasoningGuardError, ValueError):
    """The guard was asked for something that cannot work; the message says what to do instead."""


class HistoryError(ReasoningGuardError):
    """Records belong to another run (other problems, format or chat template), so comparing them would mislead."""


class LostProcessError(ReasoningGuardError):
    """The processes of a run can no longer reach each other. This is always raised, since the run would hang."""


class ReasoningGuardWarning(UserWarning):
    """Something the user should be told once; the run goes on."""


_said: set[str] = set()
_said_by: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()


def warn_once(message: str, *, key: str | None = None, by: object | None = None) -> None:
    """Emit a :class:`ReasoningGuardWarning` the first time ``key`` (default: the message) is seen in this process.

    Args:
        message: What happened and what to do about it.
        key: Two warnings with the same key count as the same one.
        by: The object that warns, if another one may give the same warning; one of ours, which lives as long as its
            run.
    """
    identity, said = key or message, _said if by is None else _said_by.setdefault(by, set())
    if identity not in said:
        said.add(identity)
        warnings.warn(message, ReasoningGuardWarning, stacklevel=2)
