"""Held-out problems, and where they come from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import Any, cast

from reasoning_guard.cells import content_behind, is_missing, listed, text_of, texts_of, whole_characters, whole_number
from reasoning_guard.errors import ConfigurationError, warn_once
from reasoning_guard.formats import TraceFormat, get_format
from reasoning_guard.options import asks_letters, letter_of, option_index
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
"""Column names that are recognised by default, by what they hold; the first that is there counts."""

_RENDERED = ("tools", "chat_template_kwargs")
"""Columns that a TRL trainer gives to the chat template for each row of its training data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One held-out question.

    Attributes:
        prompt: What the model reads: a text, or chat messages with "role" and "content".
        answer: Reference answer; None if the problem has none (unanswerable).
        options: Texts of the options of a multiple-choice problem; option 0 is "A".
        id: Pairs this problem across evaluations and runs; by default 12 hex digits of the prompt's SHA-256.
        set: Name of the set that it belongs to: "id" (in distribution), "ood", or any other.
        documents: Texts on which the answer should rest; a single text is one document.

    Half characters (lone surrogates, which are left when an emoji is cut in two) become U+FFFD in all of these.

    Raises:
        ConfigurationError: ``options`` is one text.

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
        """Make sequences immutable and characters whole, and fill in the id."""
        if isinstance(self.options, str) and self.options:
            raise ConfigurationError(f"expected `options` as a list of texts; got the text {self.options!r}")
        prompt = self.prompt if isinstance(self.prompt, str) else tuple(dict(message) for message in self.prompt)
        documents = [self.documents] if isinstance(self.documents, str) else self.documents
        given = {"prompt": prompt, "options": tuple(self.options), "documents": tuple(documents)}
        given |= {"answer": self.answer, "id": self.id, "set": self.set}
        for name, value in given.items():
            object.__setattr__(self, name, whole_characters(value))
        object.__setattr__(self, "id", self.id or _digest(self.prompt))


def with_text_before(problem: Problem, text: str) -> Problem:
    r"""Return the problem with a text before its question; in a chat, at the beginning of the last message.

    >>> with_text_before(Problem(prompt="2 + 2 = ?"), "Hint: 4.\n").prompt
    'Hint: 4.\n2 + 2 = ?'
    """
    if isinstance(problem.prompt, str):
        return replace(problem, prompt=text + problem.prompt)
    *before, last = cast("tuple[dict[str, Any], ...]", problem.prompt)
    return replace(problem, prompt=(*before, {**last, "content": content_behind(text, last["content"])}))


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
    r"""Load held-out problems from a dataset, rows, a JSONL file, or problems.

    Args:
        source: A ``datasets.Dataset``, mappings (from a pandas table: ``table.to_dict("records")``), the path of a
            ``.jsonl`` file, or :class:`Problem` values. A cell with None, NaN or pandas' NA is empty. Numbers become
            texts, without a fraction if they have none (10.0 becomes "10"). Half characters (lone surrogates) become
            U+FFFD.
        prompt_column: Column with the prompt (text or chat messages). If not given, it is found by name (see
            :data:`COLUMNS`), as are the other columns.
        answer_column: Column with the reference answer, a text or a number. True and False are refused, since nothing
            says by which word the model states them. An empty cell means that the problem has no answer. In a problem
            with options, a whole number is the index of the right one.
        options_column: Column with the list of the options' texts (or ``{"text": [...]}``).
        id_column: Column with ids that stay the same from run to run.
        set_column: Column that names each row's problem set.
        format: Reduces worked solutions ("... #### 72") to their final answer, and an option's text to its letter if
            the format asks for letters.

    Returns:
        The problems in the order of the rows.

    Raises:
        ConfigurationError: There are no rows, a column is missing or ambiguous, a prompt or answer is empty, a cell
            holds something that it should not, or an id comes twice. The message names the row, or the file's line.

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
        for number, problem in enumerate(problems):
            _check(problem, number)
    else:
        given = {
            "prompt": prompt_column,
            "answer": answer_column,
            "options": options_column,
            "id": id_column,
            "set": set_column,
            "documents": None,
        }
        problems = problems_of(rows, range(len(rows)), given, format)
        _say_what_is_not_rendered(rows, problems)
    _check_ids(problems)
    return problems


def _say_what_is_not_rendered(rows: Sequence[Any], problems: Sequence[Problem]) -> None:
    """Warn if a prompt will lack something that the same row's would have in training."""
    chats = [row for row, problem in zip(rows, problems, strict=True) if not isinstance(problem.prompt, str)]
    for name in _RENDERED:
        if any(not is_missing(cell := listed(row.get(name))) and cell for row in chats):
            warn_once(
                f"the held-out problems have a column {name!r}, which is not read: their chat messages are rendered "
                "without it. Where your training data have it too, give the prompts as text, as the chat template "
                "writes them",
                key=f"not rendered {name}",
            )


