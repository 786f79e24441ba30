"""Watches what a model's reasoning is worth while it trains.

Accuracy alone does not tell whether a model still reasons: its answers may improve while the written steps stop
carrying them. This package asks held-out problems at every evaluation, scores how much the steps inform the answer,
how much they are needed and whether they are used, and speaks up when accuracy holds and those numbers fall.
"""

from __future__ import annotations

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import ConfigurationError, HistoryError, ReasoningGuardError, ReasoningGuardWarning
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.formats import PRESETS, TraceFormat, get_format
from reasoning_guard.guard import Guard
from reasoning_guard.history import History
from reasoning_guard.probes import Probe, ProbeContext, Reading, default_probes
from reasoning_guard.problems import Problem, load_problems
from reasoning_guard.reader import TraceReader
from reasoning_guard.rules import RULES, Comparison, Finding, Rule, calibrate
from reasoning_guard.scorer import AnswerCurve, AnswerScorer
from reasoning_guard.statistics import Effect
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore, TraceTree

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "RULES",
    "Alert",
    "AnswerCurve",
    "AnswerScorer",
    "Branch",
    "BranchScore",
    "Comparison",
    "ConfigurationError",
    "Effect",
    "Evaluation",
    "Finding",
    "Guard",
    "History",
    "HistoryError",
    "Probe",
    "ProbeContext",
    "Problem",
    "Reading",
    "ReasoningGuardError",
    "ReasoningGuardWarning",
    "Row",
    "Rule",
    "Trace",
    "TraceFormat",
    "TraceReader",
    "TraceTree",
    "__version__",
    "calibrate",
    "default_probes",
    "get_format",
    "load_problems",
]
