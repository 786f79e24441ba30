"""The many shapes of a log: find the prompt and the completion in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reasoning_guard.cells import content_of, whole_characters
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.problems import COLUMNS

COMPLETIONS = ("completion", "response", "output", "generated_text")
"""Columns that hold a completion; the first that is there counts."""

CHATS = ("messages", "conversations")
"""Columns that hold a whole conversation, which ends with the completion."""

_ROLES = {"human": "user", "gpt": "assistant"}
Prompt = str | tuple[Mapping[str, str], ...]


class Said(NamedTuple):
    """What was read and written, according to a row.

    Attributes:
        prompt: What the model read, or None if the row does not hold it.
        completion: What it wrote.
        finished: False if the length limit cut it off.
    """

    prompt: Prompt | None
    completion: str
    finished: bool


def said(row: Mapping[str, Any], number: int) -> Said:
    r"""Take a row apart.

    Args:
        row: A saved trace, or a chat log.
        number: Its number, for errors.

    Raises:
        ConfigurationError: There is no completion in it.

    Example:
        >>> chat = [{"role": "user", "content": "2 + 2 = ?"}, {"role": "assistant", "content": "4"}]
        >>> said({"messages": chat}, 0).completion
        '4'
        >>> said({"prompt": "2 + 2 =", "completion": " 4", "finish_reason": "length"}, 0)
        Said(prompt='2 + 2 =', completion=' 4', finished=False)
    """
    finished = row.get("finish_reason") != "length" and row.get("finished") is not False
    for name in COMPLETIONS:
        if isinstance(row.get(name), str):
            return _said(_prompt(row), row[name], finished)
        if _is_chat(row.get(name)):
            return _said(_prompt(row), _written(_messages(row[name])[-1]), finished)
    for name in CHATS:
        messages = _messages(row[name]) if _is_chat(row.get(name)) else []
        if messages and messages[-1]["role"] == "assistant":
            return _said(tuple(_plain(each) for each in messages[:-1]) or None, _written(messages[-1]), finished)
    raise ConfigurationError(
        f"row {number}: expected what the model wrote in {', '.join(COMPLETIONS)}, or a conversation that ends with an "
        f"assistant's message in {' or '.join(CHATS)}; the columns are {', '.join(map(str, row)) or 'none'}"
    )


def _said(prompt: Prompt | None, completion: str, finished: bool) -> Said:
    return Said(whole_characters(prompt), whole_characters(completion), finished)


def _prompt(row: Mapping[str, Any]) -> Prompt | None:
    value = next((row[name] for name in COLUMNS["prompt"] if row.get(name) is not None), None)
    if value is not None and _is_chat(value):
        messages = _messages(value)
        ends = messages[-1]["role"] == "assistant"  # the column holds the whole conversation
        return tuple(_plain(each) for each in (messages[:-1] if ends else messages))
    return value if isinstance(value, str) else None


def _is_chat(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _messages(value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with "role" and "content", whichever of the two common dialects they came in."""
    return [
        {
            **each,
            "role": _ROLES.get(role := str(each.get("role", each.get("from", ""))), role),
            "content": content_of(each.get("content", each.get("value"))),
        }
        for each in value
    ]


def _plain(message: Mapping[str, Any]) -> Mapping[str, str]:
    return {"role": message["role"], "content": message["content"]}


def _written(message: Mapping[str, Any]) -> str:
    """What the model wrote, with its reasoning where servers keep that apart."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    answer = str(message["content"])
    return f"<think>\n{str(reasoning).strip()}\n</think>\n\n{answer}" if reasoning else answer
