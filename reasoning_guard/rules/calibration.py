"""The smallest changes that matter, widened by what a healthy run of your own has shown to be harmless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reasoning_guard.evaluation import Evaluation, from_baseline
from reasoning_guard.rules.base import EFFECTS, Comparison, Rule, expand
from reasoning_guard.statistics import MINIMUM_PAIRS, Effect

MARGIN = 1.5
"""A calibrated effect is this many times the largest healthy move."""


def calibrate(
    evaluations: Sequence[Evaluation],
    rules: Sequence[Rule],
    *,
    effects: Mapping[str, Effect] = EFFECTS,
    margin: float = MARGIN,
) -> dict[str, Effect]:
    """Widen effects until the run that made ``evaluations`` is healthy by a margin, for ``Guard(effects=...)``.

    The intervals take care of noise. This is about drift: how far healthy training moves each watched value, in the
    direction that its rules watch. Effects only grow, because a calm run shows that little has happened in it, not that
    little matters.

    Args:
        evaluations: All evaluations of a healthy run. As in a guard, the baseline is the first that is not at chance.
        rules: The rules that will watch, e.g. :data:`~reasoning_guard.rules.RULES`.
        effects: The effects to widen.
        margin: Factor on the largest healthy move.

    Returns:
        ``effects``, with an absolute part of at least ``margin`` times the largest healthy move.

    Raises:
        ValueError: There is nothing to learn from: fewer than two evaluations that succeeded, or no watched value that
            enough problems have in both.

    Example:
        >>> from reasoning_guard import Guard, History, RULES                                       # doctest: +SKIP
        >>> effects = calibrate(History("runs/healthy/reasoning_guard").load(), RULES)              # doctest: +SKIP
        >>> guard = Guard(problems, tokenizer, effects=effects)                                     # doctest: +SKIP
    """
    made = from_baseline(evaluations)
    if len(made) < 2:
        raise ValueError(
            "calibration needs a baseline and at least one later evaluation of a healthy run; where the model answers "
            "no better than by chance there is none"
        )
    baseline, *looks = made
    watched = [(-1, name) for rule in rules for name in expand(rule.falls, baseline)]
    watched += [(1, name) for rule in rules for name in expand(rule.rises, baseline)]
    widened, compared = dict(effects), False
    for look in looks:
        comparison = Comparison(baseline=baseline, current=look, level=0.5, effects=widened)
        for sign, name in watched:
            change, effect = comparison.change(name), comparison.effect(name)
            compared |= change is not None
            if change is not None and margin * sign * change.difference > effect.absolute:
                widened[name] = replace(effect, absolute=margin * sign * change.difference)
    if not compared:
        raise ValueError(
            f"calibration needs a value that rules watch and that at least {MINIMUM_PAIRS} problems have at the "
            "baseline and later; there is none, so how far a healthy run moves is not known"
        )
    return widened
