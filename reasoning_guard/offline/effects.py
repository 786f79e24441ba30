"""Thresholds on disk: the smallest changes that matter, from healthy runs of your own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from reasoning_guard.atomic import replace_file
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.rules import EFFECTS, RULES, Rule, calibrate
from reasoning_guard.statistics import Effect


def calibrate_on_runs(runs: Sequence[Sequence[Evaluation]], rules: Sequence[Rule] = RULES) -> dict[str, Effect]:
    """Find effects by which each of several healthy runs is healthy (:func:`~reasoning_guard.rules.calibrate`).

    Args:
        runs: The evaluations of each run.
        rules: The rules that will watch.

    Returns:
        Value name to effect.

    Raises:
        ConfigurationError: A run has fewer than two evaluations that succeeded.
    """
    effects = dict(EFFECTS)
    for evaluations in runs:
        try:
            effects = calibrate(evaluations, rules, effects=effects)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
    return effects


def save_effects(path: str | os.PathLike[str], effects: Mapping[str, Effect]) -> None:
    """Write effects as JSON, from value name to ``{"relative", "absolute"}``."""
    values = {name: asdict(effect) for name, effect in effects.items()}
    replace_file(Path(path), (json.dumps(values, indent=2) + "\n").encode())


def load_effects(path: str | os.PathLike[str]) -> dict[str, Effect]:
    """Read what :func:`save_effects` wrote, for ``Guard(effects=...)``.

    Raises:
        ConfigurationError: There is no such file, or it holds something else.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        return {name: Effect(**fields) for name, fields in values.items()}
    except OSError as error:
        raise ConfigurationError(f"expected a .json file with effects; {str(path)!r} can't be read: {error}") from error
    except (ValueError, RecursionError, TypeError, AttributeError, ConfigurationError) as error:
        raise ConfigurationError(
            f'{path}: expected a JSON object such as {{"accuracy": {{"relative": 0.05, "absolute": 0.02}}}}; {error}'
        ) from error
