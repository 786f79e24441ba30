"""The rewards of the core, which here find their models in the trainer that calls them."""

from __future__ import annotations

import logging
from typing import Any

from reasoning_guard import rewards
from reasoning_guard_trl.host import InTrainer

logger = logging.getLogger(__name__)


class InfoGainReward(InTrainer, rewards.InfoGainReward):
    """:class:`reasoning_guard.rewards.InfoGainReward`, attached by its trainer."""


class AnswerConfidenceReward(InTrainer, rewards.AnswerConfidenceReward):
    """:class:`reasoning_guard.rewards.AnswerConfidenceReward`, attached by its trainer."""


class CalibrationReward(InTrainer, rewards.CalibrationReward):
    """:class:`reasoning_guard.rewards.CalibrationReward`, attached by its trainer."""

    def _attach_to(self, trainer: Any, step: int) -> None:
        super()._attach_to(trainer, step)
        if len(getattr(trainer, "reward_funcs", ())) == 1:
            logger.warning(
                "%s is the only reward, so an answer that is surely wrong is the surest way to earn it; put a "
                "correctness reward of at least its weight beside it", self.name,
            )  # fmt: skip


class FaithfulnessReward(InTrainer, rewards.FaithfulnessReward):
    """:class:`reasoning_guard.rewards.FaithfulnessReward`, attached by its trainer."""


class AugmentedGenerationReward(InTrainer, rewards.AugmentedGenerationReward):
    """:class:`reasoning_guard.rewards.AugmentedGenerationReward`, attached by its trainer."""


class RolloutMonitor(InTrainer, rewards.RolloutMonitor):
    """:class:`reasoning_guard.rewards.RolloutMonitor`, attached by its trainer."""
