"""What computer algebra may take, and for how long."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

import pytest

from reasoning_guard import expressions
from reasoning_guard.answers import answers_equal
from reasoning_guard.expressions import expressions_equal, within

NO_MATH_VERIFY = "expressions are compared by math-verify, which comes with the extra math"
NESTED_SQUARES = "(" * 10 + "1+x)" + "^2)" * 9 + "^2"


def test_expressions_are_compared_off_the_main_thread() -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(answers_equal(r"\frac{1}{4}", "0.25")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "hard",
    [
        "9^{9^{9^9}}",
        "9**9**9**9",
        "100000!",
        "9^(9^9)",
        "(((2^999)^999)^999)",
        "7^99999999",
        r"\binom{1000000}{500000}",
        r"{1000000 \choose 500000}",
        "(x+y+z+w+1)^{99}",
    ],
)
def test_what_would_never_finish_is_not_computed(hard: str) -> None:
    start = time.monotonic()
    assert not answers_equal(hard, "3")
    assert time.monotonic() - start < 5


def test_what_nobody_foresaw_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    monkeypatch.setattr(expressions, "SECONDS", 0.5)
    threads, start = threading.active_count(), time.monotonic()
    assert not expressions_equal(NESTED_SQUARES, "3")
    assert time.monotonic() - start < 5
    assert threading.active_count() == threads, "nothing goes on computing"
    assert expressions_equal(r"\sqrt{8}", r"2\sqrt{2}"), "and the next is compared as ever"


def test_what_took_too_long_once_is_asked_again_and_what_does_twice_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    asked: list[float] = []
    busy = {1, 2, 3}

    def slow(seconds: float, work: Callable[[], bool]) -> bool | None:
        asked.append(seconds)
        return None if len(asked) in busy else work()

    monkeypatch.setattr(expressions, "within", slow)
    once = r"\sqrt{27}", r"3\sqrt{3}"
    busy.discard(2)
    assert [expressions_equal(*once) for _ in range(4)] == [False, True, True, True]
    assert len(asked) == 2, "a verdict is kept"
    busy.update(range(3, 99))
    assert not any(expressions_equal(r"\sqrt{75}", r"5\sqrt{3}") for _ in range(9))
    assert len(asked) == 4, "what is too hard costs no more than two tries"


def test_what_math_verify_fails_over_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verify = pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    asked: list[str] = []

    def fail(*_: object, **__: object) -> None:
        asked.append("x")
        raise ValueError

    monkeypatch.setattr(verify, "parse", fail)
    assert [expressions_equal("q+7q", "8q") for _ in range(3)] == [False] * 3
    assert len(asked) == 1


def test_ordinary_expressions_of_great_things_are_compared() -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    assert expressions_equal(r"\binom{10}{3}", "120")
    assert expressions_equal(r"\binom{n+1}{2}", r"\dbinom{n+1}{2}")
    assert not expressions_equal(r"\binom{10}{3}", "121")
    assert expressions_equal(r"\binom{2021}{2}", "2041210")
    assert not expressions_equal(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}")


def test_long_expressions_are_not_compared() -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    assert expressions_equal("+".join("1" * 100), "100")
    assert not expressions_equal("+".join("1" * 101), "101")


def test_math_verify_is_quiet_while_it_is_asked(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("math_verify", reason=NO_MATH_VERIFY)
    for module in ("parser", "grader"):
        monkeypatch.setattr(f"math_verify.{module}.TIMEOUT_WARNING_SHOWN", False)
    logger = logging.getLogger("math_verify")
    logger.setLevel(logging.WARNING)
    assert expressions_equal("q+q+1", "2q+1")
    assert not caplog.records
    assert logger.level == logging.WARNING, "what others set it to"
    logger.setLevel(logging.NOTSET)


def test_math_verify_is_as_loud_as_before_once_the_last_of_several_threads_has_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger, inside, leave = logging.getLogger("math_verify"), threading.Barrier(3), [threading.Event() for _ in "ab"]
    monkeypatch.setattr(logger, "level", logging.WARNING)
    seen: list[int] = []

    def ask(turn: int) -> None:
        with expressions._quiet:
            inside.wait(10)
            leave[turn].wait(10)
        seen.append(logger.level)

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    for thread, event in zip(threads, leave, strict=True):
        event.set()
        thread.join(10)
    assert seen == [logging.CRITICAL, logging.WARNING]


def test_work_has_its_time_and_its_failures_say_nothing() -> None:
    assert within(5, lambda: 42) == 42
    assert within(5, lambda: 1 // 0) is None
    stopped = threading.Event()

    def for_ever() -> None:
        try:
            while True:
                pass
        finally:
            stopped.set()

    assert within(0.1, for_ever) is None
    assert stopped.is_set()


def test_work_ends_with_the_wait_for_it() -> None:
    """As Ctrl-C and the alarms of reward functions end it."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    def for_ever() -> None:
        while True:
            pass

    threads, before = threading.active_count(), signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            within(60, for_ever)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert threading.active_count() == threads
