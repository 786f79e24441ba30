"""Whether two mathematical expressions are equal: `math-verify <https://github.com/huggingface/Math-Verify>`_ says it.

A model may write whatever it likes, and computer algebra takes for ever over some of it. What is known to be too much
is not asked. Everything else has a few seconds.
"""

from __future__ import annotations

import ctypes
import logging
import math
import re
from collections.abc import Callable
from functools import lru_cache
from threading import Event, Lock, Thread
from typing import TypeVar

Result = TypeVar("Result")

SECONDS = 5.0
"""Most seconds for one comparison; an ordinary one takes milliseconds."""
_TRIES = 2
"""How many times a comparison may take too long before it is given up for good."""
_PATIENCE = 10
"""How often a comparison is asked to stop, a second each time; one that does not stop is left behind."""
_SYMBOLS = frozenset({"sqrt", "sin", "cos", "tan", "log", "exp", "inf", "matrix", "pmatrix", "bmatrix", "vmatrix"})
_SUM_TO_A_POWER = re.compile(r"[)}\]]\s*\^\s*[{(]*\s*-?(?:\d{2,}|[5-9]|[^\W\d_])")
"""``(x+y+1)^{30}``: expanding it takes a computer algebra system for ever."""
_TOWER = re.compile(r"\^\s*(?:[({][^)}]*\^|-?\w+\s*\^)|!")
_GREAT_BINOMIAL = re.compile(r"(?=.*\\[dt]?(?:binom|choose)(?![a-zA-Z])).*\d{5}", re.DOTALL)


def expressions_equal(given: str, reference: str) -> bool:
    """Return math-verify's verdict on two expressions.

    A comparison that took too long is tried once more when it is asked for again, because the machine may have been
    busy. If it takes too long again, it counts as unequal from then on.

    Args:
        given: What the model answered.
        reference: The right answer.

    Returns:
        Whether they are equal. False if math-verify can't read one of them, is not installed, or does not know within
        :data:`SECONDS`.

    Example:
        >>> expressions_equal("Paris", "Rome"), expressions_equal("9^{9^9}", "3")
        (False, False)
    """
    late = _times_late(given, reference)
    if late[0] >= _TRIES:
        return False
    try:
        return _verdict(given, reference)
    except TimeoutError:
        late[0] += 1
        return False


@lru_cache(maxsize=4096)
def _times_late(given: str, reference: str) -> list[int]:
    """Return a counter of how often the comparison of two expressions took too long."""
    return [0]


@lru_cache(maxsize=4096)
def _verdict(given: str, reference: str) -> bool:
    """Return whether two expressions are equal, if that can be found out in time; it is kept for good.

    Raises:
        TimeoutError: It took too long, which is not kept.
    """
    if not (_is_expression(given) and _is_expression(reference)):
        return False
    try:
        from math_verify import parse, verify
    except ImportError:
        return False

    def asked() -> bool:
        # Its own timeouts need signals, which only the main thread has and which may be another's there.
        # A longer dash is a minus too: math-verify would read no further than to it, 5–7 as 5.
        texts = (re.sub("[–—]", "-", text.strip(" $.")) for text in (given, reference))
        try:
            one, other = (parse(f"${text}$", parsing_timeout=None) for text in texts)  # type: ignore[arg-type]
            return bool(one and other and verify(other, one, timeout_seconds=None))
        except Exception:  # no verdict; texts and plain numbers have been compared already
            return False

    with _quiet:
        equal = within(SECONDS, asked)
    if equal is None:
        raise TimeoutError
    return equal


def within(seconds: float, work: Callable[[], Result]) -> Result | None:
    """Return what ``work`` returns; None if it fails or takes longer than ``seconds``.

    The work runs in a thread, which is told to stop when the time is over. That needs no signals, and reaches any
    Python code that runs there. A single long operation of a C library can't be stopped, and is left behind.

    Args:
        seconds: Most wall time, in seconds.
        work: The function to call; it must leave nothing half done when it is stopped.

    Example:
        >>> within(5, lambda: 1 + 1)
        2
    """
    found: list[Result] = []
    finished = Event()

    def run() -> None:
        try:
            found.append(work())
        except (Exception, SystemExit):  # nothing found; the latter is how it is told to stop
            return
        finally:
            finished.set()

    thread = Thread(target=run, name="expressions", daemon=True)
    thread.start()
    try:
        finished.wait(seconds)  # not join: a thread whose join is interrupted passes for dead (bpo-45274)
    finally:  # Ctrl-C and the alarms of reward functions end the wait too, and the work with it
        _stop(thread, finished)
    return found[0] if found else None


def _stop(thread: Thread, finished: Event) -> None:
    for _ in range(_PATIENCE):
        if finished.is_set() or not thread.is_alive():
            thread.join(1)
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        finished.wait(1)


def _is_expression(text: str) -> bool:
    r"""Say whether math-verify may read this: it takes words for products of letters, and hangs on large powers."""
    bare = re.sub(r"\\(?:[a-zA-Z]+|!)", " ", text).replace("**", "^")
    words = {word.casefold() for word in re.findall(r"[^\W\d_]{3,}|(?<=\d)(?:st|nd|rd|th)\b", bare)}
    powers = math.prod(int(power) for power in re.findall(r"\^\s*[{(]*\s*-?(\d{1,9})", bare))
    return (
        len(text) <= 200
        and not words - _SYMBOLS
        and powers <= 10_000
        and not _TOWER.search(bare)
        and not _SUM_TO_A_POWER.search(bare)
        and not _GREAT_BINOMIAL.match(text)
    )


class _Quiet:
    """Keeps a library's logger below errors: math-verify announces every missing timeout.

    Several threads may be inside; the last one to leave puts the level back.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._lock = Lock()
        self._inside, self._level = 0, logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._level = self._logger.level
                self._logger.setLevel(logging.CRITICAL)
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._logger.setLevel(self._level)


_quiet = _Quiet("math_verify")
