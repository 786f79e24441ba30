"""Held-out problems and where they come from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import TraceFormat, get_format
from reasoning_guard.row_files import rows_of

Message = Mapping[str, str]
Row = Mapping[str, Any]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "messages"),
    "answer": ("answer", "ground_truth", "target", "solution"),
    "options": ("options", "choices"),
    "id": ("id",),
    "set": ("set",),
    "documents": ("documents",),
}
"""Column names that are recognised without being told, by what they hold; the first that is there counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One held-out question.

    Attributes:
        prompt: What the model reads: a text, or chat messages with "role" and "content".
        answer: Reference answer; None when the problem has none (unanswerable).
        options: Texts of the options of a multiple-choice problem; option 0 is "A".
        id: What pairs this problem across evaluations and runs; by default 12 hex digits of the prompt's SHA-256.
        set: Name of the set that it belongs to: "id" (in distribution), "ood", or any other.
        documents: Texts that the answer should rest on.

    Example:
        >>> Problem(prompt="2 + 2 = ?", answer="4").id
        '0cb9d415cc67'
    """

    prompt: str | tuple[Message, ...] = field(hash=False)
    answer: str | None = None
    options: tuple[str, ...] = ()
    id: str = ""
    set: str = "id"
    documents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Make sequences immutable and fill in the id."""
        prompt = self.prompt if isinstance(self.prompt, str) else tuple(dict(message) for message in self.prompt)
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "documents", tuple(self.documents))
        object.__setattr__(self, "id", self.id or _digest(prompt))


def load_problems(
    source: str | os.PathLike[str] | Iterable[Row] | Iterable[Problem],
    *,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    options_column: str | None = None,
    id_column: str | None = None,
    set_column: str | None = None,
    format: str | TraceFormat | None = None,
) -> list[Problem]:
    r"""Held-out problems from a dataset, rows, a JSONL file, or problems.

    Args:
        source: A ``datasets.Dataset``, mappings (of a table of pandas: ``table.to_dict("records")``), the path of a
            ``.jsonl`` file, or :class:`Problem` values.
        prompt_column: Column with the prompt (text or chat messages); found by name when not given, see
            :data:`COLUMNS`, as are the others.
        answer_column: Column with the reference answer. None in a row: the problem has no answer. A whole number in a
            problem with options is the index of the right one.
        options_column: Column with the options' texts (or ``{"text": [...]}``).
        id_column: Column with ids that stay the same from run to run.
        set_column: Column that names each row's problem set.
        format: Reduces worked solutions ("... #### 72") to their final answer, and an option's text to its letter
            where the format asks for letters.

    Returns:
        The problems in the order of the rows.

    Raises:
        ConfigurationError: Nothing there, a column missing or ambiguous, an empty prompt or answer, or an id that
            comes twice; the message names the row, or the file's line.

    Example:
        >>> rows = [{"question": "2 + 2 = ?", "answer": "2 + 2 = 4\n#### 4"}]
        >>> load_problems(rows, format="gsm8k")[0].answer
        '4'
    """
    rows = list(rows_of(source))
    if not rows:
        raise ConfigurationError("expected at least one problem; the source holds none")
    if all(isinstance(row, Problem) for row in rows):
        problems = [row for row in rows if isinstance(row, Problem)]
    else:
        given = {
            "prompt": prompt_column,
            "answer": answer_column,
            "options": options_column,
            "id": id_column,
            "set": set_column,
            "documents": None,
        }
        columns = _columns(rows, given)
        how = None if format is None else get_format(format)
        problems = [_problem(row, number, columns, how) for number, row in enumerate(rows)]
    for number, problem in enumerate(problems):
        _check(problem, number)
    _check_ids(problems)
    return problems


def _columns(rows: Sequence[Any], given: Mapping[str, str | None]) -> dict[str, str | None]:
    strangers = [number for number, row in enumerate(rows) if not isinstance(row, Mapping)]
    if strangers:
        kind = type(rows[strangers[0]]).__name__
        raise ConfigurationError(f"row {strangers[0]}: expected a mapping of column to value; got {kind}")
    present = list(dict.fromkeys(name for row in rows for name in row))
    return {what: _column(what, name, present) for what, name in given.items()}


