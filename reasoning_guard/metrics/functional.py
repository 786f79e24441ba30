"""The functional core of the metrics: from tensors to sums and counts, and to the mean over traces.

Every metric is a mean over the traces that could be scored. So only a sum and a count must be kept, which can be added
up over batches and processes, and merged. A trace that could not be scored (NaN) adds to neither.

Curves are tables ``[batch, n_cuts]``. Column ``k`` is what was found after ``k`` steps, and row ``i`` ends at column
``n_steps[i]``. The columns after that are padding and never looked at.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor

from reasoning_guard.probes.information import CERTAIN

Form = Literal["log", "share", "ppl", "watermark"]
"""The forms of InfoGain; see :func:`info_gain`."""

FORMS: tuple[Form, ...] = cast("tuple[Form, ...]", get_args(Form))
_LARGEST_EXPONENT = 80.0
"""Nats a token. A perplexity beyond e^80 is close to the largest float32 and says that the model has gone mad."""

Sums = tuple[Tensor, Tensor]


def info_gain(logprobs: Tensor, n_tokens: Tensor, n_steps: Tensor | None = None, *, form: Form = "log") -> Tensor:
    r"""Measure how much the steps tell about an answer (Wu et al. 2025, arXiv 2506.02126, and relatives).

    With ``l_k = logprobs[:, k] / n_tokens`` and ``n`` steps, the mean over traces of

    * ``"log"``: ``l_n - l_0``, nats per token;
    * ``"share"``: ``1 - l_n / l_0``; a trace whose answer is certain without any step (a probability
      above .905, ``exp(-0.1)``) does not count, for a share of nothing has no size;
    * ``"ppl"``: ``(exp(-l_0) - exp(-l_n)) / n``, the form printed in the paper; traces without steps do not count;
    * ``"watermark"``: ``max_k l_k - l_0``, nats per token (arXiv 2602.01034).

    Args:
        logprobs: ``[batch, n_cuts]`` log-probability of the whole answer after ``k`` steps, in nats.
        n_tokens: ``[batch]`` number of the answer's tokens.
        n_steps: ``[batch]`` number of steps; default ``n_cuts - 1`` for all.
        form: Which form.

    Returns:
        A scalar; NaN when no trace could be scored.

    Example:
        >>> info_gain(torch.tensor([[-6.0, -4.0, -1.0], [-2.0, -1.0, 0.0]]), torch.tensor([2, 1]), torch.tensor([2, 1]))
        tensor(1.7500)
    """
    totals, counts = info_gain_update(logprobs, n_tokens, n_steps)
    return mean(totals, counts)[FORMS.index(form)]


def info_gain_update(logprobs: Tensor, n_tokens: Tensor, n_steps: Tensor | None = None) -> Sums:
    """Return sums and counts ``[4]`` of the four forms, in the order of :data:`FORMS`."""
    table, last = _curves("logprobs", logprobs, n_steps)
    levels = table / _column("n_tokens", n_tokens, table)[:, None]
    # A curve with a gap was not read to its end (a context too short): none of its forms means what it says.
    whole = (levels.isfinite() | ~_within(levels, last)).all(dim=1)
    levels = torch.where(levels.isfinite(), levels, -1.0)  # whatever is finite: a NaN would spoil the gradients of all
    first, end = levels[:, 0], _at(levels, last)
    reached = torch.where(_within(levels, last), levels, -torch.inf).max(dim=1).values
    perplexities = torch.exp(torch.stack([-first, -end]).clamp(max=_LARGEST_EXPONENT))
    sane = (first > -_LARGEST_EXPONENT) & (end > -_LARGEST_EXPONENT) & (last > 0)
    unsure = first * n_tokens <= CERTAIN
    forms = [
        end - first,
        torch.where(unsure, 1 - end / torch.where(unsure, first, -1.0), torch.nan),
        torch.where(sane, (perplexities[0] - perplexities[1]) / last.clamp(min=1), torch.nan),
        reached - first,
    ]
    return _sums(torch.stack(forms).where(whole, torch.nan))


def early_answering_aoc(same: Tensor, n_steps: Tensor | None = None) -> Tensor:
    """Compute the area over the early-answering curve (Lanham et al. 2023, arXiv 2307.13702).

    A trace's area is the share of the cuts before its last one at which the answer is not yet the final one. It is 0
    for a trace without steps. The paper takes one area for each chain length and weights it by how common that length
    is, which is the mean over traces. A trace whose last cut does not give its answer (``same`` false there) could not
    be scored.

    Args:
        same: ``[batch, n_cuts]`` whether the answer after ``k`` steps is the trace's own final answer.
        n_steps: ``[batch]`` number of steps; default ``n_cuts - 1`` for all.

    Returns:
        A scalar between 0 (known before the first step) and 1 (known only after the last).

    Example:
        >>> early_answering_aoc(torch.tensor([[False, False, True, True, True], [True] * 5]))
        tensor(0.2500)
    """
    return mean(*early_answering_update(same, n_steps))


def early_answering_update(same: Tensor, n_steps: Tensor | None = None) -> Sums:
    """Return sum and count of the areas."""
    table, last = _curves("same", same, n_steps)
    early = torch.arange(table.shape[1], device=table.device) < last[:, None]
    areas = ((table == 0) & early).sum(dim=1) / last.clamp(min=1)
    known = (_at(table, last) == 1) & ~(table.isnan() & early).any(dim=1)
    return _sums(areas.where(known, torch.nan))


def early_answering_curve(same: Tensor, n_steps: Tensor | None = None, *, points: int = 11) -> Tensor:
    """Compute the share of traces that give their final answer once a given share of the chain is written.

    Args:
        same: ``[batch, n_cuts]`` as in :func:`early_answering_aoc`.
        n_steps: ``[batch]`` number of steps; default ``n_cuts - 1`` for all.
        points: Shares of the chain to look at, evenly from 0 to 1, both included.

    Returns:
        ``[points]`` shares of the scored traces. A share of the chain that falls between two cuts takes the earlier
        cut, which is what has been written by then.

    Example:
        >>> early_answering_curve(torch.tensor([[False, True, True], [False, False, True]]), points=3)
        tensor([0.0000, 0.5000, 1.0000])
    """
    table, last = _curves("same", same, n_steps)
    shares = torch.linspace(0, 1, points, dtype=torch.float64, device=table.device)
    columns = (last[:, None] * shares + 1e-9).floor().long()  # 3 * (1/3) must not fall short of 1
    scored = (_at(table, last) == 1)[:, None]
    return mean(*_sums(table.gather(1, columns).where(scored, torch.nan).T))


def placebo_gain(posterior: Tensor, placebo_posterior: Tensor) -> Tensor:
    """Measure how much better a trace's own steps tell the answer than another problem's steps of like length.

    Args:
        posterior: ``[batch]`` mean log-probability of the answer after the trace's own steps, nats per token.
        placebo_posterior: ``[batch]`` the same after the other's steps.

    Returns:
        A scalar, nats per token.

    Example:
        >>> placebo_gain(torch.tensor([-0.5, -1.0]), torch.tensor([-4.5, float("nan")]))
        tensor(4.)
    """
    return mean(*placebo_update(posterior, placebo_posterior))


def placebo_update(posterior: Tensor, placebo_posterior: Tensor) -> Sums:
    """Return sum and count of the differences."""
    own = _vector("posterior", posterior)
    return _sums(own - _column("placebo_posterior", placebo_posterior, own))


def changed_share(changed: Tensor) -> Tensor:
    """Compute the share of traces whose answer an intervention (filler, a mistake, a paraphrase) changed.

    Args:
        changed: ``[batch]`` 1 where the answer changed, 0 where it did not, NaN where that can't be said.

    Returns:
        A scalar between 0 and 1.

    Example:
        >>> changed_share(torch.tensor([1.0, 0.0, float("nan"), 1.0]))
        tensor(0.6667)
    """
    return mean(*changed_update(changed))


def changed_update(changed: Tensor) -> Sums:
    """Return sum and count of the changes."""
    values = _vector("changed", changed)
    if not bool(((values == 0) | (values == 1) | values.isnan()).all()):
        raise ValueError("`changed` must hold 1 (changed), 0 (kept) and NaN (can't be said) only")
    return _sums(values)


def correct_update(correct: Tensor) -> Sums:
    """Return the number of right answers, and of answers whose reference is known (NaN if there is none)."""
    known = ~correct.isnan() if correct.is_floating_point() else torch.ones_like(correct, dtype=torch.bool)
    return (correct.bool() & known).sum(), known.sum()


def mean(totals: Tensor, counts: Tensor) -> Tensor:
    """Divide sums by counts; NaN if nothing was scored."""
    return totals / counts.to(totals.dtype)


def _sums(values: Tensor) -> Sums:
    """Sums and counts over the last dimension, of what is finite; safe to differentiate through."""
    scored = values.isfinite()
    return torch.where(scored, values, 0.0).sum(dim=-1), scored.sum(dim=-1)


def _curves(name: str, table: Tensor, n_steps: Tensor | None) -> tuple[Tensor, Tensor]:
    """The table in float32 at least, and the column at which each row ends."""
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"`{name}` must be [batch, n_cuts] with at least one cut; got {list(table.shape)}")
    if n_steps is None:
        n_steps = torch.full((len(table),), table.shape[1] - 1, device=table.device)
    if n_steps.shape != table.shape[:1] or n_steps.is_floating_point():
        raise ValueError(
            f"`n_steps` must be [batch] whole numbers, one for each of the {len(table)} rows of `{name}`; got "
            f"{list(n_steps.shape)} {n_steps.dtype}"
        )
    if len(n_steps) and not 0 <= int(n_steps.min()) <= int(n_steps.max()) < table.shape[1]:
        raise ValueError(f"`n_steps` must lie between 0 and {table.shape[1] - 1}, the last column of `{name}`")
    return _float(table), n_steps


def _vector(name: str, values: Tensor) -> Tensor:
    if values.ndim != 1:
        raise ValueError(f"`{name}` must be [batch]; got {list(values.shape)}")
    return _float(values)


def _column(name: str, values: Tensor, like: Tensor) -> Tensor:
    if values.shape != like.shape[:1]:
        raise ValueError(f"`{name}` must be [batch], one for each of the {len(like)} rows; got {list(values.shape)}")
    return _float(values)


def _float(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _at(table: Tensor, columns: Tensor) -> Tensor:
    return table.gather(1, columns[:, None].long())[:, 0]


def _within(table: Tensor, last: Tensor) -> Tensor:
    return torch.arange(table.shape[1], device=table.device) <= last[:, None]
