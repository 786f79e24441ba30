"""The callback: when to evaluate, where the numbers go, and how a run is stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reasoning_guard.errors import ConfigurationError, warn_once
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.format_inference import infer_format, solutions
from reasoning_guard.formats import TraceFormat
from reasoning_guard.guard import Guard
from reasoning_guard.hosting import check_name, is_due, safely, say_no_records, show, sinks_for_training
from reasoning_guard.processes import is_main_process
from reasoning_guard.sinks import Sink, one_line
from reasoning_guard_lightning.base import CallbackBase
from reasoning_guard_lightning.carrying import KEY, records_of_another_name
from reasoning_guard_lightning.loggers import log_to, sinks_of
from reasoning_guard_lightning.models import as_trained, trained_model
from reasoning_guard_lightning.rollback import Rollback
from reasoning_guard_lightning.saving import save_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GetModel = Callable[[Any], nn.Module | None]


class ReasoningGuardCallback(CallbackBase):
    """Measures reasoning quality on held-out problems while a Lightning trainer fits.

    The model is read before the first step (the baseline), and then at every validation except the sanity check.
    ``ModelCheckpoint(monitor="guard/info_gain")``, ``EarlyStopping`` and ``ReduceLROnPlateau`` see the numbers of that
    same validation, wherever this callback is in the list. All loggers get them at the training step of the evaluation.
    Works with the trainers of ``lightning.pytorch`` and ``pytorch_lightning``.

    Args:
        problems: Held-out problems: a ``datasets.Dataset``, a list of dicts or of
            :class:`~reasoning_guard.problems.Problem`, or the path of a JSONL file. Prompts must look as they do in
            training.
        tokenizer: The model's tokenizer; never changed.
        get_model: Returns the causal language model inside the LightningModule. Default: the one Transformers or PEFT
            model in it that is trained.
        every: Steps between evaluations, no matter when the trainer validates; one more follows at the very end. By
            default, an evaluation is made at every validation, or at every tenth of the run if there is no validation.
        format: How a completion is read: a preset's name, a :class:`~reasoning_guard.formats.TraceFormat`, or "auto",
            which takes the preset in which most worked solutions among the problems state an answer.
        directory: Where records are kept; default ``reasoning_guard`` in the trainer's ``log_dir``. Checkpoints carry
            the records as well, so a run resumed with ``ckpt_path=`` goes on with its baseline and history, wherever it
            logs now.
        **options: Everything else that :class:`~reasoning_guard.guard.Guard` takes: ``action``, ``rules``,
            ``probes``, ``alpha``, ``patience``, ``reference``, ``max_new_tokens``, ``on_error``, ``progress``.

    With ``action="stop"``, a checkpoint is first saved as ``<directory>/stopped-at-step-<step>.ckpt``. With
    ``action="rollback"``, weights are written to ``<directory>/healthy`` at each evaluation, and the few that an alarm
    may need are kept. If an alarm is open at the end, the model gets the weights from before it;
    ``guard.kept_checkpoint`` names them.

    Under ``strategy="ddp_spawn"``, the callback that watches lives in the spawned processes. Read what it found from
    ``directory``, or from ``trainer.callback_metrics``.

    Attributes:
        guard: The guard itself: ``guard.alerts``, ``guard.evaluations``, ``guard.stop_reason``,
            ``guard.kept_checkpoint``.
        directory: Where the records are; None until fitting begins, if it was not given.

    Raises:
        ConfigurationError: Something cannot work; raised before any training time is spent.

    Example:
        >>> guard = ReasoningGuardCallback(held_out, tokenizer=tokenizer)                   # doctest: +SKIP
        >>> best = ModelCheckpoint(monitor="guard/info_gain", mode="max")                   # doctest: +SKIP
        >>> Trainer(callbacks=[guard, best]).fit(module, train, val)                        # doctest: +SKIP
    """

    def __init__(
        self,
        problems: Any,
        *,
        tokenizer: PreTrainedTokenizerBase,
        get_model: GetModel | None = None,
        every: int | None = None,
        format: str | TraceFormat = "auto",
        directory: str | Path | None = None,
        **options: Any,
    ) -> None:
        if every is not None and every < 1:
            raise ConfigurationError(f"`every` counts training steps, at least 1; got {every}")
        if isinstance(problems, Iterator):
            problems = list(problems)
        if format == "auto":
            format = infer_format({"held-out solutions": solutions(problems)})
        self.guard = Guard(problems, tokenizer, format=format, **options)
        self.directory = self._given_directory = None if directory is None else Path(directory)
        self._get_model = get_model or trained_model
        self._given_every = self._every = every
        self._own_sinks: list[Sink] = []
        self._stopped = False
        self._rollback: Rollback | None = None

    # -------------------------------------------------------------------------------------------------------- fitting

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the frozen reference while the model has its initial weights, with a checkpoint or without."""
        if stage == "fit":
            self._stopped = False
            self._open_directory(trainer)
            model = self._get_model(pl_module)
            if model is not None:  # else `configure_model` may build it
                self.guard.prepare(model, trainer.strategy.root_device)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the model before anything runs, with its reference if ``configure_model`` has only just built it."""
        guards = (each.guard for each in trainer.callbacks if isinstance(each, type(self)))
        known = {name for guard in guards for name in guard.scalar_names}
        for name, listener in _monitored(trainer):
            check_name(name, f"{type(listener).__name__}(monitor=...)", known)
            if getattr(listener, "check_finite", False):
                warn_once(
                    f"{type(listener).__name__} ends the run at the first value of {name} that is NaN, as it is "
                    "where accuracy is near chance or too little can be read: pass it check_finite=False",
                    key=f"{name} check_finite",
                    by=self,
                )
        self.guard.prepare(self._model(pl_module))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take up the records, and make the baseline if there is none."""
        self._every = self._given_every or (None if trainer.enable_validation else _tenth(trainer))
        self._safely(lambda: self._open_loggers(trainer))
        self._safely(lambda: self.guard.begin(trainer.global_step))
        self._safely(lambda: self._begin_rollback(trainer))
        if not self.guard.evaluations:
            say_no_records(trainer.global_step, self.directory)
            self._evaluate(trainer, pl_module)
        self._safely(lambda: self._tell_callbacks(trainer))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluate while the validation's own numbers are still being logged."""
        if self._every is None and _fits(trainer):
            self._log(trainer, pl_module, self._evaluate(trainer, pl_module), on_epoch=True)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop if the evaluation that has just been logged asks for it."""
        if _fits(trainer):
            self._stop_if_asked(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Evaluate every ``every`` steps."""
        if self._every is not None and is_due(trainer.global_step, self._every, self.guard.last_asked):
            self._log(trainer, pl_module, self._evaluate(trainer, pl_module), on_epoch=False)
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluate the last model if one is due; give it its healthy weights back if it ends unhealthy."""
        if self._every is not None:
            self._evaluate(trainer, pl_module)
            self._safely(lambda: self._tell_callbacks(trainer))
        if self._rollback is not None:
            self._safely(lambda: self._roll_back(trainer))

    # ---------------------------------------------------------------------------------------------------- checkpoints

    @property
    def state_key(self) -> str:
        """A key that stays the same from run to run; a second guard needs a ``directory`` of another name."""
        return KEY + (f"[{self._given_directory.name}]" if self._given_directory else "")

    def state_dict(self) -> dict[str, Any]:
        """Return the guard's records, in plain types."""
        return self.guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the records of a checkpoint."""
        self.guard.load_state_dict(state_dict)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Find the records of a checkpoint where ``directory`` had another name, by which Lightning does not."""
        state = records_of_another_name(self, trainer.callbacks, checkpoint.get("callbacks") or {})
        if state is not None:
            self.load_state_dict(state)

    # ---------------------------------------------------------------------------------------------------------- parts

    def _open_directory(self, trainer: Any) -> None:
        default = Path(trainer.log_dir or trainer.default_root_dir) / "reasoning_guard"
        self.directory = self._given_directory or default
        self.guard.keep_records_in(self.directory)
        if self.guard.action == "rollback":
            self._rollback = Rollback(self.guard, self.directory)

    def _begin_rollback(self, trainer: Any) -> None:
        if self._rollback is not None:
            self._rollback.begin(trainer.global_step)

    def _open_loggers(self, trainer: Any) -> None:
        before, self._own_sinks = self._own_sinks, sinks_of(trainer)
        self.guard.sinks = sinks_for_training(self.guard.sinks, before, self._own_sinks)

    def _evaluate(self, trainer: Any, pl_module: Any) -> dict[str, float]:
        """Evaluate unless this step has been; loggers get the numbers at the step itself, whenever that is.

        Returns:
            Name to value; empty when there is nothing new.
        """
        numbers: dict[str, float] = {}
        made: list[Evaluation] = []

        def act() -> None:
            with as_trained(trainer):
                evaluation = self.guard.evaluate(self._model(pl_module), trainer.global_step)
            if evaluation is not None:
                made.append(evaluation)
                numbers.update(self._numbers(evaluation))

        self._safely(act)
        for evaluation in made:  # each by itself: a logger fails on one process alone, weights are written by all
            self._safely(lambda e=evaluation: log_to(trainer.loggers, numbers, e.step))
            self._safely(lambda e=evaluation: self._print(trainer, e))
            self._safely(lambda: self._keep_weights(trainer))
        return numbers

    def _print(self, trainer: Any, evaluation: Evaluation) -> None:
        """One line where the trainer shows its progress as well."""
        if trainer.progress_bar_callback is not None and is_main_process():
            show(one_line(self.guard.baseline or evaluation, evaluation, self.guard.alerts))

    def _numbers(self, evaluation: Evaluation) -> dict[str, float]:
        """The evaluation's scalars, none for a failed one: a NaN would end the run where ``EarlyStopping`` hears it."""
        return {} if evaluation.failure is not None else self.guard.scalars(evaluation)

    def _log(self, trainer: Any, pl_module: Any, numbers: Mapping[str, float], *, on_epoch: bool) -> None:
        """Log to the trainer itself, where others look, with NaN for what they will miss."""
        pl_module.log_dict(
            {**_missing(trainer), **numbers},
            logger=False,
            on_step=not on_epoch,
            on_epoch=on_epoch,
            batch_size=1,
            sync_dist=on_epoch and trainer.world_size > 1,
        )

    def _tell_callbacks(self, trainer: Any) -> None:
        """Show the last numbers to others where ``self.log`` can't: some fail when a name is not there yet."""
        made = [e for e in self.guard.evaluations if e.failure is None]
        numbers = {**_missing(trainer), **(self.guard.scalars(made[-1]) if made else {})}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})

    def _model(self, pl_module: Any) -> nn.Module:
        model = self._get_model(pl_module)
        if model is None:
            raise ConfigurationError(
                f"{type(pl_module).__name__} holds no Transformers or PEFT model that can generate; say where it is: "
                "ReasoningGuardCallback(..., get_model=lambda module: module.model)"
            )
        return model

    def _stop_if_asked(self, trainer: Any) -> None:
        asked = trainer.strategy.reduce_boolean_decision(self.guard.should_stop, all=False)
        if asked and not self._stopped:
            self._stopped = True
            assert self.directory is not None
            path = self.directory / f"stopped-at-step-{trainer.global_step}.ckpt"
            if is_main_process():
                reason = (self.guard.stop_reason or "").split("\n")[0]
                logger.warning("stopping with checkpoint %s: %s", path, reason)
            self._safely(lambda: save_checkpoint(trainer, path))
        trainer.should_stop = trainer.should_stop or asked

    def _keep_weights(self, trainer: Any) -> None:
        if self._rollback is not None:
            self._rollback.keep(trainer)

    def _roll_back(self, trainer: Any) -> None:
        assert self._rollback is not None
        self._rollback.roll_back(trainer)

    def _safely(self, act: Callable[[], None]) -> None:
        safely(act, self.guard.on_error)


def _fits(trainer: Any) -> bool:
    """Whether this is a validation within ``fit``, and not the sanity check before it."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _tenth(trainer: Any) -> int:
    """A tenth of the run, in steps."""
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        raise ConfigurationError(
            "this run has no validation and no known length, so the guard does not know when to evaluate; say it: "
            "ReasoningGuardCallback(..., every=500)"
        )
    return max(1, int(steps) // 10)


def _monitored(trainer: Any) -> list[tuple[str, Any]]:
    """Names of ours that callbacks and learning rate schedulers look up, and fail without; each with who does."""
    plateaus = [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    listeners = [(getattr(callback, "monitor", None), callback) for callback in trainer.callbacks]
    listeners += [(config.monitor, config.scheduler) for config in plateaus]
    return [(name, who) for name, who in listeners if isinstance(name, str) and name.startswith("guard/")]


def _missing(trainer: Any) -> dict[str, float]:
    """NaN for every name of ours that somebody looks up and that is not there."""
    return {name: math.nan for name, _ in _monitored(trainer) if name not in trainer.callback_metrics}
