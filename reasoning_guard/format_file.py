"""A format as a user names it outside Python: a preset, or a JSON file with a format of your own."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import TraceFormat, get_format


def read_format(name: str) -> TraceFormat:
    r"""Read a preset by its name, or a format of your own from a JSON file with the fields of :class:`TraceFormat`.

    Args:
        name: One of the presets, or the path of a ``.json`` file, e.g. ``{"name": "hashes", "cue": " #", "answer":
            "# (\\S+)", "step_end": ";"}``.

    Returns:
        The format.

    Raises:
        ConfigurationError: There is no such preset and no such file, the file holds no JSON object, or a field that a
            format does not have.
    """
    path = Path(name)
    if path.suffix != ".json":
        return get_format(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(
            f"expected a .json file with a trace format; {name!r} can't be read: {error}"
        ) from error
    except (ValueError, RecursionError) as error:
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
    for field in fields(TraceFormat):
        value = values.get(field.name, field.default)
        if field.name == "stop":
            fits, kind = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value), "texts"
        elif field.name == "mathematical":
            fits, kind = isinstance(value, bool), "true or false"
        else:
            fits, kind = isinstance(value, str) or (value is None and "None" in str(field.type)), "a text"
        if not fits:
            raise ConfigurationError(f"{name}: expected {kind} as {field.name!r}; got {value!r}")
    return TraceFormat(**{**values, "stop": tuple(values.get("stop", ()))})
