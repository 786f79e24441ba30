"""From rows to tensors: what the probes found about each trace, as the metrics take it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reasoning_guard.evaluation import Row


def metric_inputs(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Make keyword arguments for the metrics, or for a collection, which hands each metric what it takes.

    Args:
        rows: Rows of one evaluation, or some of them, as :func:`~reasoning_guard.evaluate.probe_traces` and
            :class:`~reasoning_guard.evaluation.Evaluation` give them. What was not measured is NaN.

    Returns:
        ``logprobs`` ``[batch, n_cuts]``, ``same`` ``[batch, n_cuts]``, and per trace ``n_tokens``, ``n_steps``,
        ``posterior``, ``placebo_posterior``, ``filler_changed``, ``mistake_changed``, ``paraphrase_changed``,
        ``correct``. On the CPU.

    Example:
        >>> from reasoning_guard.metrics import InfoGain
        >>> metric, rows = InfoGain(), [Row(id="a", steps=("so 4",), curve=(-6.0, -1.0), n_tokens=2)]
        >>> inputs = metric_inputs(rows)
        >>> metric(inputs["logprobs"], inputs["n_tokens"], inputs["n_steps"])
        tensor(2.5000)
    """
    n_cuts = max((len(row.steps) for row in rows), default=0) + 1
    posterior = _values(rows, "posterior")
    return {
        "logprobs": torch.tensor([_padded(row.curve, n_cuts, math.nan) for row in rows]).reshape(-1, n_cuts),
        "same": torch.tensor([_padded(row.same, n_cuts, False) for row in rows]).reshape(-1, n_cuts),
        "n_tokens": torch.tensor([max(1, row.n_tokens) for row in rows], dtype=torch.long),
        "n_steps": torch.tensor([len(row.steps) for row in rows], dtype=torch.long),
        "posterior": posterior,
        "placebo_posterior": posterior - _values(rows, "placebo_gain"),
        "filler_changed": _values(rows, "filler_changed"),
        "mistake_changed": _values(rows, "mistake_changed"),
        "paraphrase_changed": _values(rows, "paraphrase_changed"),
        "correct": _values(rows, "accuracy"),
    }


def _values(rows: Sequence[Row], name: str) -> Tensor:
    return torch.tensor([row.values.get(name, math.nan) for row in rows])


def _padded(values: Sequence[float], n: int, padding: float) -> list[float]:
    return [*values, *[padding] * (n - len(values))]
