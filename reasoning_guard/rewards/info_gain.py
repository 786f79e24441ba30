"""InfoGain as a reward: what the text before the answer tells a frozen reader about the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.rewards.base import Correct, TraceReward
from reasoning_guard.rewards.batch import Batch, gathered
from reasoning_guard.rewards.excerpt import cleaned, stated_ids
from reasoning_guard.rewards.forms import FORMS, Form, Levels
from reasoning_guard.rewards.fragments import unbroken
from reasoning_guard.rewards.lucky import Luck, Sample, luck
from reasoning_guard.rewards.monitor import GroupMonitor
from reasoning_guard.rewards.placebos import Baseline
from reasoning_guard.rewards.questions import Questions
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore

Use = Literal["reward", "lucky"]


class InfoGainReward(TraceReward):
    """Pays a right answer for a text that makes it likely to a reader before the answer is stated.

    The text is read up to the place where the reasoning first states the answer, and there the answer is scored in
    place. The baseline is what the prompt alone or other problems' chains would have told. A whole group has one
    baseline, whatever its members wrote. Wrong answers earn 0, and nothing depends on the number of steps or tokens.
    ``docs/rewards.md`` lists the attacks that this stops and those that it does not.

    Args:
        answer: Column with the reference answers; worked solutions are reduced to their final answer.
        form: How levels become a reward (:data:`~reasoning_guard.rewards.forms.Form`).
        leak_penalty: Weight of a penalty on tokens that are likely only for somebody who knows the answer
            (:mod:`~reasoning_guard.rewards.leak`); 0 leaves out the penalty and its cost.
        withhold_lucky: Whether to give None to lone lucky successes (:mod:`~reasoning_guard.rewards.lucky`). Their
            share is logged and watched either way.
        **options: ``scorer``, ``tokenizer``, ``format`` and ``correct`` of :class:`TraceReward`.

    Attributes:
        monitor: Watches the share of advantage that lone lucky successes carry; ``monitor.alert`` holds its alert.

    Example:
        >>> trainer = GRPOTrainer(model, reward_funcs=[accuracy, InfoGainReward(answer="solution")],  # doctest: +SKIP
        ...                       args=GRPOConfig(reward_weights=[1.0, 0.2]), train_dataset=train)
    """

    name = "info_gain"

    def __init__(
        self,
        answer: str = "solution",
        *,
        form: Form = "watermark",
        leak_penalty: float = 0.0,
        withhold_lucky: bool = False,
        **options: Any,
    ) -> None:
        if form not in FORMS:
            raise ConfigurationError(f"`form` must be one of {', '.join(map(repr, FORMS))}; got {form!r}")
        if leak_penalty < 0:
            raise ConfigurationError(f"`leak_penalty` is taken off, so it is at least 0; got {leak_penalty}")
        super().__init__(answer, **options)
        self.form: Form = form
        self.leak_penalty = leak_penalty
        self.withhold_lucky = withhold_lucky
        self.monitor = GroupMonitor()
        self._latest: Batch | None = None
        self._texts: list[str] = []
        self._use: Use = "reward"
        self._used: set[Use] = set()
        self._graded: list[_Graded] = []
        self._luck: tuple[Luck, int] = luck([]), 0

    def lucky(self, prompts: Sequence[Any], completions: Sequence[Any], **arguments: Any) -> list[bool]:
        """Say which of these completions are lone lucky successes of their group; arguments as in a call."""
        self._use = "lucky"
        try:
            self(prompts, completions, **arguments)
        finally:
            self._use = "reward"
        found, first = self._luck
        return [first + i in found.lucky for i in range(len(completions))]

    def without_lucky(self, reward: Correct) -> WithoutLucky:
        """Wrap a correctness reward so that it gives None to lone lucky successes.

        With ``withhold_lucky=True`` here, all rewards of such a completion are None, and TRL gives it no advantage. The
        two rewards together read the batch only once.

        Example:
            >>> gain = InfoGainReward(withhold_lucky=True)
            >>> funcs = [gain.without_lucky(accuracy), gain]                                       # doctest: +SKIP
        """
        return WithoutLucky(reward, self)

    def __getstate__(self) -> dict[str, Any]:
        """The latest batch stays here."""
        forgotten = {"_latest": None, "_texts": [], "_used": set[Use](), "_graded": [], "_luck": (luck([]), 0)}
        return {**super().__getstate__(), **forgotten}

    def _grade(self, traces: Sequence[Trace], batch: Batch) -> list[float | None]:
        if not self._just_graded(batch):
            self._look(traces, batch)
        self._used.add(self._use)
        found, first = self._luck
        withheld = {i - first for i in found.lucky} if self.withhold_lucky else set[int]()
        return [None if i in withheld else self._pay(each) for i, each in enumerate(self._graded)]

    def _look(self, traces: Sequence[Trace], batch: Batch) -> None:
        """Grade a batch and remember what was found."""
        assert self.reader is not None
        right, tokenizer = self._right(traces, batch), self.reader.tokenizer
        whole = [unbroken(trace, self.reader) for trace in traces]
        clean = [cleaned(trace, tokenizer) for trace in whole]
        asked = self._questions(whole, clean, right)
        scores = self._score(clean, [q and q.tree(trace) for q, trace in zip(asked, clean, strict=True)])
        self._graded = [_Graded.of(*each) for each in zip(clean, right, asked, scores, strict=True)]
        samples, first = gathered([graded.sample for graded in self._graded])
        self._luck = luck(samples), first
        self._latest, self._texts, self._used = batch, batch.texts, set()
        self.monitor.look(self._luck[0], batch.step)
        self._report(batch)

    def _forget(self) -> None:
        self._latest = None

    def _just_graded(self, batch: Batch) -> bool:
        """Whether this is the batch of the call before: a trainer hands the same lists to each of its rewards.

        Where nobody says at which step it is, the model may have been trained between two calls, so that what was found
        serves each use once.
        """
        before = self._latest
        return (
            before is not None
            and before.completions is batch.completions
            and self._texts == batch.texts
            and _alike(before.prompts, batch.prompts)
            and _alike(before.completion_ids, batch.completion_ids)
            and _alike(before.columns, batch.columns)
            and before.step == batch.step
            and (batch.step is not None or self._use not in self._used)
        )

    def _questions(
        self, traces: Sequence[Trace], clean: Sequence[Trace], right: Sequence[bool | None]
    ) -> list[Questions | None]:
        """What to ask about each right trace; a group's baseline is chosen once."""
        assert self.reader is not None
        everyone, _ = gathered(clean)
        baselines: dict[str, Baseline] = {}
        asked: list[Questions | None] = [None] * len(clean)
        for i, (whole, trace) in enumerate(zip(traces, clean, strict=True)):
            if right[i] and gradable(trace):
                name, leaks = trace.problem.id, self.leak_penalty > 0
                baselines[name] = baselines.get(name) or Baseline.of(trace.problem, everyone, self.reader)
                asked[i] = Questions.about(trace, stated_ids(whole), baselines[name], self.reader, leaks=leaks)
        return asked

    def _pay(self, graded: _Graded) -> float | None:
        if graded.right is False:
            return 0.0
        if graded.right is None or graded.levels is None or not graded.levels.finite:
            return None
        return graded.levels.reward(self.form) - self.leak_penalty * graded.leak

    def _report(self, batch: Batch) -> None:
        """What TRL shows beside the reward, where it offers to."""
        graded, found = self._graded, self._luck[0]
        gains = [g.sample.gain for g in graded if math.isfinite(g.sample.gain)]
        known, right = [g for g in graded if g.right is not None], [g for g in graded if g.right]
        if gains:
            batch.log(f"{self.name}/gain", sum(gains) / len(gains))
        if known:
            batch.log(f"{self.name}/gated_out", 1 - len(right) / len(known))
        if right:
            batch.log(f"{self.name}/stated_early", sum(g.early for g in right) / len(right))
        batch.log(f"{self.name}/lucky_groups", len(found.lucky) / max(1, found.groups))
        batch.log(f"{self.name}/lucky_advantage", found.advantage)
        batch.extra(f"{self.name}/gain", [g.sample.gain for g in graded])


