"""Which format is it? Read off texts, or named by a user: a preset, or a JSON file with a format of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import PRESETS, TraceFormat, get_format

_ENOUGH = 0.6
_SPECIFIC_FIRST = ("think", "gsm8k", "boxed", "choice", "plain")


def likeliest_format(texts: Iterable[str]) -> str | None:
    r"""The most specific preset that reads an explicit answer in at least 60 % of ``texts``, or None.

    Example:
        >>> likeliest_format(["2 + 2 = 4\n#### 4", "so it is 5\n#### 5"])
        'gsm8k'
    """
    texts = list(texts)
    for name in _SPECIFIC_FIRST if texts else ():
        if sum(states_answer(name, text) for text in texts) >= _ENOUGH * len(texts):
            return name
    return None


def states_answer(name: str, text: str) -> bool:
    r"""Whether the preset ``name`` reads an answer in ``text``, and its reasoning tags where it has them.

    Example:
        >>> states_answer("gsm8k", "#### 4"), states_answer("think", "The answer is 4.")
        (True, False)
    """
    preset = PRESETS[name]
    if preset.reasoning_close is not None and preset.reasoning_close not in text:
        return False
    return preset.answer_in(text) is not None


def read_format(name: str) -> TraceFormat:
    r"""A preset by its name, or a format of one's own from a JSON file with the fields of :class:`TraceFormat`.

    Args:
        name: One of the presets, or the path of a ``.json`` file, e.g. ``{"name": "hashes", "cue": " #", "answer":
            "# (\\S+)", "step_end": ";"}``.

    Returns:
        The format.

    Raises:
        ConfigurationError: No such preset and no such file, no JSON object, or a field that a format does not have.
    """
    path = Path(name)
    if path.suffix != ".json":
        return get_format(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"expected a .json file with a trace format; {name!r} can't be read: {error}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"expected one JSON object with a trace format in {name!r}; {error}") from error
    return _format(name, values)


def _format(name: str, values: Any) -> TraceFormat:
    known = {field.name for field in fields(TraceFormat)}
    needed = {"name", "cue", "answer"}
    if not isinstance(values, dict) or not needed <= set(values) <= known:
        came = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        raise ConfigurationError(
            f"{name}: expected a JSON object with name, cue and answer, and beside them at most "
            f"{', '.join(sorted(known - needed))}; got {came}"
        )
    return TraceFormat(**{**values, "stop": tuple(values.get("stop", ()))})
