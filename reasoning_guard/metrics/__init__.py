"""Metrics for torchmetrics: the probes' measures with states that sum, sync and merge.

Thin :class:`torchmetrics.Metric` classes over a functional core (:mod:`reasoning_guard.metrics.functional`). They take
tensors, so they serve any loop and any scorer. :func:`metric_inputs` makes the tensors from the rows of an evaluation::

    metrics = MetricCollection([InfoGain(), EarlyAnsweringAOC(), PlaceboGain(), MistakeSensitivity()])
    metrics.update(**metric_inputs(rows))
    metrics.compute()
"""

from reasoning_guard.metrics.faithfulness import Faithfulness
from reasoning_guard.metrics.gated import EarlyAnsweringAOC, FillerSensitivity, MistakeSensitivity
from reasoning_guard.metrics.information import InfoGain, PlaceboGain
from reasoning_guard.metrics.inputs import metric_inputs

__all__ = [
    "EarlyAnsweringAOC",
    "Faithfulness",
    "FillerSensitivity",
    "InfoGain",
    "MistakeSensitivity",
    "PlaceboGain",
    "metric_inputs",
]