@dataclass(frozen=True, slots=True)
class _Graded:
    """What was found out about one trace; no levels where it is wrong or cannot be graded.

    ``right`` is None where nothing says what the right answer is.
    """

    trace: Trace
    right: bool | None
    levels: Levels | None
    leak: float = 0.0

    @classmethod
    def of(
        cls, trace: Trace, right: bool | None, asked: Questions | None, scores: Sequence[BranchScore] | None
    ) -> _Graded:
        """Sort the scores of a trace's questions; None: nothing was asked."""
        if asked is None or scores is None:
            return cls(trace, right, None)
        return cls(trace, right, asked.levels(scores), asked.leak(scores))

    @property
    def sample(self) -> Sample:
        """What the group monitor looks at."""
        gain = self.levels.gain if self.levels is not None and self.levels.finite else math.nan
        return Sample(problem=self.trace.problem.id, right=bool(self.right), gain=gain)

    @property
    def early(self) -> bool:
        """Whether the answer is stated before the last step begins."""
        return (
            self.trace.statement is not None and self.trace.n_steps > 0 and self.trace.statement < self.trace.cuts[-2]
        )


def _alike(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # columns of arrays or tensors
        return False


def gradable(trace: Trace) -> bool:
    """Say whether there is an answer to score, and it is known where the trace first states it."""
    return trace.problem.answer is not None and trace.statement_known


class WithoutLucky:
    """A reward that gives None to what an :class:`InfoGainReward` finds to be lone lucky successes."""

    def __init__(self, reward: Correct, gain: InfoGainReward) -> None:
        self.reward, self.gain = reward, gain
        self.__name__ = getattr(reward, "__name__", type(reward).__name__)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **arguments: Any) -> list[float | None]:
        """What the reward gives, None for lucky ones."""
        given = self.reward(prompts=prompts, completions=completions, **arguments)
        lucky = self.gain.lucky(prompts, completions, **arguments)
        return [None if withheld else value for value, withheld in zip(given, lucky, strict=True)]
