"""What a guard says: alerts to everyone who listens, and once, whatever is odd about an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from reasoning_guard.alerts import Alert
from reasoning_guard.decision import baseline_of, resting
from reasoning_guard.errors import warn_once
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.reader import TraceReader
from reasoning_guard.rules import Rule
from reasoning_guard.seams import seam_report
from reasoning_guard.settings import OnError
from reasoning_guard.sinks import Sink

logger = logging.getLogger("reasoning_guard.guard")

_SEAMS = 64
"""Traces of the first evaluation on which the tokenisation at cuts is checked."""


def tell(
    baseline: Evaluation,
    evaluation: Evaluation,
    new: Sequence[Alert],
    sinks: Sequence[Sink],
    action: Callable[[Alert], None] | None,
    on_error: OnError,
    *,
    speaker: object,
) -> None:
    """Log the new alerts, and hand them with the evaluation to the sinks and to the user's own action.

    Args:
        baseline: The evaluation that ``evaluation`` is compared with.
        evaluation: The latest evaluation.
        new: Alerts that are reported for the first time.
        sinks: Who shows text.
        action: The user's own action, if there is one.
        on_error: "record": a sink or action that raises is skipped, with a warning the first time, since it is others'
            code; "raise": its error is raised.
        speaker: The guard that warns. Another guard gives its own warning.
    """
    for alert in new:
        logger.warning("%s", alert.text())
    listeners: list[Callable[[Alert], None]] = [sink.alert for sink in sinks] + ([action] if action else [])
    calls = [partial(listener, alert) for alert in new for listener in listeners]
    if evaluation.failure is None:
        calls += [partial(sink.evaluation, baseline, evaluation) for sink in sinks]
    for call in calls:
        try:
            call()
        except Exception as error:
            if on_error == "raise":
                raise
            name = _name(call.func)
            warn_once(f"{name} failed and is skipped: {error}", key=f"failed {name}", by=speaker)


def _name(listener: Callable[..., None]) -> str:
    """What a listener is called, without the address that Python would add."""
    owner = getattr(listener, "__self__", None)
    name = getattr(listener, "__name__", type(listener).__name__)
    return name if owner is None else f"{type(owner).__name__}.{name}"


def say_what_is_odd(made: Sequence[Evaluation], reader: TraceReader, rules: Sequence[Rule], *, speaker: object) -> None:
    """Warn of what a user should look at: a format that does not fit, merging tokens, rules that rest. Once each.

    Args:
        made: All evaluations of the run, the latest last.
        reader: Reads completions in the run's format.
        rules: What must not happen.
        speaker: Who says it; another guard says its own.
    """
    evaluation = made[-1]
    if evaluation.rows and evaluation.sets[0] in evaluation.gated:
        baseline = baseline_of(made)
        warn_once(_why_chance(evaluation, baseline, reader.format.name), key=f"chance {baseline is None}", by=speaker)
        if baseline is None:
            return
    if evaluation.rows and len(made) == 1:
        report = seam_report(reader, [row.completion for row in evaluation.rows[:_SEAMS]])
        if report.worth_telling:
            warn_once(str(report), key="seams", by=speaker)
    for name, reason in resting(made, rules).items():
        warn_once(f"rule {name} rests: {reason}", key=f"rests {name}", by=speaker)


def _why_chance(evaluation: Evaluation, baseline: Evaluation | None, format: str) -> str:
    """Say why an evaluation may be at chance, for whoever has to fix it."""
    rows = evaluation.rows
    answered = sum(row.answer is not None for row in rows)
    cut = sum("cut off" in row.notes for row in rows)
    if baseline is None:
        so = "so there is no baseline to compare with yet"
    else:
        so = f"unlike at step {baseline.step}, and whether the reasoning is used can't be read"
    return (
        f"at step {evaluation.step} accuracy is near chance, {so}: {answered} of {len(rows)} traces state an answer in "
        f"format {format!r}, {cut} were cut off by the length limit. If that is not how far the model is, choose "
        "another `format=`, raise `max_new_tokens=`, or check that the held-out prompts look as they do in training. "
        f"The first trace: {rows[0].completion[:300]!r}"
    )
