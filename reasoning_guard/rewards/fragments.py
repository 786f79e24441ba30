"""Remove step marks inside a statement, and filler between its words, before anything is read.

A split puts a mark where nothing ends: "b = 5 ; + 1 = 6". To a reader that is another text, which it may like better.
So whether a mark is read depends on the words around it, not on the mark. A mark is read where a sentence or an
equation has come to its end and something else begins. Elsewhere fragments are joined again, and what was split reads
as it did before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from reasoning_guard.formats import TraceFormat
from reasoning_guard.reader import TraceReader
from reasoning_guard.traces import Trace

_SENTENCE_ENDED = re.compile(r"[.!?:;…。！？：；][\"'”’»)\]}*_`$|]*\Z")  # noqa: RUF001
_OPEN = re.compile(
    r"(?:[-−+*/×÷·^=≈<>≤≥,(\[{]|\b(?:an?|and|are|at|be|by|equals|for|from|has|have|if|in|is|of|on|or|per|so|than|"
    r"that|the|then|to|was|were|will|with|x))\Z"
)
"""How no statement ends: with an operator, or (in English) with a word that leads to another."""
_EQUAL = frozenset("=≈<>≤≥")
_EQUATED = re.compile(r"(?:\d[\w.,/]*|\b[^\W\d_]|[)\]}])[%°$€£*_`|]*(?:\s[^\W\d_]+){0,2}[%°$€£*_`|]*\Z")
"""How an equation's last side ends: a number or a symbol, perhaps with a unit."""
_GOES_ON = re.compile(r"[=≈,/×÷·^%)\]}]|[-−+*]\s*(?:[$€£(]*\d[^\s=]*|[^\W\d_])\s*(?:[-−+*/×÷=]|\Z)")
"""A statement never begins like this; "- 3 apples" is an item of a list, "- 3 = 2" goes on with a calculation."""
_ITEM = re.compile(r"(?:[-−+*•#>]+|\(?\w{1,2}[.)]|\|)\s")
_EQUATION = re.compile(r"[^\W\d_]\w*(?:\s\w+){0,3}\s*[=≈<>≤≥]")
_OPERATOR = re.compile(r"[-−+*/×÷·^=≈]")
_LIKE_BEFORE, _LIKE_BEHIND = re.compile(r"[-−+*/×÷·^=≈,]\s*\Z"), re.compile(r"\s*[-−+*/×÷·^=≈,]")
_SAYS_NOTHING = re.compile(r"[\s.…;,!?:*_~|>#–—-]*")
_PROSE = re.compile(r"[^\W\d_]{2,}")
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, Kana and Han write no spaces between words."""
_WORDS, _HEAD, _TAIL = 6, 20, 80
"""Words behind a mark, and characters at both ends of what stands before it, that are looked at."""


def mended(text: str, format: TraceFormat) -> str:
    r"""Remove marks inside statements and filler between words from a reasoning.

    What is decided at a place depends only on the words: those since the last mark that was read, and those behind the
    place. So texts that differ only in marks between the words of a statement come out the same.

    Args:
        text: A reasoning, or a part of one that begins with a step.
        format: Says where steps end, and what filler is.

    Returns:
        The text; an ordinary one comes back as it is. The time is linear in its length.

    Example:
        >>> hashes = TraceFormat(name="hashes", cue="#", step_end=r";", answer=r"# (\S+)")
        >>> mended("b = 5 ; + 1 = 6 ; c = ... 6 * ; 2 = 1 ;", hashes)
        'b = 5 + 1 = 6 ; c = 6 * 2 = 1 ;'
    """
    pieces, marks = _taken_apart(_without_filler(text, format), format)
    out, statement = [pieces[0]], _Statement.of(pieces[0])
    for i, piece in enumerate(pieces[1:], start=1):
        rest = _opening(pieces, i)
        if statement.ends(marks[i - 1].strip(), rest):
            out += [marks[i - 1], piece]
            statement = _Statement.of(piece)
        else:
            between = _between(out[-1].rstrip()[-1:], rest[:1])
            out[-1:] = [out[-1].rstrip(), between, piece.lstrip()]
            statement = statement.joined(between, piece)
    return _without_filler("".join(out) + marks[-1], format)


def unbroken(trace: Trace, reader: TraceReader) -> Trace:
    """Return the trace with its reasoning :func:`mended`.

    Args:
        trace: A trace.
        reader: The reader that read it.

    Returns:
        The trace as it came, with its own token ids, if nothing had to be mended or the tokenizer cannot write the
        mended text. Otherwise a trace of the mended text, tokenised again from the first place that differs.
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


