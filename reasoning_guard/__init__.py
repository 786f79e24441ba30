"""Watch what a model's reasoning is worth while it trains.

Accuracy alone does not tell whether a model still reasons: its answers may improve while the written steps stop
carrying them. At every evaluation, this package asks the model held-out problems. It scores how much the steps inform
the answer, how much they are needed and whether they are used, and raises an alert when accuracy holds and those
numbers fall.

Names are imported when they are first used, so that ``reasoning-guard --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoning_guard.alerts import Alert
    from reasoning_guard.errors import ConfigurationError, HistoryError, ReasoningGuardError, ReasoningGuardWarning
    from reasoning_guard.evaluation import Evaluation, Row
    from reasoning_guard.formats import PRESETS, TraceFormat, get_format
    from reasoning_guard.guard import Guard
    from reasoning_guard.history import History
    from reasoning_guard.offline import (
        compare_models,
        curate,
        examine,
        load_effects,
        load_model,
        load_saved_traces,
        score_traces,
    )
    from reasoning_guard.probes import Probe, ProbeContext, Reading, default_probes
    from reasoning_guard.problems import Problem, load_problems
    from reasoning_guard.reader import TraceReader
    from reasoning_guard.rules import RULES, Comparison, Finding, Rule, calibrate
    from reasoning_guard.scorer import AnswerCurve, AnswerScorer
    from reasoning_guard.statistics import Effect
    from reasoning_guard.traces import Trace
    from reasoning_guard.tree import Branch, BranchScore, TraceTree

__version__ = "0.1.0"

_HOMES = {
    "alerts": ("Alert",),
    "errors": ("ConfigurationError", "HistoryError", "ReasoningGuardError", "ReasoningGuardWarning"),
    "evaluation": ("Evaluation", "Row"),
    "formats": ("PRESETS", "TraceFormat", "get_format"),
    "guard": ("Guard",),
    "history": ("History",),
    "offline": (
        "compare_models",
        "curate",
        "examine",
        "load_effects",
        "load_model",
        "load_saved_traces",
        "score_traces",
    ),
    "probes": ("Probe", "ProbeContext", "Reading", "default_probes"),
    "problems": ("Problem", "load_problems"),
    "reader": ("TraceReader",),
    "rules": ("RULES", "Comparison", "Finding", "Rule", "calibrate"),
    "scorer": ("AnswerCurve", "AnswerScorer"),
    "statistics": ("Effect",),
    "traces": ("Trace",),
    "tree": ("Branch", "BranchScore", "TraceTree"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

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
    "compare_models",
    "curate",
    "default_probes",
    "examine",
    "get_format",
    "load_effects",
    "load_model",
    "load_problems",
    "load_saved_traces",
    "score_traces",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` and remember what was found (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
