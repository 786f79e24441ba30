"""Watch the rollouts of a run: luck, batch by batch, and what the probes say, at no generation cost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluate import probe_traces
from reasoning_guard.evaluation import finite
from reasoning_guard.gate import floors, gate, gated_sets
from reasoning_guard.probes import Probe, default_probes
from reasoning_guard.rewards.base import TraceReward
from reasoning_guard.rewards.batch import Batch
from reasoning_guard.rewards.lucky import Luck
from reasoning_guard.traces import Trace

logger = logging.getLogger(__name__)

TOLERATED = 0.2
"""Mean share of the advantage that lucky successes may carry before the monitor speaks up."""

_BATCHES = 8


class GroupMonitor:
    """Raises an alert while lone lucky successes carry much of the advantage, over the last eight batches.

    Attributes:
        alert: The alert, kept up to date while it holds and closed afterwards; None before the first.
        latest: What was found in the latest batch.
    """

    def __init__(self) -> None:
        self.alert: Alert | None = None
        self.latest: Luck | None = None
        self._shares: deque[float] = deque(maxlen=_BATCHES)
        self._batches = 0

    def look(self, found: Luck, step: int | None) -> None:
        """Take in one batch.

        Args:
            found: How much of it rests on luck.
            step: Training step; if the host does not say, batches are counted.
        """
        self.latest = found
        self._shares.append(found.advantage)
        self._batches += 1
        share, at = sum(self._shares) / len(self._shares), self._batches if step is None else step
        holding = self.alert if self.alert is not None and self.alert.open else None
        if share <= TOLERATED:
            if holding is not None:
                self.alert = replace(holding, open=False, step=at)
            return
        since = at if holding is None else holding.since
        message = (
            f"over the last {len(self._shares)} batches lucky successes carry {share:.0%} of the positive advantage"
        )
        self.alert = Alert(
            key="lucky_success",
            rule="lucky_success",
            severity="notice",
            step=at,
            since=since,
            told=since,
            message=f"{message}; in this one {found}",
            advice="the hardest problems: take them out, sample more of each, or withhold_lucky=True",
        )
        if holding is None:
            logger.warning("%s", self.alert.text())


class RolloutMonitor(TraceReward):
    """Not a reward: reads the rollouts of the step with the guard's probes and logs what they say.

    It gives every completion 0.0, so it changes no advantage, whatever its weight is. Means over the rollouts appear as
    ``rollout/<value>`` (``rollout/info_gain``, ``rollout/placebo_gain``, ...) in the trainer's own log. Nothing is
    generated, so probes that need a generation (an altered step from which the model goes on) rest. The problems differ
    from step to step, so these numbers are only for looking. Held-out problems are what is compared and judged.

    Args:
        answer: Column with the reference answers.
        probes: What to ask; default :func:`~reasoning_guard.probes.default_probes`.
        every: Read every ``every``-th batch. Reading costs about one forward pass over the rollouts.
        **options: ``scorer`` (default "policy"), ``tokenizer`` and ``format`` of :class:`TraceReward`.
    """

    name = "rollout"

    def __init__(
        self,
        answer: str | None = "solution",
        *,
        probes: Sequence[Probe] | None = None,
        every: int = 10,
        scorer: Any = "policy",
        **options: Any,
    ) -> None:
        if every < 1:
            raise ConfigurationError(f"`every` counts batches, at least 1; got {every}")
        super().__init__(answer, scorer=scorer, **options)
        self.probes = list(default_probes() if probes is None else probes)
        self.every = every
        self.values: dict[str, float] = {}
        self._calls = 0

    def _grade(self, traces: Sequence[Trace], batch: Batch) -> list[float | None]:
        if self._calls % self.every == 0:
            self.values = self._read(traces)
            for name, value in self.values.items():
                batch.log(f"{self.name}/{name}", value)
        self._calls += 1
        return [0.0] * len(traces)

    def _read(self, traces: Sequence[Trace]) -> dict[str, float]:
        assert self.reader is not None
        assert self._scorer is not None
        rows = probe_traces(traces, self.reader, None, self._scorer, None, self.probes)
        floor = floors([trace.problem for trace in traces])
        rows = gate(rows, gated_sets(rows, floor), floor, self.probes)
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for row in rows for name in row.values):
            known = finite(rows, name)
            found |= {name: sum(known) / len(known)} if known else {}
        return found
