"""What all rewards share: a trainer calls them, they find a reader, and they leave both as they were."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import TraceFormat
from reasoning_guard.model_parts import is_sharded
from reasoning_guard.problems import Problem
from reasoning_guard.processes import together
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import Reference, take_reference
from reasoning_guard.rewards.batch import Batch, groups_of, read_batch
from reasoning_guard.rewards.unread import Unread
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore, TraceTree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Correct = Callable[..., Sequence[float | None]]
"""A reward function as the trainer takes them; an answer is right if it gives more than 0."""


class TraceReward(ABC):
    """Base class of the rewards: a callable like TRL's reward functions, which needs no trainer.

    Called as ``reward(prompts=..., completions=..., completion_ids=..., **columns)``, it returns a float for each
    completion, or None for one that cannot be graded. Every argument but the first two is optional.

    Args:
        answer: Column with the reference answers.
        scorer: The reader: "reference" (the model as it was when it was attached, with the adapter off or as a frozen
            copy), "policy" (the model in training itself), or a model, which is read as it is.
        tokenizer: The models' tokenizer; needed only if nothing attaches the reward to a trainer.
        format: How a completion is read: a preset's name or a :class:`~reasoning_guard.formats.TraceFormat`.
        correct: Says which answers are right: a reward function that gives more than 0 for them. None: those that equal
            the reference answer.

    Raises:
        ConfigurationError: ``scorer`` is none of these.

    Example:
        >>> reward = InfoGainReward(scorer=model, tokenizer=tokenizer, format="gsm8k")        # doctest: +SKIP
        >>> reward(prompts=["..."], completions=["..."], solution=["72"])                     # doctest: +SKIP
    """

    name: str

    def __init__(
        self,
        answer: str | None = "solution",
        *,
        scorer: str | nn.Module = "reference",
        tokenizer: PreTrainedTokenizerBase | None = None,
        format: str | TraceFormat = "plain",
        correct: Correct | None = None,
    ) -> None:
        if not isinstance(scorer, nn.Module) and scorer not in ("reference", "policy"):
            raise ConfigurationError(f"`scorer` must be 'reference', 'policy' or a model; got {scorer!r}")
        self.__name__ = self.name
        self.answer = answer
        self.scorer = scorer
        self.format = format
        self.correct = correct
        self.reader: TraceReader | None = None
        self._scorer: AnswerScorer | Reference | None = None
        self._unread = Unread(self.name)
        if tokenizer is not None:
            self._read_with(tokenizer, scorer if isinstance(scorer, nn.Module) else None)

    def attach(self, policy: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give the reward the model in training, before its first step. The reference is taken from it here.

        Args:
            policy: The live model; it is read, and left as it was.
            tokenizer: Its tokenizer; never changed.

        Raises:
            ConfigurationError: There is no memory for a frozen copy, the weights are sharded over processes and cannot
                be copied, or the given scorer has a smaller vocabulary.
        """
        self._read_with(tokenizer, policy if self.scorer == "policy" else None)
        if self.scorer == "policy":
            return
        chosen = self.scorer if isinstance(self.scorer, nn.Module) else "auto"
        self._scorer = take_reference(policy, tokenizer, self.format, chosen)
        if self._scorer is None:
            why = "its weights are shared out among processes" if is_sharded(policy) else "it does not fit into memory"
            raise ConfigurationError(
                f"{self.name}: no frozen copy of the model can be made: {why}. Pass `scorer=` a model of the same "
                "tokenizer that every process holds, train an adapter (PEFT), or accept the weaker scorer='policy'"
            )

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **arguments: Any) -> list[float | None]:
        """Grade completions.

        Args:
            prompts: One for each completion, as the dataset holds them.
            completions: Texts or lists of messages.
            **arguments: ``completion_ids``, ``trainer_state``, ``log_metric`` and ``log_extra`` if the host has them,
                and the dataset's columns.

        Returns:
            One reward for each completion; None if nothing can be said.

        Raises:
            ConfigurationError: There is no model to read with, or the column of answers is missing.
            PeerError: Another process of the run has failed.
        """
        batch = Batch.of(prompts, completions, arguments)
        try:
            return together(lambda: self._values(batch))
        except Exception:
            self._forget()
            raise

    def _values(self, batch: Batch) -> list[float | None]:
        """Grade a batch; on several processes they do so together, and a failure on one ends the call on all."""
        self._find_models(batch)
        assert self.reader is not None
        traces = read_batch(batch, self.reader, self.answer, self._prompt_ids)
        self._unread.look(traces, batch.texts, self.reader.format)
        return [None if value is None or math.isnan(value) else value for value in self._grade(traces, batch)]

    @abstractmethod
    def _grade(self, traces: Sequence[Trace], batch: Batch) -> Sequence[float | None]:
        """A reward a trace."""

    # ---------------------------------------------------------------------------------------------------------- parts

    def _forget(self) -> None:  # noqa: B027  not every reward keeps something
        """Drop what was kept of a batch that was not graded on every process; the next call begins alike on all."""

    def _find_models(self, batch: Batch) -> None:
        """Make sure that there is a reader; where none was given, the host is asked for one in a subclass."""
        if self.reader is None or self._scorer is None:
            raise ConfigurationError(
                f"{self.name} has no model to read with. Inside GRPOTrainer and RLOOTrainer the rewards of "
                "reasoning_guard_trl find the model in training by themselves. A host that runs rewards in a "
                "process of its own (AsyncGRPOTrainer) or passes no `log_metric` cannot give it: pass `scorer=` a "
                "model and `tokenizer=`, or call attach(model, tokenizer)"
            )

    def _prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        assert self.reader is not None
        return self.reader.prompt_ids(problem)

    def _right(self, traces: Sequence[Trace], batch: Batch) -> list[bool | None]:
        """Which traces end in the right answer; None where nothing says what that is."""
        if self.correct is None:
            return [None if trace.problem.answer is None else trace.correct for trace in traces]
        extras = {"completion_ids": batch.completion_ids} if batch.completion_ids is not None else {}
        given = self.correct(prompts=batch.prompts, completions=batch.completions, **extras, **batch.columns)
        return [value is not None and value > 0 for value in given]

    def _paid(self, traces: Sequence[Trace], batch: Batch) -> Sequence[bool | None]:
        """Which traces may be paid: right ones, or all where neither a column nor ``correct`` says what is right."""
        gated = self.answer is not None or self.correct is not None
        return self._right(traces, batch) if gated else [True] * len(traces)

    def _score(self, traces: Sequence[Trace], trees: Sequence[TraceTree | None]) -> list[list[BranchScore] | None]:
        """Scores of all trees in one call, each prompt read once; None where there is no tree.

        Every process calls this equally often, even without a tree. With sharded weights, processes that have less to
        read accompany the passes of those that have more.
        """
        assert self._scorer is not None
        groups = [[i for i in group if trees[i] is not None] for group in groups_of(traces)]
        asked = [[tree for i in group if (tree := trees[i]) is not None] for group in groups]
        found: list[list[BranchScore] | None] = [None] * len(trees)
        for group, scores in zip(groups, self._scorer.score_tree_groups(asked), strict=True):
            for i, each in zip(group, scores, strict=True):
                found[i] = each
        return found

    def _read_with(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module | None) -> None:
        self.reader = TraceReader(tokenizer, self.format)
        if model is not None:
            self._scorer = AnswerScorer(model, tokenizer, self.format)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: the settings and a given scorer, not the model in training."""
        given = isinstance(self.scorer, nn.Module)
        tokenizer = self.reader.tokenizer if given and self.reader is not None else None
        return {**vars(self), "reader": None, "_scorer": None, "_tokenizer": tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read with the given scorer again, if one came along."""
        tokenizer = state.pop("_tokenizer")
        vars(self).update(state)
        if tokenizer is not None and isinstance(self.scorer, nn.Module):
            self._read_with(tokenizer, self.scorer)
