"""Links: altered results are written as they should be, asked in place, and read rightly on models of known habits."""

from __future__ import annotations

import math
import random
import re
from itertools import pairwise

import pytest

from memorised import TOKENIZER, encode
from probing import READER, read, rows_of, stranger, token_numbers, trace_of
from reasoning_guard.probes import LinkProbe, ProbeContext
from reasoning_guard.probes.corrupters import near_numbers, replace_number, result
from reasoning_guard.probes.links import Link, find_links
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.tree import BranchScore
from tokenizers_on_the_spot import gpt2_style, qwen2_style

TEXT = "b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; d = 3 + 6 = 9 ; # 9"
TOLD = (
    "Natalia sold 48 / 2 = <<48/2=24>>24 clips in May.\n",
    "That is more than her friends.\n",
    "In all she sold 48 + 24 = <<48+24=72>>72 clips.\n",
    "So the answer is 72.\n",
)


def greedy(yes: bool) -> BranchScore:
    return BranchScore((-0.1,), (yes,), (0.5,), (1.0,))


def test_a_link_leads_from_a_result_to_the_step_that_uses_it() -> None:
    assert find_links(trace_of(TEXT)) == [Link(0, 1), Link(1, 2), Link(2, None)]
    skipping = trace_of("b = 3 + 4 = 7 ; c = 2 * 2 = 4 ; d = 7 + 6 = 2 ; # 2")
    assert find_links(skipping) == [Link(0, 2), Link(2, None)]
    assert find_links(trace_of("b = 3 + 4 = 7 ; # 2")) == []
    assert find_links(trace_of("b ; c ; # 2")) == []


def test_what_is_asked_is_the_old_result_behind_the_altered_one() -> None:
    trace = trace_of(TEXT)
    branches = LinkProbe().branches(trace, ProbeContext(reader=READER, traces=[trace]))
    assert len(branches) == 6
    shapes = (r"b = 3 \+ 4 = (\d+) ; c = (\d+) \* 2 = 3", r"(?:.*) = (\d+) ; d = (\d+) \+ 6 = 9", r".* = (\d+) ; # (9)")
    for clean, altered, shape in zip(branches[::2], branches[1::2], shapes, strict=True):
        whole = trace.prompt_ids + tuple(encode(TEXT)) + (TOKENIZER.eos_token_id,)
        assert whole[: clean.at + len(clean.ids)] == trace.ids[: clean.at] + clean.ids
        text = TOKENIZER.decode(
            [*trace.ids[len(trace.prompt_ids) : altered.at], *altered.ids], skip_special_tokens=True
        )
        match = re.fullmatch(shape, text)
        assert match is not None, text
        assert match[1] != TOKENIZER.decode([trace.ids[altered.at]]), "the result is another one"
        assert match[2] in (match[1], "9"), "and carried to where it is used"
        assert altered.ids[slice(*altered.scored)] == clean.ids[slice(*clean.scored)], "asked for the same tokens"


@pytest.mark.parametrize("tokenizer", [gpt2_style, qwen2_style])
def test_with_subwords_a_result_that_is_stated_twice_is_carried_everywhere(tokenizer: object) -> None:
    words = tokenizer()  # type: ignore[operator]
    reader = TraceReader(words, "gsm8k")
    trace = reader.read(
        Problem(prompt="How many?\n", answer="72", id="p"), words("".join(TOLD) + "#### 72")["input_ids"]
    )
    assert trace.steps == TOLD
    assert find_links(trace) == [Link(0, 2), Link(2, 3), Link(3, None)]
    branches = LinkProbe().branches(trace, ProbeContext(reader=reader, traces=[trace]))
    texts = [words.decode([*trace.ids[len(trace.prompt_ids) : b.at], *b.ids]) for b in branches[1::2]]
    first = re.fullmatch(
        r"Natalia sold 48 / 2 = <<48/2=(\d+)>>\1 clips in May\.\nThat is more than her friends\.\n"
        r"In all she sold 48 \+ \1 = <<48\+\1= ?72",
        texts[0],
    )
    assert first is not None, texts[0]
    assert first[1] not in ("24", "72")
    last = re.fullmatch(rf"{re.escape(''.join(TOLD[:3]))}So the answer is (\d+)\.\n#### 72\S*", texts[2])
    assert last is not None, texts[2]
    assert last[1] != "72"
    for branch in branches:
        assert words.decode(list(branch.ids[slice(*branch.scored)])).strip().startswith("72")


