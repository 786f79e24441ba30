"""The callback: when to evaluate, where the numbers go, and how a run is stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.formats import TraceFormat
from reasoning_guard.guard import Guard
from reasoning_guard.healthy import HealthyCheckpoints, returns
from reasoning_guard.hosting import check_name, safely, say_no_records, sinks_for_training, template_of
from reasoning_guard.processes import from_main_process, is_main_process, together
from reasoning_guard.sinks import Sink, one_line
from reasoning_guard_transformers.console import Console
from reasoning_guard_transformers.format_inference import format_of_trainer
from reasoning_guard_transformers.log_stream import LogStream
from reasoning_guard_transformers.trackers import sinks_of

logger = logging.getLogger(__name__)


class ReasoningGuardCallback(TrainerCallback):
    """Measures reasoning quality on held-out problems while a Hugging Face or TRL trainer trains.

    The model is read before the first step (the baseline), and then whenever the trainer evaluates. The numbers go into
    the trainer's own evaluation record. So TensorBoard, W&B, ``state.log_history``, best-model selection
    (``metric_for_best_model="eval_guard/info_gain"``) and ``EarlyStoppingCallback`` all see them. A trainer that does
    not evaluate gets a separate record every ``every`` steps.

    Args:
        trainer: The trainer, already constructed and not yet training.
        problems: Held-out problems: a ``datasets.Dataset``, a list of dicts or of
            :class:`~reasoning_guard.problems.Problem`, or the path of a JSONL file. Prompts must look as they do in
            training.
        every: Steps between evaluations. By default, an evaluation is made whenever the trainer evaluates, or at every
            tenth of the run if it never does. If given, this also skips evaluations of a trainer that evaluates more
            often.
        format: How a completion is read: a preset's name, a :class:`~reasoning_guard.formats.TraceFormat`, or "auto",
            which takes the preset in which most training examples state an answer.
        **options: Everything else that :class:`~reasoning_guard.guard.Guard` takes: ``action``, ``rules``,
            ``probes``, ``alpha``, ``patience``, ``reference``, ``max_new_tokens``, ``max_overhead``, ``on_error``,
            ``progress``, and ``directory`` (default ``<output_dir>/reasoning_guard``).

    With ``action="rollback"``, training goes on after an alarm. If one is still open at the end, the model is given the
    weights of the last checkpoint saved before the alarm began; ``guard.kept_checkpoint`` names it. These weights are
    held in ``<directory>/healthy``, which ``save_total_limit`` does not reach.

    Attributes:
        guard: The guard itself: ``guard.alerts``, ``guard.evaluations``, ``guard.stop_reason``,
            ``guard.kept_checkpoint``.
        directory: Where the records are.

    Raises:
        ConfigurationError: Something cannot work; raised before any training time is spent.

    Example:
        >>> trainer.add_callback(ReasoningGuardCallback(trainer, problems=held_out))    # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        problems: Any,
        *,
        every: int | None = None,
        format: str | TraceFormat = "auto",
        **options: Any,
    ) -> None:
        if not isinstance(trainer, Trainer):  # pyright: ignore[reportUnnecessaryIsInstance]  # users do pass others
            raise ConfigurationError(
                f"ReasoningGuardCallback takes the trainer first, ReasoningGuardCallback(trainer, problems=...); got "
                f"{type(trainer).__name__}"
            )
        if every is not None and every < 1:
            raise ConfigurationError(f"`every` counts training steps, at least 1; got {every}")
        if options.get("max_overhead") is not None and "guard/" in (trainer.args.metric_for_best_model or ""):
            raise ConfigurationError(
                "`max_overhead` leaves evaluations out, and the best model is selected by one of our values at "
                "each: drop `max_overhead`, or select by a value of the trainer's own"
            )
        if options.get("action") == "rollback":
            _check_rollback(trainer)
        tokenizer = _tokenizer_of(trainer)
        directory = Path(options.pop("directory", None) or Path(trainer.args.output_dir or ".") / "reasoning_guard")
        _refuse_a_second_guard(trainer, directory)
        if isinstance(problems, Iterator):
            problems = list(problems)
        if format == "auto":
            format = format_of_trainer(trainer, tokenizer, problems)
        self.guard = Guard(problems, tokenizer, format=format, directory=directory, **options)
        self.guard.reader.template = template_of(trainer)
        self.guard.prepare(self._model_of(trainer))
        self.directory = directory
        self._healthy = HealthyCheckpoints(directory / "healthy")
        self._trainer = trainer
        self._given_every = self._every = every
        self._console = Console(trainer, self._line)
        self._stream = LogStream(trainer, lambda logs: self._safely(lambda: self._add_to(logs)))
        self._own_sinks: list[Sink] = []
        self._shown: Evaluation | None = None
        self._added_at: int | None = None
        self._saved_at: int | None = None
        self._awaited: int | None = None
        self._state: TrainerState | None = None

    # ------------------------------------------------------------------------------------------------- trainer events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the records, listen to the trainer's log, and make the baseline if there is none."""
        self._refuse_another_trainer(state)
        if self._began_already(state):
            return
        self._added_at = self._saved_at = self._awaited = None
        if self._selected_by is not None:
            guards = (c.guard for c in self._trainer.callback_handler.callbacks if isinstance(c, type(self)))
            known = {name for guard in guards for name in guard.scalar_names}
            check_name(self._selected_by.removeprefix("eval_"), "metric_for_best_model", known)
        own = max(1, state.max_steps // 10) if args.eval_strategy == "no" else None
        self._every = self._given_every or own  # of this training: the next may be longer, or evaluate by itself
        self._stream.open()
        self._console.open()
        self._safely(self._open_trackers)
        self._safely(lambda: self.guard.begin(state.global_step))
        if self.guard.action == "rollback" and is_main_process():
            self._safely(lambda: self._healthy.begin(state.global_step))
        if not self.guard.evaluations and not self._is_first_in_the_trainers(state):
            say_no_records(state.global_step, self.directory)
            self._record(state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate if the trainer has done so without a word; no step has been made since."""
        self._make_up_for(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate every ``every`` steps, unless the trainer is about to evaluate anyway."""
        if control.should_evaluate:
            self._awaited = state.global_step
        elif self._is_due(state):
            self._record(state.global_step)
            self._stop_if_asked(control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop if the evaluation that has just been logged asks for it."""
        unknown = self._stream.listening and self._added_at != state.global_step
        if unknown and (self._every is None or not self.guard.evaluations):  # a trainer with records of its own kind
            self._record(state.global_step)
        metrics = kwargs.get("metrics")
        if unknown and self._selected_by is not None and metrics is not None:  # what the trainer selects from
            self._safely(lambda: self._add_to(metrics))
        self._stop_if_asked(control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember that this step has a checkpoint, and hold its weights if they may be needed."""
        self._make_up_for(state, control)
        self._saved_at = state.global_step
        if self.guard.action == "rollback" and is_main_process():
            self._safely(lambda: self._hold(self._checkpoints / f"checkpoint-{state.global_step}"))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save if a stop comes by here and the trainer's own strategy ("best") overruled the wish to save."""
        self._make_up_for(state, control)
        if control.should_evaluate:
            self._awaited = state.global_step
        if self.guard.should_stop and control.should_training_stop and self._saved_at != state.global_step:
            control.should_save = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the trainer its own ``log`` back, and the model its healthy weights if it ends unhealthy."""
        if not args.load_best_model_at_end:  # else these are the weights of another step
            self._make_up_for(state, control)
        self._safely(self._stream.close)
        self._safely(self._console.close)
        if self.guard.action == "rollback":
            self._safely(self._roll_back)

    # ---------------------------------------------------------------------------------------------------------- parts

    def _refuse_another_trainer(self, state: TrainerState) -> None:
        """Refuse to hear of a training that is not ours: its model and its log are out of reach."""
        if state is not self._trainer.state:
            raise ConfigurationError(
                "this ReasoningGuardCallback was made for another trainer, whose model it would read: make one for "
                "each, trainer.add_callback(ReasoningGuardCallback(trainer, problems=...))"
            )

    def _began_already(self, state: TrainerState) -> bool:
        """Whether this is the second call of one training, as a callback hears that was added twice."""
        again = self._state is state and self._trainer.callback_handler.callbacks.count(self) > 1
        self._state = state
        return again

    def _is_first_in_the_trainers(self, state: TrainerState) -> bool:
        """Whether the trainer evaluates before its first step and selects by our value: there the baseline belongs."""
        return self._trainer.args.eval_on_start and self._selected_by is not None and state.global_step == 0

    def _is_due(self, state: TrainerState) -> bool:
        """Whether our own cadence asks for an evaluation at this step; without one, only the trainer's does."""
        if self._every is None:
            return False
        return state.global_step % self._every == 0 or state.global_step >= state.max_steps

    def _make_up_for(self, state: TrainerState, control: TrainerControl) -> None:
        """Evaluate now if the trainer did at this step and nobody heard: an ``evaluate`` of its own may log nothing."""
        heard = self.guard.last_asked is not None and self.guard.last_asked >= state.global_step
        if self._awaited == state.global_step and not heard and (self._every is None or self._is_due(state)):
            self._record(state.global_step)
            self._stop_if_asked(control)

    def _open_trackers(self) -> None:
        """The trackers of this training, beside whatever sinks the user has added."""
        before, self._own_sinks = self._own_sinks, sinks_of(self._trainer)
        self.guard.sinks = sinks_for_training(self.guard.sinks, before, self._own_sinks)

    def _add_to(self, logs: dict[str, float]) -> None:
        """Put our numbers into the trainer's own evaluation record, once a step."""
        if self not in self._trainer.callback_handler.callbacks:
            self._stream.close()  # of a training that was broken off, or the guard was taken off in the middle of one
            self._console.close()
            return
        state = self._trainer.state
        thinned = self._every is not None and not self._is_due(state) and self._selected_by is None
        if thinned or self._added_at == state.global_step:
            return
        self._added_at = state.global_step
        if self._selected_by is not None:  # whatever goes wrong below must not end the run with a KeyError
            logs[self._selected_by] = math.nan
        evaluation = self._evaluate(state.global_step)
        if evaluation is not None:
            logs.update(self._numbers(evaluation))

    def _record(self, step: int) -> None:
        """Evaluate and log a record of our own."""

        def record() -> None:
            evaluation = self._evaluate(step)
            if evaluation is not None:
                self._stream.write(self._numbers(evaluation))

        self._safely(record)

    def _evaluate(self, step: int) -> Evaluation | None:
        """The evaluation at ``step``, None if this step has been evaluated and logged already.

        Best-model selection reads the trainer's own record and no other, so there it is given again.
        """
        made = self.guard.evaluate(self._model_of(self._trainer), step)
        if made is not None or self._selected_by is None:
            return made
        return next((e for e in reversed(self.guard.evaluations) if e.step == step), None)

    @property
    def _checkpoints(self) -> Path:
        """Where this training saves: a search over settings gives each trial a folder, which has no public name."""
        trial = getattr(self._trainer, "_trial", None)
        return Path(self._trainer._get_output_dir(trial) or ".")  # pyright: ignore[reportPrivateUsage]

    @staticmethod
    def _model_of(trainer: Trainer) -> Any:
        """The live model: raw under DDP, the sharded model itself under FSDP2 and ZeRO-3."""
        return trainer.model

    def _numbers(self, evaluation: Evaluation) -> dict[str, float]:
        """Scalars under the names of evaluation metrics."""
        return {f"eval_{name}": float(value) for name, value in self.guard.scalars(evaluation).items()}

    def _line(self) -> str:
        """The latest evaluation, for the trainer's console, once; nothing where there is no new one."""
        lines = [""]
        self._safely(lambda: lines.extend(self._latest()))
        return lines[-1]

    def _latest(self) -> Iterator[str]:
        for latest in self.guard.evaluations[-1:]:
            if latest is self._shown:
                return
            self._shown = latest
            yield one_line(self.guard.baseline or latest, latest, self.guard.alerts)

    @property
    def _selected_by(self) -> str | None:
        """The value of ours by which the trainer selects its best model, under its full name, or None."""
        wanted = self._trainer.args.metric_for_best_model
        return f"eval_{wanted.removeprefix('eval_')}" if wanted and "guard/" in wanted else None

    def _stop_if_asked(self, control: TrainerControl) -> None:
        if self.guard.should_stop and not control.should_training_stop:
            logger.warning("stopping with a checkpoint: %s", (self.guard.stop_reason or "").split("\n")[0])
            control.should_training_stop = True
            control.should_save = True

    def _hold(self, checkpoint: Path) -> None:
        """Hold the weights, and let go of those that no alarm would go back to."""
        self._healthy.keep(checkpoint)
        self._healthy.drop_all_but(returns(self.guard))

    def _roll_back(self) -> None:
        """Give the model the weights of the last checkpoint from before the open alarm, or say why that can't be."""
        since = self.guard.unhealthy_since
        if since is None:
            return
        found = from_main_process(lambda: self._healthy.last_before(since))
        if found is None:
            logger.warning("cannot roll back: no checkpoint was saved before step %d; the last model is kept", since)
            return
        try:
            # The trainer's own way to load full models, shards and adapters; it has no public name.
            together(lambda: self._trainer._load_from_checkpoint(str(found)))  # pyright: ignore[reportPrivateUsage]
        except Exception as error:
            logger.warning("cannot roll back: %s could not be loaded (%s); the last model is kept", found, error)
            return
        self.guard.kept_checkpoint = str(found)
        logger.warning("rolled back: the model has the weights of %s, from before the alarm of step %d", found, since)

    def _safely(self, act: Callable[[], None]) -> None:
        safely(act, self.guard.on_error)


def _check_rollback(trainer: Trainer) -> None:
    if trainer.args.save_strategy == "no":
        raise ConfigurationError(
            'action="rollback" goes back to a checkpoint, and the trainer saves none: give it save_strategy="steps"'
        )
    if trainer.is_deepspeed_enabled:
        raise ConfigurationError(
            'action="rollback" cannot load a DeepSpeed checkpoint back; use action="stop", which saves and stops'
        )


def _refuse_a_second_guard(trainer: Trainer, directory: Path) -> None:
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ReasoningGuardCallback) and callback.directory.resolve() == directory.resolve():
            raise ConfigurationError(
                f"this trainer already has a guard that keeps its records in {directory}; give the second one a "
                "`directory=` of its own, or give the first one both problem sets"
            )


def _tokenizer_of(trainer: Trainer) -> Any:
    processing: Any = trainer.processing_class
    tokenizer = getattr(processing, "tokenizer", processing)
    if tokenizer is None:
        raise ConfigurationError(
            "the trainer has no tokenizer: construct it with `processing_class=tokenizer`, so that the guard can read "
            "what the model writes"
        )
    return tokenizer


def numbers_in(log_history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the guard's records in ``trainer.state.log_history``: ``step`` and every ``guard/...`` value.

    Args:
        log_history: ``trainer.state.log_history``.

    Returns:
        One mapping for each evaluation, with names without the trainer's ``eval_`` prefix.
    """
    return [
        {"step": record["step"]} | {k.removeprefix("eval_"): v for k, v in record.items() if "guard/" in k}
        for record in log_history
        if any("guard/" in key for key in record)
    ]