def _column(what: str, given: str | None, present: Sequence[str]) -> str | None:
    came = ", ".join(map(repr, present)) or "none"
    if given is not None:
        if given not in present:
            raise ConfigurationError(f"{what} column {given!r} is not there; the columns are {came}")
        return given
    found = [name for name in COLUMNS[what] if name in present]
    if found or what not in ("prompt", "answer"):
        return found[0] if found else None
    expected = ", ".join(map(repr, COLUMNS[what]))
    raise ConfigurationError(
        f"no {what} column named {expected}; the columns are {came}. Rename it, or name it: "
        f"problems=load_problems(rows, {what}_column=...)"
    )


def _problem(row: Row, number: int, columns: Mapping[str, str | None], format: TraceFormat | None) -> Problem:
    cell = {what: row.get(name) if name else None for what, name in columns.items()}
    options = _options(cell["options"])
    return Problem(
        prompt=_prompt(cell["prompt"], number),
        answer=_answer(cell["answer"], options, number, format),
        options=options,
        id="" if cell["id"] is None else str(cell["id"]),
        set="id" if cell["set"] is None else str(cell["set"]),
        documents=tuple(map(str, cell["documents"] or ())),
    )


def _prompt(value: Any, number: int) -> str | tuple[Message, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value):
        return tuple(value)
    raise ConfigurationError(
        f"row {number}: expected a prompt as text or as chat messages with 'role' and 'content'; got {value!r}"
    )


def _options(value: Any) -> tuple[str, ...]:
    texts = value["text"] if isinstance(value, Mapping) and "text" in value else value
    return tuple(map(str, texts or ()))


def _answer(value: Any, options: tuple[str, ...], number: int, format: TraceFormat | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and options:
        value = _indexed(value, options, number)
    text = str(value)
    if format is None:
        return text
    return _as_asked(_final(text, format), options, format)


def _indexed(value: int, options: tuple[str, ...], number: int) -> str:
    """Letter of option ``value``, unless ``value`` is the text of an option."""
    texts = [option.strip() for option in options]
    if str(value) not in texts:
        return chr(ord("A") + value) if 0 <= value < len(options) else str(value)
    if value < len(options) and texts.index(str(value)) != value:
        raise ConfigurationError(
            f"row {number}: answer {value} is both the index and the text of an option; give the letter instead"
        )
    return str(value)


def _final(text: str, format: TraceFormat) -> str:
    """The final answer of a worked solution; datasets mark it in their own way, whatever the model writes."""
    for extractor in (format, get_format("gsm8k"), get_format("boxed")):
        statement = extractor.statement(text) if extractor.reasoning_close is None else None
        if statement is not None:
            return text[statement.start : statement.end]
    return text


def _as_asked(answer: str, options: tuple[str, ...], format: TraceFormat) -> str:
    """The option's letter where the format can read letters only."""
    texts = [option.strip() for option in options]
    if answer.strip() in texts and format.answer_in(format.asked(answer)) != answer:
        return chr(ord("A") + texts.index(answer.strip()))
    return answer


def _check(problem: Problem, number: int) -> None:
    where = f"row {number} (id {problem.id!r})"
    prompt = problem.prompt
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise ConfigurationError(f"{where}: the prompt is empty")
    if not isinstance(prompt, str) and prompt[-1].get("role") == "assistant":
        raise ConfigurationError(f"{where}: the last message is the assistant's; end the prompt where it is to answer")
    if problem.answer is not None and not problem.answer.strip():
        raise ConfigurationError(f"{where}: the reference answer is empty; use None for a problem without an answer")


def _check_ids(problems: Sequence[Problem]) -> None:
    first: dict[str, int] = {}
    for number, problem in enumerate(problems):
        if problem.id in first:
            raise ConfigurationError(
                f"rows {first[problem.id]} and {number} have the same id {problem.id!r}; remove one of them, or give "
                "each its own id (rows without an id column get theirs from the prompt)"
            )
        first[problem.id] = number


def _digest(prompt: str | tuple[Message, ...]) -> str:
    canonical = json.dumps(prompt, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