def problems_of(
    rows: Sequence[Any],
    numbers: Iterable[int],
    given: Mapping[str, str | None],
    format: str | TraceFormat | None,
) -> list[Problem]:
    """Make problems from rows.

    Args:
        rows: Mappings.
        numbers: Their places in what the user gave, for errors.
        given: The columns by what they hold, as in :data:`COLUMNS`. None: the column is found by its name.
        format: Reduces worked solutions, as in :func:`load_problems`.

    Raises:
        ConfigurationError: A row can't be read; the message names it.
    """
    columns = _columns(rows, given)
    how = None if format is None else get_format(format)
    problems: list[Problem] = []
    for number, row in zip(numbers, rows, strict=True):
        problems.append(_problem(row, number, columns, how))
        _check(problems[-1], number)
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
    cell = {what: listed(row.get(name)) if name else None for what, name in columns.items()}
    options = _options(cell["options"], number)
    return Problem(
        prompt=_prompt(cell["prompt"], number),
        answer=_answer(cell["answer"], options, number, format),
        options=options,
        id=_name(cell["id"], "the id", number) or "",
        set=_name(cell["set"], "the set", number) or "id",
        documents=_documents(cell["documents"], number),
    )


def _prompt(value: Any, number: int) -> str | tuple[Message, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value):
        return tuple(value)
    raise ConfigurationError(
        f"row {number}: expected a prompt as text or as chat messages with 'role' and 'content'; got {value!r}"
    )


def _options(value: Any, number: int) -> tuple[str, ...]:
    listing = value
    if isinstance(value, Mapping) and "text" in value:
        listing = listed(value["text"])
    elif isinstance(value, Mapping) and [*value] == [*map(letter_of, range(len(value)))]:
        listing = list(value.values())
    texts = texts_of(listing, "option", number)
    while texts and texts[-1] is None:  # tables fill short rows up
        texts = texts[:-1]
    if None in texts:
        raise ConfigurationError(f"row {number}: options[{texts.index(None)}] is empty; leave it out, or give its text")
    return tuple(text for text in texts if text is not None)


def _documents(value: Any, number: int) -> tuple[str, ...]:
    if isinstance(value, list | tuple):  # some keep a title beside each text
        value = [str(each) if isinstance(each, Mapping) else each for each in value]
    texts = texts_of([value] if isinstance(value, str) else value, "document", number)
    return tuple(text for text in texts if text)


def _name(value: Any, what: str, number: int) -> str | None:
    """Return the name of an id or a set: whatever is there, such as a date, as text."""
    tells = is_missing(value) or isinstance(value, str | bytes | list | tuple | Mapping | Real | Decimal)
    return text_of(value, what, number) if tells and not isinstance(value, bool) else str(value)


def _answer(value: Any, options: tuple[str, ...], number: int, format: TraceFormat | None) -> str | None:
    text = text_of(value, "the answer", number)
    index = whole_number(value) if options else None
    if text is not None and index is not None:
        text = _indexed(index, (str(value), text), options, number, format)
    if text is None or format is None:
        return text
    return _as_asked(_final(text, format), options, format)


def _indexed(
    index: int, names: Sequence[str], options: tuple[str, ...], number: int, format: TraceFormat | None
) -> str:
    """What names option ``index``, unless the number, as one of ``names``, is the text of an option."""
    texts = [option.strip() for option in options]
    found = next((texts.index(name) for name in names if name in texts), None)
    if found is None and not 0 <= index < len(options):
        return names[-1]
    if found is None:
        return _name_of(index, options, letters=format is not None and asks_letters(options, format))
    if index < len(options) and found != index:
        raise ConfigurationError(
            f"row {number}: answer {index} is both the index and the text of an option; give the letter instead"
        )
    return texts[found]


def _final(text: str, format: TraceFormat) -> str:
    """The final answer of a worked solution; datasets mark it in their own way, whatever the model writes."""
    for extractor in (format, get_format("gsm8k"), get_format("boxed")):
        statement = extractor.statement(text) if extractor.reasoning_close is None else None
        if statement is not None:
            return text[statement.start : statement.end]
    return text


def _as_asked(answer: str, options: tuple[str, ...], format: TraceFormat) -> str:
    """The option's letter where the format can't read the answer, or reads letters only."""
    letters = asks_letters(options, format)
    index = option_index(answer, options, letters=letters)
    is_letter, readable = len(answer.strip()) == 1, format.answer_in(format.asked(answer)) == answer
    if index is None or (readable and not (letters and is_letter)):
        return answer
    return _name_of(index, options, letters=letters)


def _name_of(index: int, options: tuple[str, ...], *, letters: bool) -> str:
    """The letter of an option, unless that is another one's text and would be taken for it."""
    texts = [option.strip() for option in options]
    return texts[index] if letter_of(index) in texts and not letters else letter_of(index)


def _check(problem: Problem, number: int) -> None:
    where = f"row {number} (id {problem.id!r})"
    prompt = problem.prompt
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise ConfigurationError(f"{where}: the prompt is empty")
    if not isinstance(prompt, str) and prompt[-1].get("role") == "assistant":
        raise ConfigurationError(f"{where}: the last message is the assistant's; end the prompt where it is to answer")
    if problem.answer is not None and not isinstance(problem.answer, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{where}: expected the reference answer as a text or None; got {problem.answer!r}")
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
