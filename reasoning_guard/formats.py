r"""How a completion is read and how an answer is asked for.

A :class:`TraceFormat` says where steps end, where the final answer stands, and which text (the *cue*) makes a model
give its answer when it is appended to a cut trace. Five presets cover the usual conventions:

======== ============================== =========================== ========== =================
name     the answer in a completion     cue at a cut                terminator a step ends at
======== ============================== =========================== ========== =================
think    after ``</think>``             ``</think>\n\nThe answer is``  ``.``   a newline
gsm8k    ``#### 18``                    ``####``                    EOS        a newline
boxed    ``\boxed{18}``                 ``The answer is \boxed{``   ``}``      a newline
plain    ``The answer is 18.``, or       `` The answer is``          ``.``      a sentence's end
         a line ``Answer: 18``
choice   ``The answer is (B).``         `` The answer is (``        ``)``      a sentence's end
======== ============================== =========================== ========== =================

The space before an answer belongs to the answer, a newline to the step that it ends, and a space to the step that it
begins. These conventions split tokens least often (see :func:`reasoning_guard.seams.seam_report`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from reasoning_guard.errors import ConfigurationError

NEWLINE = r"\n(?:[^\S\n]*\n)*"
"""A step ends at a newline; blank lines that follow belong to it."""

SENTENCE = (
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\bMr)(?<!\bDr)(?<!\bMs)(?<!\bMrs)(?<!\bNo)(?<!\bapprox)"
    r"(?<!\A\d)(?<!\n\d)(?<!\n\d\d)"
    r"""(?<![.!?])[.!?]+(?![.!?])["')\]]*(?:[^\S\n]*""" + NEWLINE + r"|(?=\s|\Z))"
    r"|" + NEWLINE
)
"""A step ends at a full stop, question or exclamation mark before white space (never inside "3.5", after "e.g." or
after the number of a list item), or at a newline."""

# All patterns take time linear in the text: broken models write tens of thousands of dots or spaces.
_SENTENCE = r"(?P<answer>[^\s.!?](?:[^\n.!?]|[.!?]+(?=[^\s.!?]))*|\.\d+)"
_THUS = r"(?:\b(?:so|thus|hence|therefore),?\s+)?"
_GSM8K = r"####[^\S\n]*(?P<answer>\S[^\n]*)"
_PLAIN = rf"(?i:{_THUS}\bthe\s+(?:(?:final|correct|right)\s+)?answer\s+is):?[^\S\n]*{_SENTENCE}"
_ANSWER_LINE = r"(?im:^[^\S\n*_#>]*+(?:[*_#>]++[^\S\n]*+)*+(?:final\s+)?answer[*_]*+:[*_]*+)[^\S\n]*" + _SENTENCE
_CHOICE = (
    rf"(?i:{_THUS}\b(?:the\s+)?(?:(?:correct|final|best)\s+)?answer(?:\s+is|:)):?"
    r"[\s*(]*(?P<answer>[A-Z])(?=\)|\**\s*(?:[.,;:!]|\n|\Z))"
)
_AFTER_REASONING = (_PLAIN, _GSM8K, r"<answer>(?P<answer>[^<]+)</answer>", rf"(?i:\banswer):[^\S\n]*{_SENTENCE}")


class Statement(NamedTuple):
    """Where a text states its final answer, in characters.

    Attributes:
        start: First character of the answer.
        end: One past its last character.
        begin: Where the statement begins, including its cue. None: look for the format's cue right before ``start``.
    """

    start: int
    end: int
    begin: int | None = None