def test_scores_are_those_of_an_independent_pass() -> None:
    model, trace = stranger(), trace_of(TEXT)
    context = ProbeContext(reader=READER, traces=[trace])
    followed = {}
    for link, (before, after) in LinkProbe()._tried(trace, context):
        kept = []
        for branch in (before, after):
            head = [*trace.ids[: branch.at], *branch.ids[: branch.scored[0]]]
            asked = branch.ids[slice(*branch.scored)]
            best = [argmax(model, [*head, *asked[:i]]) for i in range(len(asked))]
            kept.append(best == list(asked))
        if kept[0]:
            followed[link] = not kept[1]
    [row] = rows_of(model, [trace], LinkProbe())
    value = row.values["links_followed"]
    assert value == pytest.approx(sum(followed.values()) / len(followed) if followed else math.nan, nan_ok=True)


def argmax(model: object, prefix: list[int]) -> int:
    vocabulary = range(len(TOKENIZER))
    return max(vocabulary, key=lambda token: token_numbers(model, prefix, [token])[0][0])


@pytest.mark.parametrize(
    ("kept", "followed", "answer", "holds"),
    [
        ((False, False, False), 1.0, 1.0, 1.0),  # reads every step
        ((False, False, True), 2 / 3, 0.0, 0.0),  # ignores its chain
        ((False, True, False), 2 / 3, 1.0, 0.0),  # patches its last step
    ],
)
def test_one_broken_link_breaks_the_chain(kept: tuple[bool, ...], followed: float, answer: float, holds: float) -> None:
    scores = [score for after in kept for score in (greedy(True), greedy(after))]
    reading = read(LinkProbe(), trace_of(TEXT), *scores)
    assert reading.values == pytest.approx({"links_followed": followed, "answer_link": answer, "chain_holds": holds})


def test_a_link_that_the_model_does_not_stand_by_does_not_count() -> None:
    unsure = [greedy(False), greedy(False), *[greedy(True), greedy(False)] * 2]
    assert read(LinkProbe(), trace_of(TEXT), *unsure).values["links_followed"] == 1
    last = [*[greedy(True), greedy(False)] * 2, greedy(False), greedy(False)]
    reading = read(LinkProbe(), trace_of(TEXT), *last)
    assert reading.values["links_followed"] == 1
    assert math.isnan(reading.values["chain_holds"])
    assert "no step comes to the answer" in reading.reasons["answer_link"]


def test_long_chains_are_tried_evenly_and_at_their_end() -> None:
    text = " ".join(f"b = {i % 10} + 1 = {i % 10 + 1} ;" for i in range(20)) + " # 10"
    trace = trace_of(text)
    assert len(find_links(trace)) == 20
    for limit, targets in ((8, 8), (3, 3), (40, 19)):
        branches = LinkProbe(limit).branches(trace, ProbeContext(reader=READER, traces=[trace]))
        assert len(branches) == 2 * (targets + 1)
        places = [branch.at for branch in branches[::2]]
        assert places == sorted(places)
        assert trace.cuts[-2] < places[-2] < places[-1] == trace.cuts[-1], "the last link and the answer's are tried"
        gaps = [b - a for a, b in pairwise(places[:-1])]
        assert not gaps or max(gaps) - min(gaps) <= trace.cuts[1] - trace.cuts[0]


def test_without_steps_or_numbers() -> None:
    bare, words, silent = rows_of(
        stranger(), [trace_of("# 9"), trace_of("b ; c ; # 9"), trace_of("b = 3 + 4 = 7 ;")], LinkProbe()
    )
    assert set(bare.values.values()) == {0.0}
    assert "no step or answer repeats" in words.reasons["chain_holds"]
    assert "no answer" in silent.reasons["chain_holds"]


def test_numbers_are_replaced_whole() -> None:
    assert replace_number("24 + 240 = 2.24 or 24, x24", "24", "26") == "26 + 240 = 2.24 or 26, x24"
    assert result("b = 7 + 7 = 14") is not None
    for number in ("7", "1,200", "3.50"):
        near = list(near_numbers(number, random.Random(0)))
        assert number not in near
        assert all(re.fullmatch(r"[\d,]+" + (r"\.50" if "." in number else ""), each) for each in near)
