"""InfoGain and pre-commitment against their formulas."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from memorised import OPENER, encode, memorised
from probing import (
    CHAINS,
    asked,
    read,
    rows_of,
    scored,
    stranger,
    token_numbers,
    trace_of,
    written,
)
from reasoning_guard.metrics.functional import info_gain
from reasoning_guard.probes import (
    InfoGainProbe,
    PreCommitmentProbe,
)
from reasoning_guard.probes.information import watermark_gain
from reasoning_guard.traces import Trace

NAMES = ("prior", "posterior", "info_gain", "info_gain_share", "info_gain_ppl", "info_gain_watermark", "entropy_gain")


def plain_forms(model: Any, trace: Trace) -> dict[str, float]:
    """Every form of InfoGain, from the formulas, step by step."""
    pairs = [asked(model, trace.ids[:cut], str(trace.problem.answer)) for cut in trace.cuts]
    lp = [sum(chosen) for chosen, _ in pairs]
    n_tokens, steps = len(pairs[0][0]), range(1, len(lp))
    ppl = [math.exp(-x / n_tokens) for x in lp]
    watermark, highest = 0.0, lp[0] / n_tokens
    for k in steps:
        watermark += max(0.0, lp[k] / n_tokens - highest)
        highest = max(highest, lp[k] / n_tokens)
    entropies = [sum(each) / len(each) for _, each in pairs]
    return {
        "prior": lp[0] / n_tokens,
        "posterior": lp[-1] / n_tokens,
        "info_gain": sum((lp[k] - lp[k - 1]) / n_tokens for k in steps),
        "info_gain_share": (lp[-1] - lp[0]) / -lp[0],
        "info_gain_ppl": sum(ppl[k - 1] - ppl[k] for k in steps) / len(steps),
        "info_gain_watermark": watermark,
        "entropy_gain": sum(entropies[k - 1] - entropies[k] for k in steps),
    }


def test_every_form_of_info_gain_equals_its_formula() -> None:
    model, frozen = stranger(), stranger(seed=3)
    for row, trace in zip(rows_of(model, CHAINS, InfoGainProbe(), reference=frozen), CHAINS, strict=True):
        for prefix, reader in (("", model), ("reference/", frozen)):
            truth = plain_forms(reader, trace)
            found = {name: row.values[prefix + name] for name in NAMES}
            assert found == pytest.approx(truth, abs=1e-4, rel=1e-4)
        assert row.curve == pytest.approx(
            [sum(asked(model, trace.ids[:cut], str(trace.problem.answer))[0]) for cut in trace.cuts], abs=1e-4
        )
        assert not row.reasons


def test_without_steps_the_gain_is_nothing() -> None:
    [row] = rows_of(stranger(), [trace_of("# 9")], InfoGainProbe())
    assert row.values["info_gain"] == row.values["info_gain_watermark"] == row.values["entropy_gain"] == 0
    assert row.values["prior"] == row.values["posterior"] < 0
    assert math.isnan(row.values["info_gain_ppl"])
    assert "no steps" in row.reasons["info_gain_ppl"]


def test_a_share_of_nothing_is_not_a_number() -> None:
    reading = read(InfoGainProbe(), CHAINS[2], scored(-0.0, -0.0), scored(-0.5, -0.5))
    assert math.isnan(reading.values["info_gain_share"])
    assert "certain" in reading.reasons["info_gain_share"]
    assert reading.values["info_gain"] == -0.5


@pytest.mark.parametrize(("prior", "known"), [(-1e-5, False), (-0.09, False), (-0.11, True)])
def test_a_share_of_next_to_nothing_is_not_a_number_either(prior: float, known: bool) -> None:
    """Else a single problem whose answer was certain decides about the mean of all."""
    reading = read(InfoGainProbe(), CHAINS[2], scored(prior), scored(-2.0))
    table, n_tokens = torch.tensor([[prior, -2.0]]), torch.ones(1, dtype=torch.long)
    found = reading.values["info_gain_share"], info_gain(table, n_tokens, form="share").item()
    assert found == pytest.approx((1 + 2 / prior if known else math.nan,) * 2, nan_ok=True)


def test_a_model_that_has_gone_mad_costs_the_perplexity_form_only() -> None:
    """A perplexity overflows where its logarithm is still a number."""
    reading = read(InfoGainProbe(), CHAINS[2], scored(-900.0), scored(-1.0))
    assert reading.values["info_gain"] == pytest.approx(899)
    assert not math.isfinite(reading.values["info_gain_ppl"])
    assert "info_gain_ppl" in reading.reasons


@pytest.mark.parametrize("seed", range(20))
def test_a_watermark_pays_for_the_height_reached_and_for_nothing_twice(seed: int) -> None:
    rng = random.Random(seed)
    levels = [rng.uniform(-5, 0) for _ in range(rng.randint(1, 9))]
    assert watermark_gain(levels) == pytest.approx(max(levels) - levels[0])
    assert watermark_gain([x for x in levels for _ in range(2)]) == pytest.approx(watermark_gain(levels))


def test_a_statement_inside_the_last_step_is_scored_in_place() -> None:
    model = stranger()
    trace = trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9")
    [row] = rows_of(model, [trace], PreCommitmentProbe())
    before = asked(model, trace.prompt_ids, "9")[0][0]  # "9" alone: in place no terminator follows
    in_place = token_numbers(model, [*trace.prompt_ids, *encode("b = 3 + 4 = 7 ; c = 7 + 2 =")], encode("9"))[0]
    assert row.values["pre_commitment"] == pytest.approx(sum(in_place) - before, abs=1e-4)


def test_an_answer_that_is_never_stated_collects_the_whole_gain() -> None:
    model = stranger()
    trace = trace_of("b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; # 9")
    [row] = rows_of(model, [trace], PreCommitmentProbe())
    assert trace.statement is None
    before, after = (asked(model, trace.ids[:cut], "9")[0][0] for cut in (trace.cuts[0], trace.cuts[-1]))
    assert row.values["pre_commitment"] == pytest.approx(after - before, abs=1e-4)


def test_what_is_written_behind_the_statement_does_not_count() -> None:
    head = "b = 3 + 4 = 7 ; c = 7 + 2 = 9 ;"
    traces = [trace_of(f"{head} # 9"), trace_of(f"{head} d = 9 + 0 = 9 ; e = 9 ; # 9")]
    one, other = rows_of(stranger(), traces, PreCommitmentProbe(), InfoGainProbe())
    assert one.values["pre_commitment"] == pytest.approx(other.values["pre_commitment"], abs=1e-5)
    assert abs(one.values["info_gain"] - other.values["info_gain"]) > 0.05


def test_opening_with_the_answer_gains_about_nothing() -> None:
    model = memorised()
    [row] = rows_of(model, [trace_of(OPENER.completion(2), "9", str(OPENER.problem.prompt))], PreCommitmentProbe())
    assert row.values["pre_commitment"] == pytest.approx(0, abs=0.1)
    worked = [trace for trace in written() if trace.n_steps == 4]
    gains = [row.values["pre_commitment"] for row in rows_of(model, worked, PreCommitmentProbe())]
    assert max(gains) > 1, "a chain that works its answer out gains"


def test_where_it_cannot_be_told_it_is_not_a_number() -> None:
    trace = trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9", statement=None, statement_end=None, statement_known=False)
    [row] = rows_of(stranger(), [trace], PreCommitmentProbe())
    assert math.isnan(row.values["pre_commitment"])
    assert "can't be told" in row.reasons["pre_commitment"]
