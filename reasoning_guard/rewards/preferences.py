"""Turn several traces of a problem, ranked by rewards, into preference pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasoning_guard.errors import ConfigurationError

RewardFunction = Callable[..., Sequence[float | None]]


def preference_rows(
    rows: Sequence[Mapping[str, Any]],
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    *,
    reward_weights: Sequence[float] | None = None,
    min_margin: float = 0.0,
) -> list[dict[str, Any]]:
    """Pair the best with the worst trace of each problem, the second best with the second worst, and so on.

    Args:
        rows: One for each problem: "prompt", "completions" (two or more, texts or lists of messages), and the columns
            that the rewards read, e.g. "solution". An optional "completion_ids" holds each completion's own token ids.
        reward_funcs: Reward functions as GRPO takes them; :class:`InfoGainReward` needs a given ``scorer`` here.
        reward_weights: One weight for each function; default 1 each.
        min_margin: Pairs whose rewards differ by no more than this are left out.

    Returns:
        Rows with "prompt", "chosen", "rejected" and "margin" (difference of the weighted rewards), the largest margins
        of each problem first. Only completions that the same functions graded are compared. If a function could not
        grade a completion (None) but graded others of the problem, that completion is in no pair, because None is not
        0.

    Raises:
        ConfigurationError: A row has no completions, or the weights do not match the functions.

    Example:
        >>> rows = [{"prompt": "2 + 2 =", "completions": [" 5", " 4"], "solution": "4"}]
        >>> preference_rows(rows, lambda completions, solution, **_: [float(c.strip() == s) for c, s in
        ...                                                           zip(completions, solution)])
        [{'prompt': '2 + 2 =', 'chosen': ' 4', 'rejected': ' 5', 'margin': 1.0}]
    """
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    weights = [1.0] * len(functions) if reward_weights is None else list(reward_weights)
    if len(weights) != len(functions):
        raise ConfigurationError(f"expected one weight a reward function, {len(functions)}; got {len(weights)}")
    flat = _flat(rows)
    given = [function(**flat) for function in functions]
    graded = list(zip(*given, strict=True))
    pairs: list[dict[str, Any]] = []
    at = 0
    for row in rows:
        n = len(row["completions"])
        pairs += _pairs(row, _totals(graded[at : at + n], weights), min_margin)
        at += n
    return pairs


def _flat(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The arguments of one call of a reward function: an entry a completion."""
    for number, row in enumerate(rows):
        if not row.get("completions"):
            raise ConfigurationError(f"row {number}: expected several completions of one prompt in 'completions'")
    columns = {name for row in rows for name in row} - {"prompt", "completions", "completion_ids"}
    flat: dict[str, list[Any]] = {name: [] for name in ("prompts", "completions", *sorted(columns))}
    with_ids = all("completion_ids" in row for row in rows)
    for row in rows:
        flat["completions"] += row["completions"]
        flat["prompts"] += [row["prompt"]] * len(row["completions"])
        for name in columns:
            flat[name] += [row.get(name)] * len(row["completions"])
    return flat | ({"completion_ids": [ids for row in rows for ids in row["completion_ids"]]} if with_ids else {})


def _totals(group: Sequence[Sequence[float | None]], weights: Sequence[float]) -> list[float]:
    """Weighted sums of one problem's completions over the functions that count and grade any of them.

    NaN for a completion that one of these could not grade, and for all where there is none.
    """
    counting = [k for k, weight in enumerate(weights) if weight and any(_is_graded(each[k]) for each in group)]
    values = [[each[k] for k in counting] for each in group]
    used = [weights[k] for k in counting]
    return [
        sum(weight * value for weight, value in zip(used, each, strict=True) if value is not None)
        if used and all(map(_is_graded, each))
        else math.nan
        for each in values
    ]


def _is_graded(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _pairs(row: Mapping[str, Any], totals: Sequence[float], min_margin: float) -> list[dict[str, Any]]:
    ranked = sorted((i for i, total in enumerate(totals) if math.isfinite(total)), key=lambda i: -totals[i])
    found: list[dict[str, Any]] = []
    for best, worst in zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False):
        margin = totals[best] - totals[worst]
        if margin > min_margin:
            chosen, rejected = row["completions"][best], row["completions"][worst]
            found.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "margin": margin})
    return found
