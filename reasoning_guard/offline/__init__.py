"""What the command line does, in Python: score saved traces, compare models, curate, examine. Needs no trainer."""

from __future__ import annotations

from reasoning_guard.offline.advice import Advice, advise
from reasoning_guard.offline.checkup import Checkup, examine
from reasoning_guard.offline.comparison import ModelComparison, compare_models
from reasoning_guard.offline.curation import Choice, curate, write_curated
from reasoning_guard.offline.effects import calibrate_on_runs, load_effects, save_effects
from reasoning_guard.offline.loading import load_model
from reasoning_guard.offline.saved import SavedTrace, SavedTraces, load_saved_traces
from reasoning_guard.offline.scoring import (
    ScoredTraces,
    probes_with_mistakes,
    probes_without_writing,
    score_traces,
)
from reasoning_guard.offline.told_format import format_of_model

__all__ = [
    "Advice",
    "Checkup",
    "Choice",
    "ModelComparison",
    "SavedTrace",
    "SavedTraces",
    "ScoredTraces",
    "advise",
    "calibrate_on_runs",
    "compare_models",
    "curate",
    "examine",
    "format_of_model",
    "load_effects",
    "load_model",
    "load_saved_traces",
    "probes_with_mistakes",
    "probes_without_writing",
    "save_effects",
    "score_traces",
    "write_curated",
]
