"""What must not happen: rules that read a comparison with the baseline.

A rule asks its questions through a :class:`Comparison`, and returns a :class:`Finding` or None. It knows nothing of
looks, levels or patience, which are the business of :mod:`reasoning_guard.decision`. To add a rule, subclass
:class:`Rule`, and put it into :data:`RULES` or pass it to the guard.
"""

from __future__ import annotations

from reasoning_guard.rules.base import (
    AXES,
    EFFECTS,
    NATS,
    SHARE,
    TENTH,
    Comparison,
    Finding,
    Rule,
    Severity,
    column,
    expand,
    names_of,
)
from reasoning_guard.rules.calibration import calibrate
from reasoning_guard.rules.outcome import Entropy, Length, Memorisation, Verbalisation
from reasoning_guard.rules.reasoning import CAUSES, AccuracyTrap, Collapse, KnownEarly, explain

RULES: tuple[Rule, ...] = (
    AccuracyTrap(),
    Collapse(),
    Memorisation(),
    KnownEarly(),
    Length(),
    Verbalisation(),
    Entropy(),
)
"""The rules that a guard follows by default: three alarms, then four notices."""

__all__ = [
    "AXES",
    "CAUSES",
    "EFFECTS",
    "NATS",
    "RULES",
    "SHARE",
    "TENTH",
    "AccuracyTrap",
    "Collapse",
    "Comparison",
    "Entropy",
    "Finding",
    "KnownEarly",
    "Length",
    "Memorisation",
    "Rule",
    "Severity",
    "Verbalisation",
    "calibrate",
    "column",
    "expand",
    "explain",
    "names_of",
]
