"""Notice a format in which no completion states an answer, so that nothing is ever paid and no number says why."""

from __future__ import annotations

from collections.abc import Sequence

from reasoning_guard.errors import warn_once
from reasoning_guard.format_inference import likeliest_format
from reasoning_guard.formats import PRESETS, TraceFormat
from reasoning_guard.processes import is_main_process
from reasoning_guard.traces import Trace

PATIENCE = 10
"""Calls in a row without a stated answer after which it is said: a model may need some steps to learn its format."""


class Unread:
    """Watches whether a reward finds answers at all, and says so once if it does not.

    Args:
        name: Name of the reward, for the message.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls = 0

    def look(self, traces: Sequence[Trace], texts: Sequence[str], format: TraceFormat) -> None:
        """Look at a batch of this process. Only the main process speaks.

        Args:
            traces: The completions as they were read.
            texts: The same completions as text.
            format: The format in which they were read.
        """
        if any(trace.answer is not None for trace in traces):
            self._calls = 0
        elif traces:
            self._calls += 1
        if self._calls == PATIENCE and is_main_process():
            warn_once(self._message(texts, format), key="unread", by=self)

    def _message(self, texts: Sequence[str], format: TraceFormat) -> str:
        found = (
            f"{self._name}: in {PATIENCE} calls in a row no completion states an answer in format {format.name!r}, so "
            "none is read, right or not"
        )
        better = likeliest_format(texts)
        if better is not None and better != format.name:
            return f"{found}. format={better!r} reads an answer in most of the latest ones"
        return (
            f"{found}, and no preset ({', '.join(PRESETS)}) reads an answer in most of the latest ones either: pass a "
            f"TraceFormat, or allow longer completions. The first of them ends in {texts[0][-200:]!r}"
        )
