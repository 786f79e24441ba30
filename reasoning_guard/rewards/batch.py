"""What a trainer hands to a reward function, as traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reasoning_guard.cells import content_of
from reasoning_guard.errors import ConfigurationError, warn_once
from reasoning_guard.problems import Problem, load_problems
from reasoning_guard.processes import Team
from reasoning_guard.reader import TraceReader
from reasoning_guard.traces import Trace

T = TypeVar("T")
PromptIds = Callable[[Problem], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One call of a reward function: completions of this process, groups of one prompt side by side.

    Attributes:
        prompts: Texts or chat messages, one for each completion.
        completions: Texts or lists of messages.
        completion_ids: Token ids as the model wrote them, or None if the host does not give them.
        columns: Every other column of the dataset, with one entry for each completion.
        log_metric: ``log_metric(name, value)`` of the host, or None.
        log_extra: ``log_extra(column, values)`` of the host, or None.
        step: Training step, or None if the host does not say.
    """

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    log_metric: Callable[[str, float], None] | None = None
    log_extra: Callable[[str, list[Any]], None] | None = None
    step: int | None = None

    @classmethod
    def of(cls, prompts: Sequence[Any], completions: Sequence[Any], arguments: Mapping[str, Any]) -> Batch:
        """Sort what a host passed. Everything but prompts and completions may be missing."""
        own = ("completion_ids", "trainer_state", "log_metric", "log_extra", "environments")
        given = {name: arguments.get(name) for name in own}
        return cls(
            prompts=prompts,
            completions=completions,
            completion_ids=given["completion_ids"],
            columns={name: values for name, values in arguments.items() if name not in own},
            log_metric=given["log_metric"],
            log_extra=given["log_extra"],
            step=getattr(given["trainer_state"], "global_step", None),
        )

    @property
    def texts(self) -> list[str]:
        """The completions as text; for a list of messages, their contents joined."""
        return [_text(completion) for completion in self.completions]

    def log(self, name: str, value: float) -> None:
        """Log a scalar if the host takes one."""
        if self.log_metric is not None:
            self.log_metric(name, float(value))

    def extra(self, column: str, values: Sequence[Any]) -> None:
        """Add a column to the host's table of completions, if it keeps one."""
        if self.log_extra is not None:
            self.log_extra(column, list(values))


def read_batch(
    batch: Batch, reader: TraceReader, answer: str | None, prompt_ids: PromptIds | None = None
) -> list[Trace]:
    """Read the completions of a batch as traces, on their own token ids.

    Args:
        batch: What the host passed.
        reader: Reads completions in the run's format.
        answer: Column with the reference answer; a worked solution is reduced to its final answer. None: there is no
            such column.
        prompt_ids: How the host tokenises prompts; by default as :meth:`TraceReader.prompt_ids` does.

    Returns:
        One trace for each completion. If a row has no usable answer, its problem has none either.

    Raises:
        ConfigurationError: There is no such column, or what came is not one entry for each completion.
    """
    if answer is not None and answer not in batch.columns:
        came = ", ".join(map(repr, batch.columns)) or "none"
        raise ConfigurationError(
            f"the reward reads reference answers from column {answer!r}, which did not come; the columns are {came}. "
            "Name the right one: answer='...'"
        )
    columns = [name for name in ("options", "documents") if name in batch.columns]
    _check_lengths(batch, columns if answer is None else [*columns, answer])
    known: dict[str, tuple[Problem, tuple[int, ...]]] = {}
    traces: list[Trace] = []
    for i, text in enumerate(batch.texts):
        row = {name: batch.columns[name][i] for name in columns}
        row |= {"prompt": batch.prompts[i], "answer": None if answer is None else batch.columns[answer][i]}
        key = repr(row)
        if key not in known:
            problem = _problem(row, reader)
            known[key] = problem, (prompt_ids or reader.prompt_ids)(problem)
        problem, prompt = known[key]
        if batch.completion_ids is None:
            traces.append(reader.read_text(problem, text))
        else:
            traces.append(reader.read(problem, batch.completion_ids[i], prompt_ids=prompt))
    return traces


def _check_lengths(batch: Batch, columns: Sequence[str]) -> None:
    """Trainers give whole lists; a call of one's own may give a text, which would be a list of its characters."""
    count = len(batch.completions)
    given: dict[str, Any] = {"prompts": batch.prompts, "completions": batch.completions}
    given |= {"completion_ids": batch.completion_ids} if batch.completion_ids is not None else {}
    for name, entries in (given | {name: batch.columns[name] for name in columns}).items():
        if isinstance(entries, str) or len(entries) != count:
            came = f"the text {entries!r}" if isinstance(entries, str) else f"{len(entries)} for {count} completions"
            raise ConfigurationError(f"`{name}` must be a list with one entry for each completion; got {came}")


def _problem(row: dict[str, Any], reader: TraceReader) -> Problem:
    """The row as a problem, its answer checked; an answer that could not be asked for is none."""
    unusable = row["answer"] is not None and not str(row["answer"]).strip()
    unanswered = {**row, "answer": None}
    try:
        return _checked(unanswered if unusable else row, reader)
    except ConfigurationError as error:  # a row must not end a training that has come this far
        warn_once(f"a row is not graded: {error}", key="reward row not graded", by=reader)
    try:
        return _checked(unanswered, reader)
    except ConfigurationError:  # it was not the answer, nor may it be the rest: a prompt is read as the host reads it
        return Problem(prompt=row["prompt"])


def _checked(row: dict[str, Any], reader: TraceReader) -> Problem:
    (problem,) = load_problems([row], format=reader.format)
    reader.check([problem])
    return problem


def groups_of(traces: Sequence[Trace]) -> list[list[int]]:
    """Return the indices of each prompt's traces (a group), in order of first appearance."""
    found: dict[str, list[int]] = {}
    for i, trace in enumerate(traces):
        found.setdefault(trace.problem.id, []).append(i)
    return list(found.values())


def gathered(mine: Sequence[T]) -> tuple[list[T], int]:
    """Return the items of all processes, in rank order, and where this process's own begin.

    A trainer may split a group over processes. Every process of the run must make this call, inside
    :func:`~reasoning_guard.processes.together`.
    """
    team = Team.of_run()
    parts = team.gather(list(mine))
    return [item for part in parts for item in part], sum(map(len, parts[: team.rank]))


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(content_of(message.get("content")) for message in completion)