Extractor = Callable[[str], "tuple[int, int] | Statement | None"]
"""Finds the last explicit statement of an answer in a text; a plain ``(start, end)`` will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A completion taken apart, in characters.

    Attributes:
        start: Where the reasoning begins: behind the opening tag if there is one, else 0.
        ends: Where each step ends, increasing; the first step begins at ``start``.
        answer: Span of the final answer, or None.
        notes: Whatever is odd, in words.
    """

    start: int
    ends: tuple[int, ...]
    answer: tuple[int, int] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TraceFormat:
    r"""How a completion is read and how an answer is asked for.

    Attributes:
        name: Name, shown in reports and kept with the run's records.
        cue: Text that asks for the answer, appended at a cut. No trailing space: that belongs to ``answer_prefix``.
        answer: How a final answer is found in a text; the last one counts. Either a regular expression whose match is
            the whole statement and whose group "answer" (else its first group) is the answer, or a function from text
            to ``(start, end)`` or None.
        step_end: Regular expression; a step ends at the END of each match.
        answer_prefix: Text between cue and answer that is scored with the answer.
        terminator: Text that ends an answer, so that "1" does not count as a prefix of "18". None: the EOS token.
        reasoning_open: Tag that opens the reasoning, or None. It may stand in the prompt, where some chat templates put
            it.
        reasoning_close: Tag that closes the reasoning, or None.
        mathematical: Compare answers as mathematics ("1/2" equals "0.5"), not only as text.
        stop: Strings that end a generation, in addition to EOS.
        stop_after: Text that ends a generation once it follows a stated answer. A base model that has not learnt EOS
            would otherwise go on to the next question, whose steps and answer are not this trace's. None: never.
        filler: Text without content that replaces reasoning in controls.

    Raises:
        ConfigurationError: The cue or the filler is empty, the cue ends in a space, one tag is given without the other,
            or a regular expression does not compile or has no group.

    Example:
        >>> hashes = TraceFormat(name="hashes", cue="#", step_end=r";", answer=r"# (\S+)")
        >>> text = "b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; # 3"
        >>> layout = hashes.parse(text)
        >>> [text[a:b] for a, b in zip((layout.start, *layout.ends), layout.ends)]
        ['b = 3 + 4 = 7 ;', ' c = 7 * 2 = 3 ;']
        >>> hashes.answer_in(text)
        '3'
    """

    name: str
    cue: str
    answer: str | Extractor
    step_end: str = NEWLINE
    answer_prefix: str = " "
    terminator: str | None = None
    reasoning_open: str | None = None
    reasoning_close: str | None = None
    mathematical: bool = True
    stop: tuple[str, ...] = ()
    stop_after: str | None = "\n\n"
    filler: str = " ..."

    def __post_init__(self) -> None:
        """Refuse a format that cannot work."""
        for name in ("name", "cue", "step_end", "filler"):
            if not getattr(self, name):
                raise ConfigurationError(f"TraceFormat.{name} must not be empty")
        if self.cue.endswith(" "):
            raise ConfigurationError(
                f"TraceFormat.cue must not end in a space, tokenizers join it to the answer; got {self.cue!r}. "
                "Put the space into `answer_prefix`."
            )
        if (self.reasoning_open is None) != (self.reasoning_close is None):
            raise ConfigurationError("TraceFormat needs both `reasoning_open` and `reasoning_close`, or neither")
        _compiled(self.step_end, "step_end")
        if isinstance(self.answer, str) and not _compiled(self.answer, "answer").groups:
            raise ConfigurationError(f"TraceFormat.answer needs a group around the answer itself; got {self.answer!r}")

    def statement(self, text: str) -> Statement | None:
        """Find the last explicit statement of an answer in ``text``, with ``begin`` filled in, or None."""
        found = _last_match(self.answer, text) if isinstance(self.answer, str) else self.answer(text)
        if found is None:
            return None
        start, end, begin = found if isinstance(found, Statement) else Statement(*found)
        return Statement(start, end, _cue_before(text, start, self.cue) if begin is None else begin)

    def answer_in(self, text: str) -> str | None:
        """Return the final answer that the completion ``text`` states, or None."""
        span = self.parse(text).answer
        return None if span is None else text[slice(*span)]

    def is_complete(self, tail: str) -> bool:
        """Say whether a completion that ends in ``tail`` has stated its answer and gone past it."""
        if any(stop in tail for stop in self.stop):
            return True
        if self.stop_after is None or self.reasoning_close is not None or self.stop_after not in tail:
            return False
        stated = self.statement(tail)
        return stated is not None and self.stop_after in tail[stated.end :]

    def asked(self, answer: str) -> str:
        """Return what is appended to a cut trace to ask for ``answer``; the terminator is left out if it is EOS."""
        return self.cue + self.answer_prefix + answer + (self.terminator or "")

    def parse(self, text: str) -> Layout:
        """Take a completion apart into reasoning steps and final answer.

        The reasoning stands between the tags, or before the last statement of an answer. Without a statement,
        everything is reasoning.
        """
        if self.reasoning_close is not None:
            return self._parse_tagged(text, self.reasoning_open or "", self.reasoning_close)
        statement = self.statement(text)
        if statement is None:
            return self._layout(text, 0, len(text), None, ("no answer",))
        begin = statement.begin or 0
        notes = ("answer stated more than once",) if self.statement(text[:begin]) else ()
        return self._layout(text, 0, begin, statement, notes)

    def _parse_tagged(self, text: str, opening: str, closing: str) -> Layout:
        opened, closed = text.find(opening), text.find(closing)
        start = opened + len(opening) if opened >= 0 and (closed < 0 or opened < closed) else 0
        if closed < 0:
            return self._layout(text, start, len(text), None, ("unclosed reasoning", "no answer"))
        offset = closed + len(closing)
        found = self.statement(text[offset:])
        if found is None:
            return self._layout(text, start, closed, None, ("no answer",))
        answer = Statement(found.start + offset, found.end + offset)
        notes = ("answer stated more than once",) if self._repeated(text[offset:], found) else ()
        return self._layout(text, start, closed, answer, notes)

    def _repeated(self, tail: str, last: Statement) -> bool:
        head = tail[: last.begin]
        return bool(head.strip()) and self.statement(head) is not None

    def _layout(self, text: str, start: int, stop: int, answer: Statement | None, notes: tuple[str, ...]) -> Layout:
        ends = _step_ends(self.step_end, text, start, start + len(text[start:stop].rstrip(" \t")))
        if not ends:
            notes = (*notes, "no reasoning")
        return Layout(start=start, ends=ends, answer=answer and answer[:2], notes=notes)

    def to_dict(self) -> dict[str, object]:
        """Describe the format as JSON-able data for the run's records; a function is named by where it is defined."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if callable(self.answer):
            values["answer"] = f"{self.answer.__module__}.{self.answer.__qualname__}"
        return {**values, "stop": list(self.stop)}


def get_format(format: str | TraceFormat) -> TraceFormat:
    r"""Look up a preset by its name; a :class:`TraceFormat` is returned as it is.

    Raises:
        ConfigurationError: There is no preset of this name; the message lists those that exist.

    Example:
        >>> get_format("gsm8k").answer_in("9 * 2 = 18\n#### 18")
        '18'
    """
    if isinstance(format, TraceFormat):
        return format
    if format not in PRESETS:
        raise ConfigurationError(
            f"unknown trace format {format!r}: expected one of {', '.join(map(repr, PRESETS))}, or a TraceFormat of "
            'your own, e.g. TraceFormat(name="mine", cue="Answer:", answer=r"Answer: (.+)")'
        )
    return PRESETS[format]


def plain_statement(text: str) -> Statement | None:
    """Find the last "The answer is x"; if there is none, the last line that says "Answer: x".

    Such lines come second because a model that runs on into its next question writes them too.
    """
    return _last_match(_PLAIN, text) or _last_match(_ANSWER_LINE, text)


def boxed_statement(text: str) -> Statement | None:
    r"""Find the content of the last ``\boxed{...}`` with balanced braces, or None.

    The statement begins with its sentence if that announces an answer ("So the final answer is ..."), else with the
    box. So the calculation in "so 9 * 2 = \boxed{18}" stays reasoning.
    """
    closing = _closing_braces(text)
    for match in reversed(list(re.finditer(r"\\boxed\s*\{", text))):
        end = closing.get(match.end() - 1)
        if end is not None and text[match.end() : end].strip():
            return Statement(match.end(), end, _box_begin(text[: match.start()]))
    return None


def final_statement(text: str) -> Statement | None:
    r"""Find the answer in what follows the reasoning: the last explicit statement, else the only number, else all.

    Explicit statements are ``\boxed{x}``, ``<answer>x</answer>``, ``#### x``, ``The answer is x`` and ``Answer: x``.
    The last one counts.
    """
    found = [boxed_statement(text), *(_last_match(pattern, text) for pattern in _AFTER_REASONING)]
    stated = [statement for statement in found if statement is not None]
    if stated:
        return max(stated, key=lambda statement: statement.start)
    numbers = list(re.finditer(r"(?<![\w.,])-?\d[\d,]*(?:\.\d+)?(?!\w)", text))
    if len(numbers) == 1:
        return Statement(numbers[0].start(), numbers[0].end(), numbers[0].start())
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip().rstrip("."))
    return Statement(begin, end, begin) if begin < end else None


def _box_begin(before: str) -> int:
    sentence = max(before.rfind(mark) for mark in ("\n", ". ", "! ", "? ")) + 1
    if re.search(r"(?i)\b(?:answer|result|solution)\b", before[sentence:]):
        return len(before) - len(before[sentence:].lstrip())
    return len(before.rstrip("$ \t"))


def _compiled(pattern: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"TraceFormat.{name} is no valid regular expression: {pattern!r} ({error})") from error


def _last_match(pattern: str, text: str) -> Statement | None:
    match = None
    for match in re.finditer(pattern, text):  # noqa: B007
        pass
    if match is None:
        return None
    start, end = match.span("answer" if "answer" in match.re.groupindex else 1)
    answer = text[start:end]
    if answer.rstrip().endswith("**") and answer.count("**") == 1:  # opened before the cue: "**Answer: 18**"
        answer = answer.rstrip()[:-2]
    begin, stop = start + len(answer) - len(answer.lstrip()), start + len(answer.rstrip())
    return Statement(begin, stop, match.start()) if answer.strip() else None


def _cue_before(text: str, start: int, cue: str) -> int:
    before = text[:start].rstrip()
    return len(before) - len(cue.strip()) if before.endswith(cue.strip()) else start


def _closing_braces(text: str) -> dict[int, int]:
    """Place of the closing brace by place of its opening brace; escaped braces are text."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for match in re.finditer(r"\\.|[{}]", text):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _step_ends(step_end: str, text: str, start: int, stop: int) -> tuple[int, ...]:
    """Ends of the steps in ``text[start:stop]``; a step holds more than white space."""
    ends: list[int] = []
    last = start
    for match in re.finditer(step_end, text[:stop]):
        if match.end() > start and text[last : match.end()].strip():
            last = match.end()
            ends.append(last)
    if text[last:stop].strip():
        ends.append(stop)
    elif ends:
        ends[-1] = stop
    return tuple(ends)


PRESETS: dict[str, TraceFormat] = {
    preset.name: preset
    for preset in (
        TraceFormat(
            name="think",
            cue="</think>\n\nThe answer is",
            answer=final_statement,
            terminator=".",
            reasoning_open="<think>",
            reasoning_close="</think>",
        ),
        TraceFormat(name="gsm8k", cue="####", answer=_GSM8K, stop_after="\n"),
        TraceFormat(
            name="boxed", cue="The answer is \\boxed{", answer=boxed_statement, answer_prefix="", terminator="}"
        ),
        TraceFormat(name="plain", cue=" The answer is", answer=plain_statement, step_end=SENTENCE, terminator="."),
        TraceFormat(
            name="choice",
            cue=" The answer is (",
            answer=_CHOICE,
            step_end=SENTENCE,
            answer_prefix="",
            terminator=")",
            mathematical=False,
        ),
    )
}
"""The presets by name."""
