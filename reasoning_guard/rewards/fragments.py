"""Step marks that stand inside a statement, and filler between its words: neither is read.

A split puts a mark where nothing ends: "b = 5 ; + 1 = 6". To a reader that is another text, and it may like it better.
So whether a mark is read depends on the words around it, not on the mark: it is where a sentence or an equation has
come to its end and something else begins. Fragments are joined again, and what was split reads as it did before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from reasoning_guard.formats import TraceFormat
from reasoning_guard.reader import TraceReader
from reasoning_guard.traces import Trace

_SENTENCE_ENDED = re.compile(r"[.!?:;…。！？：；][\"'”’»)\]}*_`$|]*\Z")  # noqa: RUF001
_EQUATED = re.compile(r"(?:\d[\w.,/]*|\b[^\W\d_]|[)\]}])[%°$€£*_`|]*(?:\s[^\W\d_]+)?[%°$€£*_`|]*\Z")
"""How an equation's last side ends: a number or a symbol, perhaps with a unit."""
_GOES_ON = re.compile(r"[=≈,/×÷·^%)\]}]|[-−+*]\s*(?:[$€£(]*\d[^\s=]*|[^\W\d_])\s*(?:[-−+*/×÷=]|\Z)")
"""A statement never begins like this; "- 3 apples" is an item of a list, "- 3 = 2" goes on with a calculation."""
_ITEM = re.compile(r"(?:[-−+*•#>]+|\(?\w{1,2}[.)]|\|)\s")
_EQUAL = frozenset("=≈")
_EQUATION = re.compile(r"[^\W\d_]\w*(?:\s\w+){0,3}\s*=")
_WORDS, _TAIL = 6, 80
"""Words behind a mark, and characters before it, that are looked at."""
_OPERATOR = re.compile(r"[-−+*/×÷·^=≈]")
_OPEN = re.compile(
    r"(?:[-−+*/×÷·^=≈<>,(\[{]|\b(?:an?|and|are|at|be|by|equals|for|from|has|have|if|in|is|of|on|or|per|so|than|"
    r"that|the|then|to|was|were|will|with|x))\Z"
)
"""How no statement ends: with an operator, or (in English) with a word that leads to another."""


def mended(text: str, format: TraceFormat) -> str:
    r"""A reasoning without marks inside statements and without filler between words.

    What is decided at a place depends on the words alone (those since the last mark that was read, and those behind
    it), so texts that differ only in marks put inside statements come out the same.

    Args:
        text: A reasoning, or a part of one that begins with a step.
        format: Says where steps end, and what filler is.

    Returns:
        The text; an ordinary one comes back as it is.

    Example:
        >>> hashes = TraceFormat(name="hashes", cue="#", step_end=r";", answer=r"# (\S+)")
        >>> mended("b = 5 ; + 1 = 6 ; c = ... 6 * ; 2 = 1 ;", hashes)
        'b = 5 + 1 = 6 ; c = 6 * 2 = 1 ;'
    """
    pieces, marks = _taken_apart(_without_filler(text, format), format)
    out, statement = [pieces[0]], pieces[0]
    for i, piece in enumerate(pieces[1:], start=1):
        rest = _opening(pieces, i)
        if _ends(statement.strip(), marks[i - 1].strip(), rest):
            out += [marks[i - 1], piece]
            statement = piece
        else:
            between = _between(out[-1].rstrip()[-1:], rest[:1])
            out[-1] = out[-1].rstrip()
            out += [between, piece.lstrip()]
            statement = statement.rstrip() + between + piece.lstrip()
    return "".join(out) + marks[-1]


def unbroken(trace: Trace, reader: TraceReader) -> Trace:
    """The trace with its reasoning :func:`mended`.

    Args:
        trace: A trace.
        reader: What it was read with.

    Returns:
        The trace as it came, its own token ids included, where nothing had to be mended, or where the tokenizer cannot
        write the mended text; else a trace of that text, tokenised again from the first place that differs.
    """
    first, stop = trace.cuts[0], trace.cuts[-1]
    if first == stop:
        return trace
    ids = reader.reword(trace, first, stop, lambda text: mended(text, reader.format))
    if ids is None:
        return trace
    prompt = len(trace.prompt_ids)
    own = trace.completion_ids
    return reader.read(
        trace.problem,
        own[: first - prompt] + ids + own[stop - prompt :],
        prompt_ids=trace.prompt_ids,
        finished=trace.finished,
    )


def _without_filler(text: str, format: TraceFormat) -> str:
    """Without dots that stand for themselves in the middle of a line, and without the format's own filler."""
    words = rf"(?:\.{{2,}}|…+|{re.escape(format.filler.strip())})"
    return re.sub(rf"(?<!\S){words}(?:[^\S\n]+{words})*(?!\S)[^\S\n]?", "", text)


def _taken_apart(text: str, format: TraceFormat) -> tuple[list[str], list[str]]:
    """What is said, and the marks behind it; pieces that say nothing are part of the mark."""
    pieces, marks, last, between = [], [], 0, ""
    for match in [*re.finditer(format.step_end, text), None]:
        piece = text[last : match.start() if match else len(text)]
        if any(c.isalnum() for c in piece) or _OPERATOR.fullmatch(piece.strip()):
            if pieces:
                marks.append(between)
            pieces.append(piece if pieces else between + piece)
            between = ""
        else:
            between += piece
        between += match.group() if match else ""
        last = match.end() if match else last
    return (pieces or [""]), [*marks, between]


def _ends(statement: str, mark: str, rest: str) -> bool:
    """Whether a statement ends here: nothing is open before the mark, and what follows does not go on with it."""
    if not rest:
        return True
    tail, in_words, item = statement[-_TAIL:], rest[0].islower(), _ITEM.match(rest) is not None
    ended = _SENTENCE_ENDED.search(tail) is not None
    if item and (ended or rest[0] == statement[:1]):
        return True
    if _GOES_ON.match(rest) or _OPEN.search(tail):
        return False
    if mark[:1] in {".", "!", "?"}:
        return item or not in_words
    if ended:
        return True
    equated = not _EQUAL.isdisjoint(statement) and _EQUATED.search(tail) is not None
    if item:
        return equated or _ITEM.match(statement) is not None
    return equated and (not in_words or _EQUATION.match(rest) is not None)


def _opening(pieces: Sequence[str], first: int) -> str:
    """The first words of what follows, whatever marks stand between them."""
    words = (word for i in range(first, len(pieces)) for word in pieces[i].split())
    return " ".join(islice(words, _WORDS))


def _between(before: str, behind: str) -> str:
    """A space, but in scripts that write none."""
    return "" if all(c.isalpha() and c.lower() == c.upper() for c in (before, behind)) else " "
