"""An evaluation as trackers show it: means under fixed names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasoning_guard.alerts import Alert
from reasoning_guard.cost import share_of_time
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.probes.base import Probe
from reasoning_guard.probes.calibration import expected_calibration_error
from reasoning_guard.rules import AXES, names_of

_OF_A_RUN = (
    "unscored_fraction", "seconds", "seconds_generation", "seconds_scoring", "seconds_rest", "time_share", "alarms",
    "notices",
)  # fmt: skip


def scalars_of(evaluation: Evaluation, made: Sequence[Evaluation], alerts: Sequence[Alert]) -> dict[str, float]:
    """Return the means of ``evaluation`` under the names that trackers show; see :meth:`Guard.scalars`.

    Args:
        evaluation: The evaluation to show.
        made: All evaluations of the run. A failed ``evaluation`` takes its names from them.
        alerts: The present alerts of the run.

    Returns:
        Name to value; NaN for every name of a failed evaluation.
    """
    if evaluation.failure is not None:
        return {name: math.nan for e in made if e.failure is None for name in scalars_of(e, made, alerts)}
    found: dict[str, float] = {}
    for i, set in enumerate(evaluation.sets):
        prefix = "guard/" if i == 0 else f"guard/{set}/"
        names = evaluation.names() if i == 0 else ("accuracy", *names_of(*AXES))
        means = {name: evaluation.mean(name, set) for name in names}
        means["ece"] = expected_calibration_error(evaluation, set)
        found |= {prefix + name: mean for name, mean in means.items() if math.isfinite(mean)}
    found["guard/unscored_fraction"] = evaluation.unscored_fraction("info_gain")
    found |= _times(evaluation, made)
    open_alerts = [alert.severity for alert in alerts if alert.open]
    return found | {f"guard/{kind}s": float(open_alerts.count(kind)) for kind in ("alarm", "notice")}


def names_of_scalars(probes: Sequence[Probe], sets: Sequence[str], *, reference: bool) -> set[str]:
    """Return every name that :func:`scalars_of` may give in a run.

    Args:
        probes: The run's probes.
        sets: Its problem sets, the first one first.
        reference: Whether a frozen reference reads as well.
    """
    own = [name for probe in probes for name in probe.names]
    read = [*own, *(f"reference/{name}" for name in own if reference), "ece"]
    others = ["accuracy", *names_of(*AXES), "ece"]
    found = {f"guard/{name}" for name in (*read, *_OF_A_RUN)}
    return found | {f"guard/{set}/{name}" for set in sets[1:] for name in others}


def _times(evaluation: Evaluation, made: Sequence[Evaluation]) -> dict[str, float]:
    """Seconds in all and by part, and the share of the run's wall time so far."""
    parts = {"seconds": "total", **{f"seconds_{part}": part for part in ("generation", "scoring", "rest")}}
    found = {f"guard/{name}": evaluation.seconds[part] for name, part in parts.items() if part in evaluation.seconds}
    share = share_of_time([e for e in made if e.step <= evaluation.step])
    return found | ({"guard/time_share": share} if math.isfinite(share) else {})
