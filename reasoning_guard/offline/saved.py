"""Saved traces and chat logs: what a model wrote earlier, and the problem that each line answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoning_guard.cells import content_of, text_of, whole_characters
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.format_inference import likeliest_format
from reasoning_guard.formats import PRESETS, TraceFormat, get_format
from reasoning_guard.offline.chat import Said, said
from reasoning_guard.problems import COLUMNS, Problem, load_problems, problems_of
from reasoning_guard.reader import TraceReader
from reasoning_guard.row_files import rows_of
from reasoning_guard.traces import Trace

_ID_COLUMNS = ("problem_id", "id")
_SAMPLE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTrace:
    """One line of a file of traces.

    Attributes:
        line: Its place in the file, from 0.
        problem: The problem that was answered; its prompt is the one that the model read.
        completion: What the model wrote.
        finished: False if the line says that a length limit cut the completion off.
        record: The line as it came.
    """

    line: int
    problem: Problem
    completion: str
    finished: bool
    record: Mapping[str, Any]

    def read(self, reader: TraceReader) -> Trace:
        """Split the completion into steps and answer."""
        trace = reader.read_text(self.problem, self.completion)
        return trace if self.finished else replace(trace, finished=False, notes=(*trace.notes, "cut off"))


@dataclass(frozen=True, slots=True)
class SavedTraces:
    """All traces of a file, and their format."""

    traces: tuple[SavedTrace, ...]
    format: TraceFormat


def load_saved_traces(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    problems: Any = None,
    *,
    format: str | TraceFormat | None = None,
) -> SavedTraces:
    r"""Load traces from a JSONL file or rows.

    A row holds a completion ("completion", "response", "output", "generated_text", or the last assistant message of
    "messages" or "conversations") and says which problem it answers: by "problem_id" or "id", or by its prompt. Several
    traces may answer one problem.

    Args:
        source: Path of a ``.jsonl`` file, or rows. Half characters (lone surrogates) are read as U+FFFD.
        problems: Held-out problems, or anything :func:`~reasoning_guard.problems.load_problems` takes; None: the rows
            hold the prompt and the reference answer.
        format: A preset's name or a format; None reads it off the traces.

    Returns:
        The traces in the order of the rows.

    Raises:
        ConfigurationError: There are no rows, a row has no completion or no problem, or the format can't be told.

    Example:
        >>> row = {"question": "2 + 2 = ?", "answer": "4", "completion": "2 + 2 = 4\n#### 4"}
        >>> found = load_saved_traces([row])
        >>> found.format.name, found.traces[0].problem.answer
        ('gsm8k', '4')
    """
    rows = list(_rows(source))
    if not rows:
        raise ConfigurationError("expected at least one trace; the source holds none")
    spoken = [said(row, number) for number, row in enumerate(rows)]
    chosen = _told([each.completion for each in spoken]) if format is None else get_format(format)
    known = _Known(_own_problems(rows, spoken, chosen) if problems is None else load_problems(problems, format=chosen))
    traces = tuple(
        SavedTrace(
            line=number,
            problem=known.problem(row, each, number),
            completion=each.completion,
            finished=each.finished,
            record=row,
        )
        for number, (row, each) in enumerate(zip(rows, spoken, strict=True))
    )
    return SavedTraces(traces, chosen)


class _Known:
    """Problems by what a row may call them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._by_id = {problem.id: problem for problem in problems}
        self._by_prompt = {key: problem for problem in problems for key in _keys(problem.prompt)}

    def problem(self, row: Mapping[str, Any], spoken: Said, number: int) -> Problem:
        """The problem of a row, with the prompt that the row itself holds, if it does."""
        cells = (text_of(row.get(name), f"the {name}", number) for name in _ID_COLUMNS)
        names = [whole_characters(name) for name in cells if name is not None]
        found = next((self._by_id[name] for name in names if name in self._by_id), None)
        asked = () if spoken.prompt is None else _keys(spoken.prompt)
        other = next((self._by_prompt[key] for key in asked if key in self._by_prompt), None)
        if found is not None and other is not None and not {*asked} & {*_keys(found.prompt)}:
            raise ConfigurationError(
                f"row {number}: its id {names[0]!r} is that of problem {found.id!r}, its prompt that of problem "
                f"{other.id!r}; name the problem's id 'problem_id', or drop the column with ids of the traces' own"
            )
        found = found or other
        if found is None:
            raise ConfigurationError(_stranger(names, spoken, number))
        return found if spoken.prompt is None else replace(found, prompt=spoken.prompt)


def _keys(prompt: str | Sequence[Mapping[str, str]]) -> list[str]:
    """What a prompt is known by: itself, and the text of its last user message."""
    whole = Problem(prompt=prompt if isinstance(prompt, str) else tuple(prompt)).id
    if isinstance(prompt, str):
        return [whole, prompt.strip()]
    last = next((content_of(m["content"]) for m in reversed(prompt) if m["role"] == "user"), "")
    return [whole, last.strip()]


def _stranger(names: Sequence[str], spoken: Said, number: int) -> str:
    if not names and spoken.prompt is None:
        columns = ", ".join(_ID_COLUMNS + COLUMNS["prompt"])
        return f"row {number}: nothing says which problem it answers; expected one of the columns {columns}"
    by = f"the id {names[0]!r}" if names else f"the prompt {str(spoken.prompt)[:80]!r}"
    return f"row {number}: no problem has {by}; give the problems that these traces answer"


def _own_problems(rows: Sequence[Mapping[str, Any]], spoken: Sequence[Said], format: TraceFormat) -> list[Problem]:
    """The problems that the rows themselves hold, each once."""
    found: dict[str, dict[str, Any]] = {}
    numbers: list[int] = []
    for number, (row, each) in enumerate(zip(rows, spoken, strict=True)):
        if each.prompt is None:
            raise ConfigurationError(
                f"row {number}: it holds no prompt; add one, or give the problems (they hold both)"
            )
        beside = {name: row[name] for what in ("answer", "options", "set") for name in COLUMNS[what] if name in row}
        named = text_of(row.get("problem_id"), "the problem_id", number)
        key = whole_characters(named) or _keys(each.prompt)[0]
        if key not in found:
            found[key] = {"id": key, "prompt": each.prompt, **beside}
            numbers.append(number)
    if not any(name in row for row in found.values() for name in COLUMNS["answer"]):
        raise ConfigurationError(
            f"no row holds a reference answer ({', '.join(COLUMNS['answer'])}); add one, or give the problems, "
            "which hold it beside their prompt or id"
        )
    return problems_of(list(found.values()), numbers, dict.fromkeys(COLUMNS), format)


def _told(completions: Sequence[str]) -> TraceFormat:
    name = likeliest_format(completions[:: max(1, len(completions) // _SAMPLE)])
    if name is None:
        raise ConfigurationError(
            f"no preset format ({', '.join(PRESETS)}) reads an answer in most of the traces; the first ends in "
            f"{completions[0][-80:]!r}. Name the one that they are in: --format, or `format=`"
        )
    return get_format(name)


def _rows(source: Any) -> Iterator[Mapping[str, Any]]:
    for number, row in enumerate(rows_of(source)):
        if not isinstance(row, Mapping):
            raise ConfigurationError(f"row {number}: expected a mapping of column to value; got {type(row).__name__}")
        yield row
