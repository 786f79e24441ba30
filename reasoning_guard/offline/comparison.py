"""Two models on the same problems, paired: what changed, how sure that is, and whether a rule is broken."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from reasoning_guard.alerts import Alert
from reasoning_guard.decision import can_judge, resting
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.formats import TraceFormat
from reasoning_guard.guard import Guard
from reasoning_guard.probes import Probe
from reasoning_guard.problems import load_problems
from reasoning_guard.report.series import Timeline
from reasoning_guard.rules import RULES, Rule
from reasoning_guard.statistics import MINIMUM_PAIRS, Change, Effect, paired_change

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEVEL = 0.025
"""Error probability of each bound of an interval that is shown: 95 % between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """How two models differ.

    Attributes:
        base: The first model's evaluation.
        tuned: The second model's.
        alerts: Broken rules. Those of severity "alarm" speak against the second model.
        resting: Alarm rules that lack the data to judge, and what they lack.
        judged: Whether any alarm had the data to judge the reasoning. If not, silence means nothing.
    """

    base: Evaluation
    tuned: Evaluation
    alerts: tuple[Alert, ...]
    resting: Mapping[str, str]
    judged: bool

    @property
    def alarms(self) -> tuple[Alert, ...]:
        """The alerts that speak against the second model."""
        return tuple(alert for alert in self.alerts if alert.severity == "alarm")

    def changes(self) -> list[Change]:
        """Return every value that enough problems have in both, with the paired 95 % interval of its change.

        The interval is the report's: Newcombe's for shares of problems, Student's for the rest.
        """
        history = Timeline((), self.base, self.tuned)
        found = (
            (paired_change(self.base, self.tuned, name, set=set, level=_LEVEL), history.difference(name, set))
            for set in self.base.sets
            for name in self.base.names()
        )
        return [replace(change, lower=shown.lower, upper=shown.upper) for change, shown in found if change and shown]


def compare_models(
    base: nn.Module,
    tuned: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Any,
    *,
    format: str | TraceFormat = "plain",
    probes: Sequence[Probe] | None = None,
    rules: Sequence[Rule] = RULES,
    effects: Mapping[str, Effect] | None = None,
    alpha: float = 0.05,
    max_new_tokens: int = 512,
    directory: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> ModelComparison:
    """Let two models answer the same problems, and judge the second by the first, as a guard does in training.

    The first model is the baseline and the frozen reference. The second is judged like the first look of a run.

    Args:
        base: The model before training.
        tuned: The model after training: the same architecture with other weights, or an adapter on it.
        tokenizer: The tokenizer of both.
        problems: Held-out problems, or anything :func:`~reasoning_guard.problems.load_problems` takes. At least 16; 100
            or more to see falls of 30 % in a share, 200 for most falls of 20 %.
        format: How a completion is read.
        probes: What to ask; default :func:`~reasoning_guard.probes.default_probes`.
        rules: What must not happen.
        effects: Smallest changes that matter, where they differ from :data:`~reasoning_guard.rules.EFFECTS`.
        alpha: Largest chance of any false alarm.
        max_new_tokens: Longest trace, in tokens.
        directory: Where to keep the records; :func:`~reasoning_guard.report.load_run` reads them.
        progress: Whether to show progress bars.

    Returns:
        Both evaluations and what the rules say.

    Raises:
        ConfigurationError: There are fewer than 16 problems, or a guard refuses the settings.

    Example:
        >>> found = compare_models(base, tuned, tokenizer, "held_out.jsonl", format="gsm8k")    # doctest: +SKIP
        >>> found.alarms                                                                        # doctest: +SKIP
        ()
    """
    loaded = load_problems(problems, format=format)
    if len(loaded) < MINIMUM_PAIRS:
        raise ConfigurationError(
            f"a comparison needs at least {MINIMUM_PAIRS} problems to say anything, 100 to see a share fall by 30 %; "
            f"got {len(loaded)}"
        )
    guard = Guard(
        loaded,
        tokenizer,
        format=format,
        probes=probes,
        rules=rules,
        effects=effects,
        alpha=alpha,
        patience=1,
        reference=base,
        directory=directory,
        max_new_tokens=max_new_tokens,
        on_error="raise",
        progress=progress,
    )
    guard.prepare(base)
    guard.begin(0)
    before, after = guard.evaluate(base, 0), guard.evaluate(tuned, 1)
    assert before is not None
    assert after is not None
    rests = resting((before, after), [rule for rule in rules if rule.severity == "alarm"])
    return ModelComparison(
        base=before,
        tuned=after,
        alerts=tuple(guard.alerts),
        resting=rests,
        judged=bool(guard.alarms) or can_judge((before, after), rules),
    )
