"""Several processes make one evaluation and one decision, and none waits for another that has failed.

Work is dealt out by problem. Whatever one process must know about the others travels in one stream of messages: every
process sends one, and receives one from each. One rule keeps them together: **a process that fails says so in place of
its next message, once, and all leave at that message.** No process knows how far another has got, and none has to.

A sharded model (FSDP, ZeRO-3) needs all processes in each of its forward passes. So every process announces a pass
before it makes it, and one that has nothing left to do accompanies the others (:func:`in_step`). A process that breaks
off *inside* such a pass cannot tell the others, which wait for it there. It waits a moment, in case they have failed as
well, and ends (:func:`broke_off`).

Messages travel over a separate gloo group, so they never mix with those of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import distributed_c10d

from reasoning_guard.errors import ConfigurationError, HistoryError, LostProcessError, ReasoningGuardError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another's message: far longer than shares of the work can differ.

A process that dies is noticed at once, since its connections close. This is for one that is alive and silent.
"""

PATIENCE_AFTER_A_BREAK = timedelta(minutes=2)
"""How long a process that has broken off a pass waits for the others, which need moments if they failed as well."""

_groups: dict[Any, Any] = {}


class PeerError(ReasoningGuardError):
    """Another process failed inside the guard. Raised on all others, where they awaited that process's message."""

    def __init__(self, text: str, kind: type[Exception] | None = None) -> None:
        super().__init__(text)
        self._kind = kind

    def here(self) -> Exception:
        """Return the error as this process should raise it: wrong configuration is wrong everywhere."""
        return self._kind(str(self)) if self._kind else self


@dataclass(frozen=True, slots=True)
class _Message:
    """What one process says to all.

    Attributes:
        value: Whatever the others need.
        failure: What went wrong here, or None.
        kind: The class of error that ``failure`` is on every process; None where it concerns only this one.
    """

    value: Any = None
    failure: str | None = None
    kind: type[Exception] | None = None


@dataclass(slots=True)
class _Standing:
    """The state of this process in the passes that all make.

    Attributes:
        passing: Whether a pass has been announced since the last other message.
        broke_off: Whether that pass broke off here.
    """

    passing: bool = False
    broke_off: bool = False


_standing = _Standing()


