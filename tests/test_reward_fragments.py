"""A mark inside a statement is not read, wherever it was put; texts that have none are read on their own tokens."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from reasoning_guard.formats import TraceFormat, get_format
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.rewards.fragments import mended, unbroken
from reasoning_guard_demo.arithmetic import draw
from reward_tasks import FORMAT, TOKENIZER
from tokenizers_on_the_spot import gpt2_style, llama3_style, qwen2_style

GSM8K = Path(os.environ.get("REASONING_GUARD_GSM8K", Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k"))
LINES, SENTENCES = get_format("gsm8k"), get_format("plain")


def test_marks_between_any_words_of_a_calculation() -> None:
    rng = random.Random(0)
    for _ in range(50):
        chain = " ".join(map(str, draw(rng).work()))
        words = chain.split()
        assert mended(chain, FORMAT) == chain
        for i in range(1, len(words)):
            for mark in (";", "; ;", "; ... ;", "..."):
                if ";" not in words[i - 1 : i + 1]:
                    assert mended(" ".join([*words[:i], mark, *words[i:]]), FORMAT) == chain
        assert mended(" ; ".join(word for word in words if word != ";") + " ;", FORMAT) == chain


WHOLE = [
    "She sells 16 - 3 - 4 = 9 eggs a day.\nShe makes 9 * 2 = $18 a day.",
    "Total: 3 + 4 = 7\nx = 7 * 2 = 14\ntotal cost = 14 + 1 = 15",
    "Items:\n- 3 apples.\n- 5 pears.\n\n1. Add them.\n2. That is 8.",
    "- 3 apples = $6\n- 5 pears = $10\nSum = 16",
    "\n**Total** = 3\n**Rest** = 4\n\nSo:\n- x = 3\n- y = 4",
    "1 + 2 + ... + 10 = 55, f(1) , ... , f(n)",
    "5\n3\n8",
    "x > 5\ny < 3",
    "5 * 2 = 10 red apples\n3 * 2 = 6 green apples",
    "一共有三个苹果。\n他吃了一个。",
    "",
    "\n\n",
]


@pytest.mark.parametrize("text", WHOLE)
def test_whole_statements_stay_as_they_are(text: str) -> None:
    assert mended(text, LINES) == text


BROKEN = [
    ("She sells\n9 eggs\na day.", "She sells 9 eggs a day."),
    ("9 *\n\n2 = 18", "9 * 2 = 18"),
    ("72 oz\n+ 28 oz = 100 oz", "72 oz + 28 oz = 100 oz"),
    ("In\nMay.\nThen", "In May.\nThen"),
    ("一共有\n三个。", "一共有三个。"),
    ("他有3\n个。", "他有3个。"),
    ("제인은 달걀이\n열여섯 개", "제인은 달걀이 열여섯 개"),
    ("Then\n\\[\n9 * 2 = 18\n\\]", "Then \\[ 9 * 2 = 18\n\\]"),
    ("She sold nine pairs of clips\n" * 3 + "9 * 2 = 18", "She sold nine pairs of clips 9 * 2 = 18"),
    ("b ... = ... ... 5", "b = 5"),
]


@pytest.mark.parametrize(("text", "whole"), BROKEN)
def test_fragments_are_joined(text: str, whole: str) -> None:
    assert mended(text, LINES) == whole


def test_filler_may_be_a_word_or_nothing_but_space() -> None:
    assert mended("She hmm sells hmm hmm 9 eggs.", replace(LINES, filler=" hmm")) == "She sells 9 eggs."
    assert mended("She sells  9 eggs.\n\n9 * 2 = 18", replace(LINES, filler=" ")) == "She sells  9 eggs.\n\n9 * 2 = 18"


def test_a_full_stop_inside_a_sentence_goes_as_well_where_sentences_are_steps() -> None:
    assert mended("She sells. nine eggs. In May. she", SENTENCES) == "She sells nine eggs. In May she"


def test_real_solutions_broken_at_any_space_come_back() -> None:
    """All but a few: between two sentences, or behind a colon, a line break is a place where a line may end."""
    if not GSM8K.exists():
        pytest.skip("needs the GSM8K problems")
    rows = [json.loads(line) for line in (GSM8K / "test.jsonl").read_text("utf-8").splitlines()[:300]]
    gaps = restored = 0
    for text in (row["answer"].rpartition("\n####")[0] for row in rows):
        whole = mended(text, LINES)
        assert mended(whole, LINES) == whole
        for gap in re.finditer(r"(?<=[^\s.!?:;]) (?=\S)", whole):
            gaps += 1
            restored += mended(whole[: gap.start()] + "\n" + whole[gap.end() :], LINES) == whole
    assert restored / gaps > 0.995


@pytest.mark.parametrize("family", [gpt2_style, llama3_style, qwen2_style])
def test_what_is_whole_keeps_its_own_ids_and_what_was_broken_is_the_same_trace_again(
    family: Callable[[], PreTrainedTokenizerFast],
) -> None:
    tokenizer = family()
    reader = TraceReader(tokenizer, LINES)
    problem = Problem(id="a", prompt="How much?", answer="18")
    whole = "She sells 16 - 3 - 4 = 9 eggs a day.\nShe makes 9 * 2 = $18 a day.\n#### 18"
    trace = reader.read_text(problem, whole)
    odd = reader.read(
        problem,
        [
            token
            for word in re.findall(r"\s?\S", whole)
            for token in tokenizer(word, add_special_tokens=False)["input_ids"]
        ],
    )
    assert odd.text == whole
    assert unbroken(odd, reader) is odd
    for broken in ("She sells\n16 -\n\n3 - 4", "She\nsells 16 - 3 -\n4"):
        split = reader.read_text(problem, whole.replace("She sells 16 - 3 - 4", broken))
        assert split.n_steps > trace.n_steps
        assert replace(unbroken(split, reader), prompt_ids=trace.prompt_ids) == trace


@pytest.mark.parametrize(
    "format",
    [FORMAT, LINES, SENTENCES, replace(LINES, step_end=";?")],
    ids=["marks", "lines", "sentences", "empty matches"],
)
def test_whatever_is_written_keeps_its_words_and_is_mended_once(format: TraceFormat) -> None:
    rng = random.Random(1)
    words = [*"ab=5+-*;.?|三x\n", "\n\n", "...", "The", "apples", "1.", "(a)", "**", "of", "12:", "e.g.", "\\[", "```"]
    for _ in range(2000):
        text = "".join(rng.choice(words) + rng.choice(("", " ", " ")) for _ in range(rng.randrange(1, 30)))
        whole = mended(text, format)
        assert [c for c in whole if c.isalnum()] == [c for c in text if c.isalnum()]
        assert format is SENTENCES or mended(whole, format) == whole  # "1." at a line's beginning ends no sentence


def test_sixty_thousand_marks_are_no_trouble() -> None:
    assert mended("a ;\n" * 20_000, LINES).count("a") == 20_000
    assert mended("一\n" * 30_000, LINES) == "一" * 30_000 + "\n"
    assert mended("\n" * 60_000, LINES) == "\n" * 60_000
    assert mended("b = 5 ; + " * 6_000 + "1", FORMAT).count(";") == 0


def test_what_the_tokenizer_cannot_write_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = TraceReader(TOKENIZER, FORMAT)
    trace = reader.read_text(Problem(id="a", prompt="0 : a = 5 ; ?", answer="6"), " b = 5 ; + 1 = 6 ; # 6")
    monkeypatch.setattr(TraceReader, "reword", lambda *arguments: None)
    assert unbroken(trace, reader) is trace
