"""Find the format of completions from examples, so that nobody has to say what the data say already."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from reasoning_guard.formats import PRESETS, TraceFormat, get_format
from reasoning_guard.problems import COLUMNS, Problem
from reasoning_guard.row_files import rows_of

logger = logging.getLogger(__name__)

EXAMPLES = 64
"""Examples that are looked at."""

_ENOUGH = 0.6
_SPECIFIC_FIRST = ("think", "gsm8k", "boxed", "choice", "plain")


def infer_format(sources: Mapping[str, Iterable[str]]) -> TraceFormat:
    """Find the preset in which most examples state an answer.

    Args:
        sources: Example completions by where they come from, the best source first. A later source counts only if the
            earlier ones say nothing.

    Returns:
        The preset; "plain", with a warning, if none fits most examples.
    """
    for source, texts in sources.items():
        shown = list(islice(texts, EXAMPLES))
        name = likeliest_format(shown)
        if name is not None:
            logger.info("trace format %r, read off %d %s; pass `format=` to choose another", name, len(shown), source)
            return get_format(name)
    logger.warning(
        'no preset format fits the %s, so \'plain\' ("The answer is ...") is assumed; pass `format=` one of %s or a '
        "TraceFormat", " or the ".join(sources), ", ".join(PRESETS),
    )  # fmt: skip
    return get_format("plain")


def likeliest_format(texts: Iterable[str]) -> str | None:
    r"""Find the most specific preset that reads an explicit answer in at least 60 % of ``texts``, or None.

    Example:
        >>> likeliest_format(["2 + 2 = 4\n#### 4", "so it is 5\n#### 5"])
        'gsm8k'
    """
    texts = list(texts)
    for name in _SPECIFIC_FIRST if texts else ():
        if sum(states_answer(name, text) for text in texts) >= _ENOUGH * len(texts):
            return name
    return None


def solutions(problems: Any) -> Iterator[str]:
    r"""Yield the texts of held-out problems that may be worked solutions.

    Args:
        problems: Anything that :func:`~reasoning_guard.problems.load_problems` takes; an iterator is used up.

    Yields:
        What each of the first rows holds in its columns of an answer. If a row has several, such as a worked solution
        and the bare answer, they are one text.

    Raises:
        ConfigurationError: ``problems`` holds no rows.

    Example:
        >>> list(solutions([{"problem": "1 + 1?", "solution": "It is \\boxed{2}.", "answer": "2"}]))
        ['2\nIt is \\boxed{2}.']
    """
    for row in islice(rows_of(problems), EXAMPLES):
        held = [row.answer] if isinstance(row, Problem) else []
        if isinstance(row, Mapping):
            held = [row.get(name) for name in COLUMNS["answer"]]
        if texts := [each for each in held if isinstance(each, str)]:
            yield "\n".join(texts)


def states_answer(name: str, text: str) -> bool:
    r"""Say whether the preset ``name`` reads an answer in ``text``, and finds its reasoning tags if it has any.

    Example:
        >>> states_answer("gsm8k", "#### 4"), states_answer("think", "The answer is 4.")
        (True, False)
    """
    preset = PRESETS[name]
    if preset.reasoning_close is not None and preset.reasoning_close not in text:
        return False
    return preset.answer_in(text) is not None
