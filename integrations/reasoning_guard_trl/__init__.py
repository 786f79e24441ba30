"""The rewards of :mod:`reasoning_guard.rewards` for TRL's trainers, in which they find model and tokenizer."""

from __future__ import annotations

from importlib.util import find_spec

for _framework in ("trl", "datasets"):
    if find_spec(_framework) is None:
        raise ImportError(
            f"reasoning_guard_trl needs {_framework}, which is not installed: pip install 'reasoning-guard[trl]'"
        )

from reasoning_guard_trl.preferences import build_preference_pairs  # noqa: E402
from reasoning_guard_trl.rewards import (  # noqa: E402
    AnswerConfidenceReward,
    AugmentedGenerationReward,
    CalibrationReward,
    FaithfulnessReward,
    InfoGainReward,
    RolloutMonitor,
)

__all__ = [
    "AnswerConfidenceReward",
    "AugmentedGenerationReward",
    "CalibrationReward",
    "FaithfulnessReward",
    "InfoGainReward",
    "RolloutMonitor",
    "build_preference_pairs",
]
