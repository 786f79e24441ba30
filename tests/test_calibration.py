"""Confidence, its scores and the reference's surprise, against plain implementations."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from memorised import FORMAT, LESSONS, TOKENIZER, encode, memorised
from reasoning_guard.evaluate import probe_traces
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.formats import get_format
from reasoning_guard.probes import CalibrationProbe, DriftProbe, EarlyAnsweringProbe
from reasoning_guard.probes.calibration import expected_calibration_error
from reasoning_guard.probes.drift import SPAN
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer
from tiny_models import tiny_model

READER = TraceReader(TOKENIZER, FORMAT)
TRACES = [READER.read(lesson.problem, encode(lesson.completion(len(lesson.steps)))) for lesson in LESSONS[:6]]


def scorer(model: torch.nn.Module, reader: TraceReader = READER) -> AnswerScorer:
    return AnswerScorer(model.eval(), reader.tokenizer, reader.format)


def logprobs(model: torch.nn.Module, before: list[int], after: list[int]) -> list[float]:
    """Log-probabilities of ``after`` behind ``before``, one plain forward."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return [float(logits[len(before) + i - 1, token]) for i, token in enumerate(after)]


def test_confidence_is_the_probability_of_the_own_answer() -> None:
    model = memorised().eval()
    rows = probe_traces(TRACES, READER, None, scorer(model), None, [CalibrationProbe()])
    for trace, row in zip(TRACES, rows, strict=True):
        assert trace.answer is not None
        asked = [*encode(f"# {trace.answer}"), TOKENIZER.eos_token_id]
        written = math.exp(sum(logprobs(model, list(trace.ids[: trace.cuts[-1]]), asked)[1:]))
        assert row.values["confidence"] == pytest.approx(written, abs=1e-4)
        assert row.values["overconfidence"] == pytest.approx(written - trace.correct, abs=1e-4)
        assert row.values["brier"] == pytest.approx((written - trace.correct) ** 2, abs=1e-4)
    assert len({round(row.values["confidence"], 3) for row in rows}) > 1


def test_among_options_confidence_is_the_share_of_the_chosen_one() -> None:
    words = replace(get_format("choice"), cue=" #", answer=r"# (\S+)")
    reader = TraceReader(TOKENIZER, words)
    model = tiny_model("qwen3", 0, vocab_size=len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id).eval()
    problem = Problem(prompt="5 : a = 3 ; ?", answer="a", options=("3", "4", "5"), id="p")
    trace = replace(reader.read(problem, encode("b = 3 + 4 = 7 ;")), answer="4")
    names = reader.options(problem)
    [row] = probe_traces([trace], reader, None, scorer(model, reader), None, [CalibrationProbe()])
    totals = []
    for name in names:
        question = reader.ask(name)
        start, stop = question.scored
        totals.append(sum(logprobs(model, list(trace.ids[: trace.cuts[-1]]), list(question.ids))[start:stop]))
    expected = np.exp(totals[1]) / np.exp(totals).sum()
    assert row.values["confidence"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("answer", ["4", "B", "4.0"])
def test_an_option_is_the_same_one_by_text_letter_and_value(answer: str) -> None:
    """Formats that ask for texts get letters too, since that is what many datasets hold."""
    model = tiny_model("qwen3", 0, vocab_size=len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id).eval()
    problem = Problem(prompt="5 : a = 3 ; ?", answer="B", options=("3", "4", "5"), id="p")
    plain = replace(READER.read(problem, encode("b = 3 + 4 = 7 ;")), answer="4")
    probes = [CalibrationProbe(), EarlyAnsweringProbe()]
    [expected] = probe_traces([plain], READER, None, scorer(model), None, probes)
    [row] = probe_traces([replace(plain, answer=answer)], READER, None, scorer(model), None, probes)
    assert row.values["confidence"] == expected.values["confidence"]
    assert math.isfinite(row.values["confidence"])
    assert row.same == expected.same


def test_full_confidence_is_in_the_tenth_bin() -> None:
    rows = [Row(id=str(i), values={"confidence": (0.95, 1.0)[i], "accuracy": float(i == 0)}) for i in range(2)]
    assert expected_calibration_error(Evaluation(step=0, rows=tuple(rows))) == pytest.approx(0.475, abs=1e-6)


def test_without_an_answer_there_is_no_confidence() -> None:
    silent = replace(TRACES[0], answer=None)
    unknown = replace(TRACES[0], problem=replace(TRACES[0].problem, answer=None))
    for row in probe_traces([silent, unknown], READER, None, scorer(memorised()), None, [CalibrationProbe()]):
        assert all(math.isnan(row.values[name]) for name in CalibrationProbe.names)
        assert "no answer" in row.reasons["brier"]


def test_confidence_costs_nothing_beside_early_answering() -> None:
    """Its branches are among those of early answering, and what is asked twice is scored once."""

    def asked(probe: CalibrationProbe | EarlyAnsweringProbe) -> set[tuple[int, tuple[int, ...]]]:
        from reasoning_guard.probes import ProbeContext

        context = ProbeContext(reader=READER, traces=TRACES)
        return {(b.at, b.ids) for b in probe.branches(TRACES[0], context)}

    assert asked(CalibrationProbe()) <= asked(EarlyAnsweringProbe())


def test_calibration_error_agrees_with_a_plain_one() -> None:
    rng = random.Random(0)
    rows = []
    for i in range(400):
        sure = rng.random()
        values = {"confidence": sure, "accuracy": float(rng.random() < sure**2)}
        rows.append(Row(id=str(i), values=values if i % 7 else {"confidence": sure, "accuracy": math.nan}))
    scored = [(r.values["confidence"], r.values["accuracy"]) for r in rows if math.isfinite(r.values["accuracy"])]
    plain = 0.0
    for b in range(10):
        held = [(c, a) for c, a in scored if b / 10 <= c < (b + 1) / 10]
        if held:
            plain += len(held) / len(scored) * abs(np.mean([c for c, _ in held]) - np.mean([a for _, a in held]))
    assert expected_calibration_error(Evaluation(step=0, rows=tuple(rows))) == pytest.approx(plain, abs=1e-6)
    assert math.isnan(expected_calibration_error(Evaluation(step=0, rows=(Row(id="a"),))))


def test_surprise_is_the_references_and_nobody_elses() -> None:
    model = memorised().eval()
    stranger = tiny_model("qwen3", 0, vocab_size=len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id).eval()
    rows = probe_traces(TRACES, READER, None, scorer(model), scorer(stranger), [DriftProbe()])
    for trace, row in zip(TRACES, rows, strict=True):
        opening = list(trace.completion_ids[:SPAN])
        expected = -float(np.mean(logprobs(stranger, list(trace.prompt_ids), opening)))
        assert row.values == {"reference/surprise": pytest.approx(expected, abs=1e-4)}
    itself = probe_traces(TRACES, READER, None, scorer(model), scorer(model), [DriftProbe()])
    assert all(
        a.values["reference/surprise"] < b.values["reference/surprise"] for a, b in zip(itself, rows, strict=True)
    )
