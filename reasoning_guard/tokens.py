"""Find where every token ends in the text, from the ids themselves.

A completion's own ids are never tokenised again. Encoding the decoded text may give other ids, whose score would be a
score of something that the model did not write.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no character (yet)."""

_LONGEST_CHARACTER = 4
"""Tokens that one character can take: UTF-8 has at most four bytes."""


Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenText:
    """A text with the places where it can be cut between two tokens.

    Attributes:
        text: The text of all tokens.
        characters: Number of characters before each place, from 0 on; not decreasing.
        tokens: Number of tokens before each place, from 0 on; increasing. Places inside a character are left out.
    """

    text: str
    characters: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> TokenText:
        """Return the text of ``ids``."""
        text, ends = token_ends(tokenizer, ids)
        places = [(0, 0), *((end, i) for i, end in enumerate(ends, start=1) if end is not None)]
        characters, tokens = zip(*places, strict=True)
        return cls(text, characters, tokens)

    def before(self, character: int) -> int:
        """Count the tokens up to the last place at or before ``character``."""
        return self.tokens[bisect_right(self.characters, character) - 1]

    def behind(self, character: int) -> int:
        """Count the tokens up to the first place at or behind ``character``, or up to the last place."""
        return self.tokens[min(bisect_left(self.characters, character), len(self.tokens) - 1)]

    def cut(self, character: int) -> int:
        """Count the tokens of what ends at ``character``.

        That is up to the last place at or before it, or to the next one if there is only white space between, because a
        newline often shares a token with the full stop before it.
        """
        place = bisect_right(self.characters, character)
        inside = self.characters[place - 1] < character and place < len(self.characters)
        if inside and not self.text[character : self.characters[place]].strip():
            return self.tokens[place]
        return self.tokens[place - 1]

    def length(self, tokens: int) -> int:
        """Count the characters of the first ``tokens`` tokens, which must end at a place."""
        return self.characters[bisect_left(self.tokens, tokens)]


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, tuple[int | None, ...]]:
    """Return the text of ``ids`` and how much of it is complete after each token; linear in the number of ids.

    Args:
        tokenizer: A fast or slow tokenizer.
        ids: ``n`` token ids.

    Returns:
        The decoded text (special tokens kept, nothing cleaned up) and ``n`` character counts. An entry is None if the
        token ends inside a character, as the first tokens of many emoji do, or adds no text.
    """
    text = decode(tokenizer, ids)
    ends = streamed_ends(tokenizer, ids, text) if tokenizer.is_fast else None
    return (text, ends) if ends is not None else windowed_ends(tokenizer, ids)


def streamed_ends(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int | None, ...] | None:
    """Find ends by the tokenizers library's streaming decoder; None if it disagrees with the full decode."""
    stream, backend = DecodeStream(skip_special_tokens=False), tokenizer.backend_tokenizer
    pieces: list[str] = []
    ends: list[int | None] = []
    position = 0
    for token in ids:
        try:
            piece = stream.step(backend, token)
        except Exception:  # the library's own, raised on bytes that are no text; it has no class to name
            return None
        if piece is not None:
            pieces.append(piece)
            position += len(piece)
        ends.append(None if piece is None else position)
    same = text.startswith("".join(pieces)) and not text[position:].strip(REPLACEMENT)
    return tuple(ends) if same else None


def windowed_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, tuple[int | None, ...]]:
    """Find ends by decoding a short window that slides with the last complete token.

    The window opens one token early, because decoders treat the first token of a sequence differently (a leading space
    is stripped). What that token decodes to on its own is subtracted.
    """
    pieces: list[str] = []
    ends: list[int | None] = []
    early = done = position = 0
    for stop in range(1, len(ids) + 1):
        known, window = decode(tokenizer, ids[early:done]), decode(tokenizer, ids[early:stop])
        unfinished = len(window) <= len(known) or window.endswith(REPLACEMENT)
        complete = not unfinished or stop - done >= _LONGEST_CHARACTER
        if complete:
            pieces.append(window[len(known) :])
            position += len(pieces[-1])
            early, done = done, stop
        ends.append(position if complete else None)
    if done < len(ids):
        pieces.append(decode(tokenizer, ids[early:])[len(decode(tokenizer, ids[early:done])) :])
    return "".join(pieces), tuple(ends)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of ``ids``, special tokens kept, nothing cleaned up."""
    text: Any = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False) -> Ids:
    """Return the token ids of ``text``."""
    return tuple(cast("list[int]", tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]))


def encode_after(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> Ids | None:
    """Return the token ids of ``text`` behind ``before``; None if a token would reach over the seam.

    Behind a text, no tokenizer adds the leading space that SentencePiece puts before a first word.
    """
    known = encode(tokenizer, before)
    joint = encode(tokenizer, before + text)
    return joint[len(known) :] if joint[: len(known)] == known else None


def common_prefix(one: Sequence[int] | str, other: Sequence[int] | str) -> int:
    """Count the ids (or characters) with which both begin."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
