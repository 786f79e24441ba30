"""Odd traces are not numbers, for a reason."""

from __future__ import annotations

import math

import pytest

from probing import (
    rows_of,
    stranger,
    trace_of,
)
from reasoning_guard.probes import (
    AccuracyProbe,
    EarlyAnsweringProbe,
    InfoGainProbe,
    MistakeProbe,
    default_probes,
)
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from tiny_models import tiny_model
from tokenizers_on_the_spot import qwen2_style

NAMES = ("prior", "posterior", "info_gain", "info_gain_share", "info_gain_ppl", "info_gain_watermark", "entropy_gain")

CALIBRATION = {"confidence", "brier", "overconfidence"}
NEEDS_REFERENCE = {"accuracy", *NAMES, "pre_commitment", "placebo_gain", "filler_gain", *CALIBRATION}
NEEDS_ANSWER = {"early_answering_aoc", "answered_at", "placebo_changed", "filler_changed", "mistake_changed"}
NEEDS_ANSWER |= {"mistake_followed", "links_followed", "answer_link", "chain_holds", *CALIBRATION}
OF_THEIR_OWN = ("gives another answer", "stand by it", "repeats an earlier result", "no other number")
NEEDS_ENTROPIES = {"token_entropy", "forking_share"}
ODD = {
    "no answer": (trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ;"), NEEDS_ANSWER),
    "cut off": (trace_of("b = 3 + 4 = 7 ; c = 7 +", finished=False), NEEDS_ANSWER),
    "no reference": (trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9", None), NEEDS_REFERENCE),
    "no reasoning": (trace_of("# 9"), {"info_gain_ppl"}),
    "no reasoning, no reference": (trace_of("# 9", None), NEEDS_REFERENCE),
    "empty": (trace_of(""), {*NEEDS_ANSWER, "info_gain_ppl", "hedges_per_1000", "surprise"}),
    "empty, no reference": (trace_of("", None), {*NEEDS_ANSWER, *NEEDS_REFERENCE, "hedges_per_1000", "surprise"}),
    "answer twice": (trace_of("b = 3 + 4 = 7 ; # 7 ; c = 7 + 2 = 9 ; # 9"), set()),
    "dots": (trace_of("... " * 30), NEEDS_ANSWER),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_traces_are_not_numbers_for_a_reason(name: str) -> None:
    trace, expected = ODD[name]
    donors = [trace_of("b = 3 + 4 = 7 ; # 4", "4", "1 : a = 3 ; ?", id="d"), trace_of("b = 2 ; # 5", "5", "2", id="e")]
    row, *_ = rows_of(stranger(), [trace, *donors], *default_probes(), reference=stranger(seed=1))
    assert {n for probe in default_probes() for n in probe.names} <= {n.removeprefix("reference/") for n in row.values}
    missing = {n for n, value in row.values.items() if not math.isfinite(value)}
    assert missing == set(row.reasons), "not a number exactly where there is a reason"
    assert all(row.reasons.values())
    missing = {n.removeprefix("reference/") for n in missing} - NEEDS_ENTROPIES
    # A random model does not stand by its answer, odd text has no links: unscored for reasons of their own.
    allowed = {n for n in missing if any(why in row.reasons.get(n, "") for why in OF_THEIR_OWN)}
    assert expected <= missing <= expected | allowed | {"mistake_changed", "mistake_followed"}


def test_an_unclosed_think_tag_is_unscored_where_an_answer_is_needed() -> None:
    tokenizer = qwen2_style()
    reader = TraceReader(tokenizer, "think")
    model = tiny_model("qwen3", vocab_size=len(tokenizer))
    problem = Problem(prompt="How many eggs?\n", answer="7")
    trace = reader.read(problem, tokenizer("<think>\nSo 3 + 4 = 7 eggs.\nThen 7 * 2")["input_ids"], finished=False)
    assert "unclosed reasoning" in trace.notes
    [row] = rows_of(
        model, [trace], AccuracyProbe(), InfoGainProbe(), EarlyAnsweringProbe(), MistakeProbe(), reader=reader
    )
    assert (row.values["accuracy"], row.values["answered"]) == (0, 0)
    assert math.isfinite(row.values["info_gain"])
    for missing in ("early_answering_aoc", "answered_at", "mistake_changed"):
        assert math.isnan(row.values[missing])
        assert "no answer" in row.reasons[missing]


def test_a_right_answer_and_a_wrong_one() -> None:
    right, wrong = rows_of(stranger(), [trace_of("b = 1 ; # 9"), trace_of("b = 1 ; # 8")], AccuracyProbe())
    assert right.values == {"accuracy": 1, "answered": 1}
    assert wrong.values == {"accuracy": 0, "answered": 1}
