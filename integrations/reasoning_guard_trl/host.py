"""A reward that finds model, tokenizer and format in the trainer that calls it."""

from __future__ import annotations

import logging
from typing import Any

from reasoning_guard.format_inference import likeliest_format
from reasoning_guard.formats import PRESETS, TraceFormat, get_format
from reasoning_guard.hosting import template_of
from reasoning_guard.reader import TraceReader
from reasoning_guard.rewards.base import TraceReward
from reasoning_guard.rewards.batch import Batch, gathered

logger = logging.getLogger(__name__)


class InTrainer(TraceReward):
    """Mixin for a reward: the first call attaches it to the trainer, before the first optimizer step.

    TRL passes no policy, but ``log_metric`` is a method of the trainer and so leads to it (GRPO and RLOO). For trainers
    that pass no ``log_metric``, use :meth:`TraceReward.attach`, or give ``scorer`` and ``tokenizer``.
    """

    def __init__(self, *args: Any, format: str | TraceFormat = "auto", **options: Any) -> None:
        self._auto = format == "auto"
        super().__init__(*args, format="plain" if self._auto else format, **options)
        self._trainer: Any = None

    def _find_models(self, batch: Batch) -> None:
        if self._auto:
            self.format, self._auto = self._inferred(batch), False
            if self.reader is not None:
                self.reader = TraceReader(self.reader.tokenizer, self.format)
        trainer: Any = getattr(batch.log_metric, "__self__", None)
        if hasattr(trainer, "model") and trainer is not self._trainer:
            moved = self._trainer is not None and isinstance(self.scorer, str)  # not attached by hand, nor given
            self._trainer = trainer
            if self._scorer is None or moved:
                self._attach_to(trainer, batch.step or 0)
        super()._find_models(batch)
        if self.reader is not None and self._trainer is not None:
            self.reader.template = template_of(self._trainer)

    def _attach_to(self, trainer: Any, step: int) -> None:
        if step and self.scorer == "reference":
            logger.warning("%s: the reference is the model as it is at step %d", self.name, step)
        processing = trainer.processing_class
        self.attach(trainer.model, getattr(processing, "tokenizer", processing))

    def _inferred(self, batch: Batch) -> TraceFormat:
        """The preset in which most completions of the first batch state an answer, the same on all processes."""
        name = likeliest_format(gathered(batch.texts)[0])
        if name is None:
            logger.warning(
                "%s: no preset format fits the first completions, so 'plain' (\"The answer is ...\") is assumed; pass "
                "`format=` one of %s or a TraceFormat", self.name, ", ".join(PRESETS),
            )  # fmt: skip
        return get_format(name or "plain")

    def __getstate__(self) -> dict[str, Any]:
        """Settings travel to another process, the trainer stays."""
        return {**super().__getstate__(), "_trainer": None}
