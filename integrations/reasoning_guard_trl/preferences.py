"""Preference pairs as a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from datasets import Dataset

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.rewards.preferences import RewardFunction, preference_rows


def build_preference_pairs(
    rows: Sequence[Mapping[str, Any]] | Dataset,
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    *,
    reward_weights: Sequence[float] | None = None,
    min_margin: float = 0.0,
) -> Dataset:
    """Rank several traces of each problem by rewards, and pair them for ``DPOTrainer``.

    Args:
        rows: One for each problem: "prompt", "completions", and the columns that the rewards read (see
            :func:`~reasoning_guard.rewards.preferences.preference_rows`).
        reward_funcs: Reward functions as GRPO takes them; give :class:`InfoGainReward` a ``scorer`` and ``tokenizer``.
        reward_weights: One weight for each function; default 1 each.
        min_margin: Pairs whose rewards differ by no more than this are left out.

    Returns:
        A dataset with "prompt", "chosen", "rejected" and "margin".

    Raises:
        ConfigurationError: No pair is left.
    """
    problems = cast("list[dict[str, Any]]", list(rows))
    found = preference_rows(problems, reward_funcs, reward_weights=reward_weights, min_margin=min_margin)
    if not found:
        raise ConfigurationError(
            f"no two completions of a problem differ by more than {min_margin}: sample more of each, or lower "
            "`min_margin`"
        )
    return Dataset.from_list(found)
