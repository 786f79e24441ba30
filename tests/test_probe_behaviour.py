"""What can be counted in a text."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from typing import Any

import pytest

from memorised import memorised
from probing import (
    rows_of,
    token_numbers,
    written,
)
from reasoning_guard.evaluation import Row
from reasoning_guard.probes import (
    BehaviourProbe,
    ProbeContext,
)
from reasoning_guard.probes.behaviour import HEDGES, repetition
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from tokenizers_on_the_spot import gpt2_style


def behaviour(text: str, **changes: Any) -> Row:
    tokenizer = gpt2_style()
    reader = TraceReader(tokenizer, "gsm8k")
    trace = reader.read(Problem(prompt="How many?\n", answer="4"), tokenizer(text)["input_ids"])
    context = ProbeContext(reader=reader, traces=[trace])
    reading = BehaviourProbe().read(replace(trace, **changes), context, (), ())
    return Row(id="x", values=reading.values, reasons=reading.reasons)


def test_hedges_are_whole_words_per_thousand_tokens() -> None:
    text = "Wait, maybe. Checking unlikely things awaits; check it. HMM\nSeemsly, mighty, hmmm, actually.\n#### 4"
    n = len(gpt2_style()(text)["input_ids"])
    assert behaviour(text).values["hedges_per_1000"] == pytest.approx(5 * 1000 / n)
    words = re.findall(r"[a-z]+", text.lower())
    assert sum(word in HEDGES for word in words) == 5


def test_lengths_and_entropies() -> None:
    text = "So 2.\nThen 4.\n#### 4"
    n = len(gpt2_style()(text)["input_ids"])
    row = behaviour(text, entropies=(0.0, 0.672, 0.671, 2.0), finished=False)
    assert row.values["tokens"] == n
    assert row.values["n_steps"] == 2
    assert row.values["finished"] == 0
    assert row.values["token_entropy"] == pytest.approx((0.672 + 0.671 + 2) / 4)
    assert row.values["forking_share"] == 0.5
    saved = behaviour(text)
    assert math.isnan(saved.values["token_entropy"])
    assert "while generating" in saved.reasons["forking_share"]


@pytest.mark.parametrize("seed", range(10))
def test_repetition_is_the_share_of_four_grams_seen_before(seed: int) -> None:
    rng = random.Random(seed)
    words = [rng.choice("ab") for _ in range(rng.randint(0, 30))]
    seen: list[list[str]] = []
    repeated = 0
    for i in range(len(words) - 3):
        repeated += words[i : i + 4] in seen
        seen.append(words[i : i + 4])
    assert repetition(words) == pytest.approx(repeated / len(seen) if seen else 0)


def test_entropies_of_a_live_trace_are_those_of_its_own_tokens() -> None:
    model = memorised()
    for trace, row in zip(written(), rows_of(model, written(), BehaviourProbe()), strict=True):
        entropies = token_numbers(model, trace.prompt_ids, trace.completion_ids)[1]
        assert trace.entropies == pytest.approx(entropies, abs=1e-4)
        assert row.values["token_entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
