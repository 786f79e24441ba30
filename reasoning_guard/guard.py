"""The guard: a baseline, a history, a decision, and an action. Hosts call :meth:`Guard.evaluate`."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import nn

from reasoning_guard.alerts import Alert
from reasoning_guard.announce import say_what_is_odd, tell
from reasoning_guard.cost import Budget, report, timed
from reasoning_guard.decision import baseline_of, decide
from reasoning_guard.device_memory import memory_given_back
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.formats import TraceFormat
from reasoning_guard.hosting import is_due, safely
from reasoning_guard.measuring import Measurer, or_failed
from reasoning_guard.memory import Identity, Memory
from reasoning_guard.model_parts import device_of, unwrapped
from reasoning_guard.probes import Probe, default_probes
from reasoning_guard.problems import load_problems
from reasoning_guard.processes import Team, from_main_process, is_main_process, together
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import Reference, take_reference
from reasoning_guard.rules import EFFECTS, RULES, Rule
from reasoning_guard.scalars import names_of_scalars, scalars_of
from reasoning_guard.settings import (
    Action,
    OnError,
    check_effects,
    check_model,
    check_settings,
    fingerprint_of,
)
from reasoning_guard.sinks import Sink
from reasoning_guard.statistics import Effect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Guard:
    """Watches whether a model's reasoning still carries its answers while the model is trained.

    The first evaluation is the baseline, and every later one is compared with it, problem by problem. The guard knows
    no training framework. A *host* does: it calls :meth:`begin` once, :meth:`evaluate` at every evaluation, and obeys
    :attr:`should_stop`. In a training loop of your own, call :meth:`step`.

    Args:
        problems: Held-out problems, or anything :func:`~reasoning_guard.problems.load_problems` takes.
        tokenizer: The model's tokenizer; never changed.
        format: How a completion is read: the name of a preset or a :class:`~reasoning_guard.formats.TraceFormat`.
        probes: What to ask about each trace; default :func:`~reasoning_guard.probes.default_probes`.
        rules: What must not happen; default :data:`~reasoning_guard.rules.RULES`.
        effects: The smallest changes that matter, by value name, where they differ from
            :data:`~reasoning_guard.rules.EFFECTS`. :func:`~reasoning_guard.rules.calibrate` makes them from a healthy
            run.
        action: What an *alarm* does. "warn" logs it. "stop" asks the host to save and stop. "rollback" asks the host to
            end with the weights from before the alarm, if one is open at the end. A callable receives every new alert,
            notices too. A notice never stops a run or rolls it back.
        alpha: Largest chance of any false alarm over the whole run.
        patience: Evaluations in a row at which a rule must hold before it raises an alert.
        reference: The frozen reader: "auto", "copy", None or a model (see
            :func:`~reasoning_guard.reference.take_reference`).
        directory: Folder where records are kept; None keeps them in memory only.
        max_new_tokens: Longest trace, in tokens.
        max_overhead: Largest share of the wall time that evaluating may take, e.g. 0.05. Evaluations that come too soon
            are skipped. If that would widen the interval more than four times, problems are left out instead; those
            that stay can still be compared with the baseline. None: evaluate whenever the host asks.
        on_error: With "record", an error inside the guard is logged with its traceback and recorded as a failed
            evaluation, and the run goes on. With "raise", it is raised (for tests).
        progress: Whether to show progress bars.

    Raises:
        ConfigurationError: The settings cannot work; the message says what to do about it.
    """

    def __init__(
        self,
        problems: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        format: str | TraceFormat = "plain",
        probes: Sequence[Probe] | None = None,
        rules: Sequence[Rule] | None = None,
        effects: Mapping[str, Effect] | None = None,
        action: Action = "warn",
        alpha: float = 0.05,
        patience: int = 2,
        reference: str | nn.Module | None = "auto",
        directory: str | os.PathLike[str] | None = None,
        max_new_tokens: int = 512,
        max_overhead: float | None = None,
        on_error: OnError = "record",
        progress: bool = True,
    ) -> None:
        self.reader = TraceReader(tokenizer, format)
        self.problems = load_problems(problems, format=self.reader.format)
        self.probes = list(default_probes() if probes is None else probes)
        self.rules = list(RULES if rules is None else rules)
        self.effects: dict[str, Effect] = {**EFFECTS, **(effects or {})}
        self.action = action
        self.alpha, self.patience = alpha, patience
        self.max_new_tokens = max_new_tokens
        self.max_overhead = max_overhead
        self.on_error: OnError = on_error
        self.progress = progress
        self.evaluations: list[Evaluation] = []
        self.alerts: list[Alert] = []
        self.sinks: list[Sink] = []
        self.kept_checkpoint: str | None = None  # set by the host that rolled back
        self.reference: Reference | None = None
        self._reference_choice = reference
        self._memory = Memory(on_error)
        if directory is not None:
            self.keep_records_in(directory)
        self._budget = Budget(self.problems, max_overhead)
        self._left_out: int | None = None
        self._measurer = Measurer(
            self.problems, self.reader, self.probes, max_new_tokens, max_overhead=max_overhead, progress=progress
        )
        self._prepared: Container[nn.Module] | None = None  # not held: trainers may make another
        self._begun = False
        self._reference_fingerprint: str | None = None
        check_settings(action, alpha, patience, max_new_tokens, max_overhead, on_error)
        check_effects(effects or {}, self.rules, self.probes)
        self.reader.check(self.problems)

    # ---------------------------------------------------------------------------------------------------- lifecycle

    def prepare(self, model: nn.Module, device: torch.device | None = None) -> None:
        """Check the model against the problems, and take the frozen reference, before any training.

        Args:
            model: The model as it is before its first step.
            device: Where the model will be trained, if it is not there yet.

        Raises:
            ConfigurationError: The model writes nothing or can't be scored, a prompt leaves its context no room for a
                trace, or there is a file where the records' folder should be.
        """
        model = unwrapped(model)
        if self._prepared is not None and model in self._prepared:
            return
        self.reference = together(lambda: self._checked_and_read(model, device))
        self._reference_fingerprint = self.reference.fingerprint() if self.reference else None
        self._prepared = WeakSet([model])

    def keep_records_in(self, directory: str | os.PathLike[str]) -> None:
        """Keep records on disk from now on. For a host that learns late where they belong; before :meth:`begin`."""
        self._memory.keep_in(Path(directory))

    def begin(self, step: int = 0) -> None:
        """Take up the records of this run: none at step 0, those up to ``step`` if it is resumed.

        Args:
            step: Training step at which the run stands.

        Raises:
            HistoryError: The records on disk were made with other problems, format or chat template.
        """
        self._begun, self._left_out, self.kept_checkpoint = True, None, None
        self.evaluations, same_reference = self._memory.take_up(step, self.evaluations, self._identity())
        if not same_reference:
            self.reference = None
        self.alerts = from_main_process(self._decide)

    def step(self, model: nn.Module, step: int, *, every: int = 1) -> Evaluation | None:
        """Do everything that a training loop of your own needs, in one call for each step.

        Call it at the top of the loop, on every process. The first call takes up the records of a resumed run, and
        makes the baseline if there is none. After that, an evaluation follows every ``every`` steps. Log
        :meth:`scalars` of what it returns, and obey :attr:`should_stop`.

        Args:
            model: The live model, with or without a wrapper (``DistributedDataParallel``, ``torch.compile``); it is
                left exactly as it was.
            step: Training steps done so far.
            every: Steps between evaluations.

        Returns:
            The evaluation, or None if none is due.

        Raises:
            ConfigurationError: Something cannot work; raised at the first call.
            HistoryError: The run is resumed, and its records were made with other problems, format or chat template.

        Example:
            >>> for step, batch in enumerate(batches):                         # doctest: +SKIP
            ...     if evaluation := guard.step(model, step, every=100):
            ...         accelerator.log(guard.scalars(evaluation), step)
            ...     if guard.should_stop:
            ...         break
        """
        if every < 1:
            raise ConfigurationError(f"`every` counts training steps, at least 1; got {every}")
        if not self._begun:
            self.prepare(model)
            safely(lambda: self.begin(step), self.on_error)
        return self.evaluate(model, step) if is_due(step, every, self.last_asked) else None

    def state_dict(self) -> dict[str, Any]:
        """Return the records for a training checkpoint, as plain types only.

        ``accelerator.register_for_checkpointing(guard)`` and Lightning's checkpoints use this.
        """
        return self._memory.state(self.evaluations, self._identity())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a training checkpoint. :meth:`begin` takes up its records, wherever they were kept.

        Args:
            state: What :meth:`state_dict` gave.
        """
        self._memory.carry(state)
        self._begun = False

    def evaluate(self, model: nn.Module, step: int) -> Evaluation | None:
        """Read the model on the held-out problems, record what was found, decide, and act.

        Every process of the run must make this call. The problems are dealt out among them. Evaluation and decision are
        the same on all, even if one of them fails. Unless ``on_error="raise"``, it raises only for wrong configuration,
        and when another process can no longer be reached.

        Args:
            model: The live model; it is left exactly as it was.
            step: Training step at which it stands.

        Returns:
            The evaluation, or None if this step has been evaluated already or ``max_overhead`` skips it.
        """
        if self.last_asked is not None and self.last_asked >= step:
            return None
        model = unwrapped(model)
        if self._prepared is None:
            self.prepare(model)
        training = self._budget.training()
        size = from_main_process(lambda: self._budget.next_size(self.evaluations))
        if size == 0:
            self._left_out = step
            return None
        measure = partial(self._measurer.measure, model, step, self.reference, size=size, announce=not self.evaluations)

        def measure_and_give_back() -> Evaluation:
            with memory_given_back(device_of(model)):
                return together(measure)

        measured = or_failed(measure_and_give_back, step, self.on_error)
        evaluation = from_main_process(lambda: replace(measured, seconds=timed(measured, training)))
        self.evaluations.append(evaluation)
        or_failed(lambda: self._judge(evaluation), step, self.on_error)
        self._budget.evaluated()
        return evaluation

    # --------------------------------------------------------------------------------------------------- what it says

    @property
    def baseline(self) -> Evaluation | None:
        """The evaluation that later ones are compared with (see :func:`~reasoning_guard.decision.baseline_of`)."""
        return baseline_of(self.evaluations)

    @property
    def last_asked(self) -> int | None:
        """Step of the last evaluation, even one that ``max_overhead`` skipped; None before the first."""
        asked = [e.step for e in self.evaluations[-1:]] + ([] if self._left_out is None else [self._left_out])
        return max(asked, default=None)

    @property
    def alarms(self) -> list[Alert]:
        """Alerts of severity "alarm"."""
        return [alert for alert in self.alerts if alert.severity == "alarm"]

    @property
    def should_stop(self) -> bool:
        """Whether the host should save and stop, because there is an open alarm and the action is "stop"."""
        return self.action == "stop" and any(alert.open for alert in self.alarms)

    @property
    def unhealthy_since(self) -> int | None:
        """The step at which the oldest open alarm began, or None. Models from before that step are healthy."""
        return min((alert.since for alert in self.alarms if alert.open), default=None)

    @property
    def stop_reason(self) -> str | None:
        """The text of the open alarm because of which the run is stopped or rolled back, or None."""
        acts = self.action in ("stop", "rollback")
        return next((alert.text() for alert in self.alarms if alert.open), None) if acts else None

    def scalars(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the evaluation's means under the names that trackers show.

        These are ``guard/<value>`` for the first problem set, ``guard/<set>/<value>`` for accuracy and the axes of the
        others, ``guard/seconds``, the number of open alarms and notices, and the share of problems without InfoGain.
        The records hold everything.

        Args:
            evaluation: An evaluation. A failed one gives NaN for every name that was seen before, so a host that
                selects its best model by such a name can go on.

        Returns:
            Name to value.
        """
        return scalars_of(evaluation, self.evaluations, self.alerts)

    @property
    def scalar_names(self) -> set[str]:
        """Every name that :meth:`scalars` may give."""
        sets = list(dict.fromkeys(problem.set for problem in self.problems))
        return names_of_scalars(self.probes, sets, reference=self._reference_choice is not None)

    # --------------------------------------------------------------------------------------------------------- parts

    def _checked_and_read(self, model: nn.Module, device: torch.device | None) -> Reference | None:
        """Take the frozen reference of a model that can be guarded. All processes have one, or none has."""
        check_model(model, self.problems, self.reader)
        if is_main_process():
            self._memory.check()
        choice = self._reference_choice
        found = take_reference(model, self.reader.tokenizer, self.reader.format, choice, device)
        return found if all(Team.of_run().gather(found is not None)) else None

    def _judge(self, evaluation: Evaluation) -> Evaluation:
        """Record and decide on the main process, for all; then report, which changes nothing any more."""
        told = {alert.key for alert in self.alerts if alert.open}
        self.alerts = from_main_process(lambda: self._record(evaluation))
        new = [alert for alert in self.alerts if alert.open and alert.key not in told]
        from_main_process(lambda: self._speak(evaluation, new))
        return evaluation

    def _record(self, evaluation: Evaluation) -> list[Alert]:
        """Keep the evaluation before anything else can fail, and decide."""
        self._memory.keep(evaluation)
        return self._decide()

    def _speak(self, evaluation: Evaluation, new: Sequence[Alert]) -> None:
        """Send alerts to the log, the sinks and the user's own action. Whatever raises is skipped, with one warning."""
        logger.info("%s", report(evaluation, self.evaluations))
        say_what_is_odd(self.evaluations, self.reader, self.rules, speaker=self)
        action = self.action if callable(self.action) else None
        tell(self.baseline or evaluation, evaluation, new, self.sinks, action, self.on_error, speaker=self)

    def _decide(self) -> list[Alert]:
        alerts = decide(
            self.evaluations,
            self.rules,
            alpha=self.alpha,
            patience=self.patience,
            effects=self.effects,
            strict=self.on_error == "raise",
        )
        self._memory.keep_alerts(alerts)
        return alerts

    def __getstate__(self) -> dict[str, Any]:
        """Weak references do not pickle, and where a guard is sent, as to spawned processes, the model is another."""
        return {**vars(self), "_prepared": None if self._prepared is None else ()}

    def _identity(self) -> Identity:
        settings = {
            "format": self.reader.format.to_dict(),
            "problems": len(self.problems),
            "probes": [type(probe).__name__ for probe in self.probes],
            "rules": [rule.name for rule in self.rules],
            "action": self.action if isinstance(self.action, str) else "callable",
            "effects": {name: [float(e.relative), float(e.absolute)] for name, e in self.effects.items()},
            "alpha": float(self.alpha),
            "patience": int(self.patience),
            "max_new_tokens": int(self.max_new_tokens),
            "reference": self.reference.description if self.reference else None,
            "reference_fingerprint": self._reference_fingerprint,
        }
        return Identity(fingerprint_of(self.problems, self.reader, self.max_new_tokens), settings)
