from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from transformers import PreTrainedTokenizerFast

from reasoning_guard.tokens import TokenText, token_ends, windowed_ends
from tokenizers_on_the_spot import SUBWORD, arithmetic_lines, greedy_style, word_level

FAMILIES = {**SUBWORD, "greedy": greedy_style}
TEXTS = [
    "She has 3 + 4 = 7 eggs.\n\nThen 7 * 2 = 14.",
    " leading space, trailing space ",
    "emoji 😀👩‍👩‍👧 Ünïcödé 漢字 ½ 🤖🤖",
    "<think>\nSo 3/4.\n</think>\n\nThe answer is 18.",
    "",
]


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return FAMILIES[request.param]()


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decoded_prefixes(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int | None]:
    """The plain way: decode every prefix in full; a prefix that ends in a replacement mark ends inside a character."""
    texts = [tokenizer.decode(ids[:i], skip_special_tokens=False) for i in range(len(ids) + 1)]
    return [None if new.endswith("\ufffd") or new == old else len(new) for old, new in pairwise(texts)]


@pytest.mark.parametrize("text", TEXTS)
def test_ends_are_those_of_decoding_every_prefix(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = encode(tokenizer, text)
    decoded, ends = token_ends(tokenizer, ids)
    assert decoded == tokenizer.decode(ids)
    assert list(ends) == decoded_prefixes(tokenizer, ids)


@pytest.mark.parametrize("text", TEXTS)
def test_the_window_agrees_with_the_stream(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = encode(tokenizer, text)
    assert windowed_ends(tokenizer, ids) == token_ends(tokenizer, ids)


def test_any_ids_in_any_order_have_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    for _ in range(20):
        ids = [rng.randrange(len(tokenizer)) for _ in range(60)]
        text, ends = token_ends(tokenizer, ids)
        known = [end for end in ends if end is not None]
        assert len(ends) == len(ids)
        assert known == sorted(known)
        assert not known or known[-1] <= len(text)


def test_a_character_that_is_never_finished_ends_nowhere(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = encode(tokenizer, "14 🤖")[:-1]
    text, ends = token_ends(tokenizer, ids)
    assert text.startswith("14")
    assert ends[-1] is None


def test_special_tokens_stay_in_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [*encode(tokenizer, "7."), tokenizer.eos_token_id, *encode(tokenizer, "8")]
    text, ends = token_ends(tokenizer, ids)
    assert tokenizer.eos_token in text
    assert ends[-1] == len(text)


def test_words_are_joined_by_spaces() -> None:
    tokenizer = word_level()
    text, ends = token_ends(tokenizer, encode(tokenizer, "b = 3 + 4 = 7 ; # 7"))
    assert text == "b = 3 + 4 = 7 ; # 7"
    assert ends == (1, 3, 5, 7, 9, 11, 13, 15, 17, 19)


@pytest.mark.parametrize("ends_of", [token_ends, windowed_ends])
def test_sixteen_thousand_tokens_cost_no_more_each_than_one_thousand(ends_of) -> None:
    tokenizer = SUBWORD["gpt2"]()
    ids = (encode(tokenizer, "".join(arithmetic_lines(120)) + "😀") * 4)[:16_000]
    assert len(ids) == 16_000

    def seconds_per_token(n: int) -> float:
        start = time.process_time()
        ends_of(tokenizer, ids[:n])
        return (time.process_time() - start) / n

    seconds_per_token(1000)
    assert seconds_per_token(16_000) < 6 * min(seconds_per_token(1000) for _ in range(3))


def test_places_between_tokens() -> None:
    tokenizer = SUBWORD["llama3"]()
    tokens = TokenText.of(tokenizer, encode(tokenizer, "7 eggs.\n\nThen 🤖."))
    full_stop = tokens.text.index(".") + 1
    assert tokens.length(tokens.before(full_stop)) == len("7 eggs")
    assert tokens.length(tokens.behind(full_stop)) == len("7 eggs.\n\n")
    assert tokens.length(tokens.cut(full_stop)) == len("7 eggs.\n\n")
    inside = tokens.text.index("en")
    assert tokens.length(tokens.cut(inside)) == len("7 eggs.\n\n")
    assert (tokens.before(0), tokens.behind(0), tokens.behind(10_000)) == (0, 0, tokens.tokens[-1])