@dataclass(frozen=True, slots=True)
class Team:
    """The processes among which work is dealt out; by default only this one.

    Attributes:
        rank: This process's number.
        size: Number of processes.

    Example:
        >>> [Team(rank, 3).share("abcde") for rank in range(3)]
        ['ad', 'be', 'c']
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_run(cls) -> Team:
        """Return all processes of the run."""
        return cls(dist.get_rank(), dist.get_world_size()) if _distributed() else cls()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's share. Shares differ by at most one item, and some may be empty."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """Gather one value from every process, by rank. Every process must call this, inside :func:`together`.

        Args:
            value: This process's own; it must pickle.

        Raises:
            PeerError: Another process has failed instead.
            LostProcessError: Another process has not answered.
        """
        return [value] if self.size == 1 else [message.value for message in _exchange(_Message(value))]

    def merge(self, own: Sequence[T]) -> list[T]:
        """Invert :meth:`share`: return the items of all, in their original order, on every process."""
        shares = self.gather(list(own))
        return [shares[i % self.size][i // self.size] for i in range(sum(map(len, shares)))]


ALONE = Team()


def together(work: Callable[[], T]) -> T:
    """Do ``work`` on all processes: it ends well on all of them or on none.

    Args:
        work: Called on every process. It may send messages through :meth:`Team.gather` and :func:`in_step`. Must not be
            nested.

    Returns:
        This process's own result.

    Raises:
        PeerError: Another process failed; this one's result is dropped.
        LostProcessError: Another process has not answered.
        Exception: What ``work`` raised here; the others have been told.
    """
    if not _distributed():
        return work()
    try:
        result = work()
        _exchange(_Message())
        return result
    except PeerError as error:
        raise error.here() from error
    except LostProcessError:
        raise
    except Exception as error:
        _tell(error)
        raise


def from_main_process(make: Callable[[], T]) -> T:
    """Call ``make`` on the main process and give every process what it returned, or raise what it raised.

    Every process of the run must make this call, outside of :func:`together`. Kernels and hardware may differ in the
    last bit between ranks, so a decision that rests on such bits must be taken only once.

    Args:
        make: Called on the main process only. Its result must pickle.

    Returns:
        The main process's result.
    """
    if not _distributed():
        return make()
    return together(lambda: _exchange(_Message(make() if is_main_process() else None))[0].value)


@contextmanager
def in_step(needed: bool, companion: Callable[[], Any]) -> Iterator[Callable[[], None]]:
    """Make all processes take part in each other's passes through a model that is sharded over them.

    Call what this yields before each pass. A process that comes to the end of the block while others have passes left
    makes one of its own beside each of theirs. Nobody has to know in advance how many passes each process needs. Only
    the *number* of passes has to agree. Shapes may differ, because what is exchanged in a pass are weights.

    Args:
        needed: Whether passes need all processes; if not, nothing happens.
        companion: Makes one small pass whose result is dropped.

    Yields:
        A function that announces a pass.
    """
    if not needed or not _distributed():
        yield lambda: None
        return

    def announce() -> None:
        _anyone_passes(True)

    yield announce
    while _anyone_passes(False):
        companion()


def broke_off() -> None:
    """Note that a pass broke off here, so that the next message of the others is awaited for less time.

    If they have broken off as well (a batch too large for the memory of all), that message comes. If not, they wait
    inside the pass for what this process will never send. No message can reach them there; only the end of this process
    can.
    """
    _standing.broke_off = _standing.passing


def is_main_process() -> bool:
    """Say whether this process is the one that writes and speaks: rank 0, or the only one."""
    return not _distributed() or dist.get_rank() == 0


def _anyone_passes(passing: bool) -> bool:
    """Say whether a pass follows here; returns whether one follows anywhere."""
    _standing.passing = any(message.value for message in _exchange(_Message(passing)))
    return _standing.passing


def _tell(error: Exception) -> None:
    """Tell the others about a failure here, in place of the message that they wait for."""
    broke_off()
    kind = next((k for k in (ConfigurationError, HistoryError) if isinstance(error, k)), None)
    text = str(error) if kind else f"process {dist.get_rank()} failed: {type(error).__name__}: {error}"
    _all_messages(_Message(failure=text, kind=kind))


def _exchange(message: _Message) -> list[_Message]:
    """Send a message to all and receive one from each. If any is a failure, raise the first by rank."""
    messages = _all_messages(message)
    failed = next((m for m in messages if m.failure is not None), None)
    if failed is not None:
        raise PeerError(failed.failure or "", failed.kind)
    return messages


def _all_messages(message: _Message) -> list[_Message]:
    received: list[Any] = [None] * dist.get_world_size()
    patience = PATIENCE_AFTER_A_BREAK if _standing.broke_off else PATIENCE
    try:
        with _waiting(patience):
            dist.all_gather_object(received, message, group=_group())
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(_lost(patience)) from error
    _standing.passing = _standing.broke_off = False
    return received


@contextmanager
def _waiting(patience: timedelta) -> Iterator[None]:
    """Within the block, await messages that long."""
    distributed_c10d._set_pg_timeout(patience, _group())  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        distributed_c10d._set_pg_timeout(PATIENCE, _group())  # pyright: ignore[reportPrivateUsage]


def _lost(patience: timedelta) -> str:
    """What to say of processes that cannot be reached."""
    if _standing.broke_off:
        return (
            "a forward pass that all processes make together (FSDP, ZeRO-3) broke off here, and another process is "
            f"gone or has not broken off alike within {patience}: no message reaches it inside that pass, so this "
            "process ends, and the run with it. Look for the first error above; resume from the last checkpoint"
        )
    return (
        f"another process of this run is gone, or has not answered within {patience}; this one gives up rather than "
        "hang. Look for the first error of the others, and resume from the last checkpoint"
    )


def _group() -> Any:
    """The run's own group for messages: gloo, which needs no accelerator and keeps them apart from training's."""
    world = dist.group.WORLD
    if world not in _groups:
        _groups.clear()
        _groups[world] = dist.new_group(backend="gloo", timeout=PATIENCE)
    return _groups[world]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
