"""Each reward of the core, finding its models in the trainer that calls it."""

from __future__ import annotations

from reasoning_guard import rewards
from reasoning_guard_trl.host import InTrainer


class InfoGainReward(InTrainer, rewards.InfoGainReward):
    """:class:`reasoning_guard.rewards.InfoGainReward`, attached by its trainer."""


class AnswerConfidenceReward(InTrainer, rewards.AnswerConfidenceReward):
    """:class:`reasoning_guard.rewards.AnswerConfidenceReward`, attached by its trainer."""


class CalibrationReward(InTrainer, rewards.CalibrationReward):
    """:class:`reasoning_guard.rewards.CalibrationReward`, attached by its trainer."""


class FaithfulnessReward(InTrainer, rewards.FaithfulnessReward):
    """:class:`reasoning_guard.rewards.FaithfulnessReward`, attached by its trainer."""


class AugmentedGenerationReward(InTrainer, rewards.AugmentedGenerationReward):
    """:class:`reasoning_guard.rewards.AugmentedGenerationReward`, attached by its trainer."""


class RolloutMonitor(InTrainer, rewards.RolloutMonitor):
    """:class:`reasoning_guard.rewards.RolloutMonitor`, attached by its trainer."""
