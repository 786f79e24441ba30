"""Rewards for reinforcement learning, on the same scorer: callables that need no trainer."""

from __future__ import annotations

from reasoning_guard.rewards.base import TraceReward
from reasoning_guard.rewards.confidence import AnswerConfidenceReward, CalibrationReward
from reasoning_guard.rewards.documents import AugmentedGenerationReward
from reasoning_guard.rewards.faithfulness import FaithfulnessReward
from reasoning_guard.rewards.info_gain import InfoGainReward
from reasoning_guard.rewards.monitor import GroupMonitor, RolloutMonitor
from reasoning_guard.rewards.preferences import preference_rows

__all__ = [
    "AnswerConfidenceReward",
    "AugmentedGenerationReward",
    "CalibrationReward",
    "FaithfulnessReward",
    "GroupMonitor",
    "InfoGainReward",
    "RolloutMonitor",
    "TraceReward",
    "preference_rows",
]