@dataclass(frozen=True, slots=True)
class _Statement:
    """What has been said since the last mark that was read: how it begins and ends, and whether it equates anything."""

    head: str
    tail: str
    equal: bool

    @classmethod
    def of(cls, piece: str) -> _Statement:
        said = piece.strip()
        return cls(said[:_HEAD], said[-_TAIL:], not _EQUAL.isdisjoint(said))

    def joined(self, between: str, piece: str) -> _Statement:
        more = _Statement.of(piece)
        head = self.head if len(self.head) == _HEAD else (self.head + between + more.head)[:_HEAD]
        return _Statement(head, (self.tail + between + more.tail)[-_TAIL:], self.equal or more.equal)

    def ends(self, mark: str, rest: str) -> bool:
        """Whether it ends here: nothing is open before the mark, and what follows does not go on with it."""
        if not rest:
            return True
        item, in_words = _ITEM.match(rest) is not None, rest[0].islower()
        ended = _SENTENCE_ENDED.search(self.tail) is not None
        if item and (ended or rest[0] == self.head[:1]):
            return True
        if _GOES_ON.match(rest) or _OPEN.search(self.tail):
            return False
        if mark[:1] in {".", "!", "?"}:
            return item or not in_words
        if ended or (self.tail[-1:].isdigit() and rest[0].isdigit()):
            return True
        equated = self.equal and _EQUATED.search(self.tail) is not None
        if item:
            return equated or _ITEM.match(self.head) is not None
        return equated and (not in_words or _EQUATION.match(rest) is not None)


def _without_filler(text: str, format: TraceFormat) -> str:
    """Without dots that stand for themselves in the middle of a line, and without the format's own filler.

    Dots between two operators or commas stand for terms that are left out ("1 + ... + 9"), and stay.
    """
    own = format.filler.strip()
    words = r"(?:\.{2,}|…+" + (f"|{re.escape(own)})" if own else ")")

    def without(match: re.Match[str]) -> str:
        before, behind = text[max(0, match.start() - _TAIL) : match.start()], text[match.end() : match.end() + _TAIL]
        return match.group() if _LIKE_BEFORE.search(before) and _LIKE_BEHIND.match(behind) else ""

    return re.sub(rf"(?<!\S){words}(?:[^\S\n]+{words})*(?!\S)[^\S\n]?", without, text)


def _taken_apart(text: str, format: TraceFormat) -> tuple[list[str], list[str]]:
    """What is said, and the marks behind it; pieces that say nothing new are part of the mark."""
    pieces: list[str] = []
    marks: list[str] = []
    seen: set[str] = set()
    last, between = 0, ""
    for match in [*re.finditer(format.step_end, text), None]:
        if match is not None and match.start() == match.end():
            continue
        piece = text[last : match.start() if match else len(text)]
        if _says_something(piece, seen):
            if pieces:
                marks.append(between)
            pieces.append(piece if pieces else between + piece)
            between = ""
        else:
            between += piece
        between += match.group() if match else ""
        last = match.end() if match else last
    return (pieces or [""]), [*marks, between]


def _says_something(piece: str, seen: set[str]) -> bool:
    """Whether a piece says anything that was not said in the same words; short ones may recur."""
    bare = piece.strip()
    if _SAYS_NOTHING.fullmatch(bare) and not _OPERATOR.fullmatch(bare):
        return False
    words = " ".join(bare.casefold().split())
    told = words in seen
    if len(_PROSE.findall(words)) >= 4:
        seen.add(words)
    return not told


def _opening(pieces: Sequence[str], first: int) -> str:
    """The first words of what follows, whatever marks stand between them."""
    words = (word for i in range(first, len(pieces)) for word in pieces[i].split())
    return " ".join(islice(words, _WORDS))


def _between(before: str, behind: str) -> str:
    """A space, but in scripts that write none."""
    written = before + behind
    return "" if _NO_SPACES.search(written) and all(c.isalnum() for c in written) else " "
