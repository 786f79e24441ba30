"""Write docs/api.md from the docstrings: ``python docs/make_api.py``, or ``make docs``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).with_name("api.md")
SOURCES = ("reasoning_guard", "integrations")
ORDER = ("reasoning_guard", "reasoning_guard_transformers", "reasoning_guard_trl", "reasoning_guard_lightning")
"""Packages in the order of the page; the public modules of the core follow their package."""

PARTS = ("offline", "report", "sinks", "metrics", "rewards", "probes", "rules", "statistics")
"""Modules of the core whose public names stand on the page even where the package does not lift them up."""

HEADINGS = ("Args", "Attributes", "Returns", "Raises", "Yields", "Example", "Examples")


def page() -> str:
    """The whole page."""
    seen: set[int] = set()
    parts = [part for module in modules() for part in section(module, seen)]
    head = (
        "# API\n\nEvery public class and function, package by package: first the core, then the adapters for trainers. "
        "To begin with, see the [README](../README.md).\n\nThis page is made from the docstrings by `make docs`, and "
        "the tests run every example where it is written."
    )
    return "\n\n".join([head, *parts]) + "\n"


def modules() -> Iterator[ModuleType]:
    """What there is to document, in order."""
    for name in ORDER:
        yield importlib.import_module(name)
        if name == ORDER[0]:
            found = (f"{name}.{part}" for part in PARTS)
            yield from (importlib.import_module(part) for part in found if importlib.util.find_spec(part))


def section(module: ModuleType, seen: set[int]) -> Iterator[str]:
    """A module's heading and its public names, those already shown left out."""
    shown = [(name, thing) for name, thing in members(module) if id(thing) not in seen]
    seen.update(id(thing) for _, thing in shown)
    if shown:
        yield f"## `{module.__name__}`\n\n{first_paragraph(module)}"
        yield from (entry(name, thing) for name, thing in shown)


def members(module: ModuleType) -> list[tuple[str, Any]]:
    """Public classes and functions: those of ``__all__``, or those defined here."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, t in vars(module).items() if getattr(t, "__module__", "") == module.__name__]
    found = [(name, getattr(module, name)) for name in names if not name.startswith("_")]
    return [(name, thing) for name, thing in found if inspect.isclass(thing) or inspect.isfunction(thing)]


def entry(name: str, thing: Any) -> str:
    """One class or function."""
    lines = [f"### `{name}`", f"```text\n{signature(name, thing)}\n```", markdown(inspect.getdoc(thing) or "")]
    if inspect.isclass(thing):
        lines += [method(f"{name}.{n}", m) for n, m in vars(thing).items() if documented(n, m)]
    return "\n\n".join(filter(None, lines))


def documented(name: str, thing: Any) -> bool:
    """Whether a member of a class is public and has something to say."""
    inner = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    return not name.startswith("_") and inspect.isfunction(inner) and bool(inner.__doc__)


def method(name: str, thing: Any) -> str:
    """One method or property, its docstring a level deeper."""
    if isinstance(thing, property):
        return f"* **`{name}`**: {paragraph(thing.__doc__ or '')}"
    inner = getattr(thing, "__func__", thing)
    return f"* **`{signature(name, inner, whole=False)}`**: {paragraph(inner.__doc__ or '')}"


def signature(name: str, thing: Any, *, whole: bool = True) -> str:
    """Name and parameters; ``whole`` keeps the types, a parameter a line where it would get long."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    parameters = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    if not whole:
        return f"{name}({', '.join(p.name for p in parameters)})"
    given = [plain(p) for p in parameters]
    keyword_only = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if keyword_only is not None and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        given.insert(keyword_only, "*")
    returns = found.return_annotation
    arrow = f" -> {returns}" if isinstance(returns, str) and not inspect.isclass(thing) else ""
    line = f"{name}({', '.join(given)}){arrow}"
    if len(line) <= 100:
        return line
    listed = "".join(f"    {each},\n" for each in given)
    return f"{name}(\n{listed}){arrow}"


def plain(parameter: inspect.Parameter) -> str:
    """A parameter as it is written in the source, without what differs from machine to machine."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = parameter.annotation
    text = f"{stars}{parameter.name}" + (f": {kind}" if isinstance(kind, str) else "")
    default = parameter.default
    if default is parameter.empty:
        return text
    known = isinstance(default, (str, int, float, bool, type(None))) or default == ()
    return f"{text} = {default!r}" if known else f"{text} = ..."


def first_paragraph(module: ModuleType) -> str:
    """What a module says of itself first."""
    return paragraph(module.__doc__ or "")


def paragraph(text: str) -> str:
    """The first paragraph of a docstring as one line of Markdown."""
    return roles(" ".join(inspect.cleandoc(text).split("\n\n")[0].split()))


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown."""
    blocks: list[str] = []
    for block in re.split(r"\n\n(?=\S)", docstring):
        title, _, rest = block.partition(":\n")
        if title in HEADINGS and rest:
            blocks += [f"**{title}**", fields(title, textwrap.dedent(rest))]
        else:
            blocks.append(roles(block))
    return "\n\n".join(blocks)


def fields(title: str, text: str) -> str:
    """The body of a section: examples as code, arguments as a list, the rest as it is."""
    if title.startswith("Example"):
        return f"```pycon\n{text.strip()}\n```"
    items = re.split(r"\n(?=\S)", text.strip())
    if title in ("Returns", "Yields"):
        return roles(text.strip())
    parts = (item.partition(": ") for item in items)
    return "\n".join(f"* `{name}`: {roles(' '.join(said.split()))}" for name, _, said in parts)


def roles(text: str) -> str:
    """Sphinx's roles and double backticks as Markdown code."""
    text = re.sub(r":\w+:`(?:~[\w.]*\.)?([\w.]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
