"""InfoGain and the gain over a placebo, as metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from reasoning_guard.metrics.functional import FORMS, Form, info_gain_update, mean, placebo_update


class InfoGain(Metric):
    """Mean InfoGain over traces: how much the steps tell about the answer.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``logprobs``: ``[batch, n_cuts]`` log-probability of the reference answer after ``k`` steps, in nats, as
      :class:`~reasoning_guard.scorer.AnswerScorer` gives it. A row with a NaN in it is left out.
    - ``n_tokens``: ``[batch]`` number of the answer's tokens.
    - ``n_steps``: ``[batch]`` number of steps; default ``n_cuts - 1`` for all.

    As output of ``forward`` and ``compute`` it returns a scalar: nats per token for the forms "log" and "watermark", a
    share for "share", perplexity per step for "ppl" (see :func:`~reasoning_guard.metrics.functional.info_gain`).

    Metrics of several forms share one compute group in a :class:`~torchmetrics.MetricCollection`. Each keeps the sums
    of all forms, so nothing is read twice and nothing is mixed up.

    Args:
        form: "log", "share", "ppl" or "watermark".
        kwargs: Additional keyword arguments of :class:`~torchmetrics.Metric`.

    Raises:
        ValueError: No such form.

    Example:
        >>> metric = InfoGain()
        >>> metric(torch.tensor([[-6.0, -4.0, -1.0]]), torch.tensor([2]))
        tensor(2.5000)
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False

    info_gain_totals: Tensor
    info_gain_counts: Tensor

    def __init__(self, form: Form = "log", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {', '.join(FORMS)}; got {form!r}")
        self.form: Form = form
        self.add_state("info_gain_totals", torch.zeros(len(FORMS)), dist_reduce_fx="sum")
        self.add_state("info_gain_counts", torch.zeros(len(FORMS), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logprobs: Tensor, n_tokens: Tensor, n_steps: Tensor | None = None) -> None:
        """Add a batch of curves."""
        totals, counts = info_gain_update(logprobs, n_tokens, n_steps)
        self.info_gain_totals += totals
        self.info_gain_counts += counts

    def compute(self) -> Tensor:
        """Return the mean of the chosen form."""
        return mean(self.info_gain_totals, self.info_gain_counts)[FORMS.index(self.form)]

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, or several over time; see :meth:`torchmetrics.Metric.plot`."""
        return self._plot(val, ax)


class PlaceboGain(Metric):
    """Mean gain over a placebo: what a trace's own steps tell beyond another problem's steps of like length.

    As input to ``forward`` and ``update`` the metric accepts:

    - ``posterior``: ``[batch]`` mean log-probability of the reference answer after the own steps, nats per token.
    - ``placebo_posterior``: ``[batch]`` the same after the other's steps; NaN where there was nobody to borrow from.

    As output of ``forward`` and ``compute`` it returns a scalar, nats per token.

    Args:
        kwargs: Additional keyword arguments of :class:`~torchmetrics.Metric`.

    Example:
        >>> metric = PlaceboGain()
        >>> metric(torch.tensor([-0.5, -1.0]), torch.tensor([-4.5, -7.0]))
        tensor(5.)
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False

    placebo_gain_total: Tensor
    placebo_gain_count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("placebo_gain_total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("placebo_gain_count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, posterior: Tensor, placebo_posterior: Tensor) -> None:
        """Add a batch of pairs."""
        total, count = placebo_update(posterior, placebo_posterior)
        self.placebo_gain_total += total
        self.placebo_gain_count += count

    def compute(self) -> Tensor:
        """Return the mean difference."""
        return mean(self.placebo_gain_total, self.placebo_gain_count)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, or several over time; see :meth:`torchmetrics.Metric.plot`."""
        return self._plot(val, ax)
