"""What a probe is: branches to score, prefixes to continue, numbers to read.

A probe asks its questions and reads the answers. It never touches a model. The scorer scores all branches of all probes
in one pass, and the generator continues all prefixes of all probes in one batch.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from itertools import islice
from numbers import Real

from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore

NAN = math.nan

_SHOWN = 40
"""Characters of a value that is no number, in the reason why it is left out."""

Scores = Sequence[BranchScore]
"""One score for each branch, in the order of :meth:`Probe.branches`."""

Continued = Sequence[tuple[int, ...]]
"""The ids generated after each prefix, in the order of :meth:`Probe.prefixes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeContext:
    """What a probe may look at in addition to its trace.

    Attributes:
        reader: Reads completions and asks for answers in the run's format.
        traces: All traces of this evaluation, for probes that borrow another problem's steps.
    """

    reader: TraceReader
    traces: Sequence[Trace]

    def among_first(self, trace: Trace, n: int) -> bool:
        """Say whether the problem of ``trace`` is one of the first ``n`` of its set. Each may have several traces."""
        peers = dict.fromkeys(t.problem.id for t in self.traces if t.problem.set == trace.problem.set)
        return trace.problem.id in islice(peers, n)


@dataclass(slots=True)
class Reading:
    """What a probe says about one trace.

    Attributes:
        values: Name to value, in the probe's units; NaN if there is nothing to say.
        reasons: Name to the reason why a value is NaN.
        curve: ``lp_k`` for ``k = 0..n`` in nats, from the probe that measures it. It is kept with the row for people to
            see.
        n_tokens: Number of tokens in the answer that the curve is about.
        same: For each ``k``, whether the answer after ``k`` steps is the final one, from the probe that measures it.
    """

    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    n_tokens: int = 0
    same: tuple[bool, ...] = ()

    def unscored(self, names: Sequence[str], reason: str) -> Reading:
        """Set ``names`` to NaN for ``reason`` and return self."""
        for name in names:
            self.values[name] = NAN
            self.reasons[name] = reason
        return self

    def in_floats(self, who: str) -> Reading:
        """Return the same reading in floats. What is no number becomes NaN with the reason, so it can be recorded.

        Args:
            who: Name of the probe that read, for the reasons.

        Example:
            >>> Reading({"cost": None}).in_floats("MyProbe").reasons
            {'cost': 'MyProbe.read gave None, not one number'}
        """
        values = {str(name): _number(value) for name, value in self.values.items()}
        reasons = {
            str(name): f"{who}.read gave {_described(value)}, not one number"
            for name, value in self.values.items()
            if values[str(name)] is None
        }
        return Reading(
            values={name: NAN if value is None else value for name, value in values.items()},
            reasons=reasons | {str(name): str(reason) for name, reason in self.reasons.items()},
            curve=tuple(NAN if (level := _number(each)) is None else level for each in self.curve),
            n_tokens=int(self.n_tokens),
            same=tuple(map(bool, self.same)),
        )


class Probe(ABC):
    """Base class of all probes; override what your probe needs.

    Attributes:
        names: The values that this probe reports, in the order in which they are shown.
        readers: Who reads the branches: "policy" (the model in training), "reference" (the frozen model), or both.
            Values read by the reference are reported under ``reference/<name>``.
        gated: Those of :attr:`names` that mean nothing if accuracy is at chance: how far the model's own answers depend
            on the text, or on a hint. Gains about the reference answer are not among them, because they are low at
            chance, not high.
    """

    names: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    readers: tuple[str, ...] = ("policy",)

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        """Return questions to the scorer about ``trace``. Their scores arrive in :meth:`read` in this order."""
        return []

    def prefixes(self, trace: Trace, context: ProbeContext) -> list[tuple[int, ...]]:
        """Return token ids for the model to continue. The continuations arrive in :meth:`read` in this order."""
        return []

    @abstractmethod
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        """Turn scores and continuations into named values.

        Args:
            trace: The trace that was asked about.
            context: The same context that :meth:`branches` and :meth:`prefixes` saw.
            scores: One score for each branch.
            continued: The generated ids after each prefix, EOS removed.

        Returns:
            One value for each of :attr:`names`.
        """


def rng_for(problem: Problem) -> random.Random:
    """Return a source of randomness that the problem's id seeds, so that every evaluation draws the same."""
    return random.Random(sha256(problem.id.encode()).digest())


def _number(value: object) -> float | None:
    """The one number that ``value`` is or holds: Python's, NumPy's, an array's or a tensor's; else None."""
    try:
        held = value.item() if hasattr(value, "item") else value  # pyright: ignore
        return float(held) if isinstance(held, Real | Decimal) else None
    except (TypeError, ValueError, RuntimeError, OverflowError):  # several numbers, none, or one beyond all floats
        return None


def _described(value: object) -> str:
    """``value`` in a few words: its kind, and its shape or how it is written."""
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    shown = f"of shape {tuple(shape)}" if isinstance(shape, tuple) else repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}"
