"""Altered steps: what is altered, and what the model makes of it."""

from __future__ import annotations

import math
import random
import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from memorised import TOKENIZER, encode, memorised
from probing import (
    READER,
    asked,
    gives,
    read,
    rows_of,
    scored,
    stranger,
    trace_of,
    written,
)
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.probes import (
    MistakeProbe,
    ProbeContext,
)
from reasoning_guard.probes.corrupters import corrupt, perturb_number
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from tokenizers_on_the_spot import gpt2_style


def test_one_number_of_an_earlier_step_differs_and_nothing_else() -> None:
    traces = written()
    context = ProbeContext(reader=READER, traces=traces)
    places = set()
    for trace in traces:
        prefixes = MistakeProbe().prefixes(trace, context)
        if not trace.n_steps:
            assert prefixes == []
            continue
        [prefix] = prefixes
        last = trace.cuts[-2] if trace.n_steps > 1 else trace.cuts[-1]
        assert len(prefix) in trace.cuts, "cut right behind a step"
        assert len(prefix) <= last
        [place] = [i for i, (a, b) in enumerate(zip(prefix, trace.ids, strict=False)) if a != b]
        assert place >= trace.cuts[trace.cuts.index(len(prefix)) - 1], "the altered step is the last one written"
        old, new = TOKENIZER.decode([trace.ids[place]]), TOKENIZER.decode([prefix[place]])
        assert old.isdigit()
        assert new.isdigit()
        places.add(place - len(trace.prompt_ids))
        assert MistakeProbe().prefixes(trace, context) == prefixes, "every evaluation alters alike"
    assert len(places) > 2


def test_the_model_really_goes_on_from_the_mistake() -> None:
    model, traces = memorised(), written()
    context = ProbeContext(reader=READER, traces=traces)
    rows = rows_of(memorised(), traces, MistakeProbe())
    values = []
    for trace, row in zip(traces, rows, strict=True):
        if not trace.n_steps:
            assert row.values["mistake_changed"] == 0
            continue
        [prefix] = MistakeProbe().prefixes(trace, context)
        ids = torch.tensor([prefix])
        with torch.no_grad():
            end = model.eval().generate(input_ids=ids, max_new_tokens=40, do_sample=False, pad_token_id=0)[0]
        text = TOKENIZER.decode(end[len(trace.prompt_ids) :], skip_special_tokens=True)
        stated = re.findall(r"# (\S+)", text)
        values.append(float(stated[-1] != trace.answer) if stated else math.nan)
        assert row.values["mistake_changed"] == pytest.approx(values[-1], nan_ok=True)
        assert ("mistake_changed" in row.reasons) == math.isnan(values[-1])
    assert {0.0, 1.0} <= set(values)


def test_with_subwords_the_text_differs_in_the_number_only() -> None:
    tokenizer = gpt2_style()
    reader = TraceReader(tokenizer, "gsm8k")
    steps = ("She has 13 + 29 = 42 eggs.\n", "Then 42 * 3 = 126, e.g. on Monday.\n", "So 126 / 2 = 63 coins 😀.\n")
    for i in range(8):
        problem = Problem(prompt="How many coins?\n", answer="63", id=f"p{i}")
        trace = reader.read(problem, tokenizer("".join(steps) + "#### 63")["input_ids"])
        assert trace.steps == steps
        [prefix] = MistakeProbe().prefixes(trace, ProbeContext(reader=reader, traces=[trace]))
        text = tokenizer.decode(list(prefix[len(trace.prompt_ids) :]))
        k = text.count("\n")
        assert k in (1, 2)
        assert text.startswith("".join(steps[: k - 1]))
        pattern = [r"She has 13 \+ 29 = (\d+) eggs\.\n", r"Then 42 \* 3 = (\d+), e\.g\. on Monday\.\n"][k - 1]
        match = re.fullmatch(pattern, text[len("".join(steps[: k - 1])) :])
        assert match is not None
        assert match[1] not in ("42", "126")
        assert int(match[1]) >= 0


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        ("b = 3 + 4 = 7 ;", r"b = 3 \+ 4 = (\d+) ;"),
        ("That is $3.50 in all.", r"That is \$(\d+\.50) in all\."),
        ("x2 has 12 eggs, h3llo", r"x2 has (\d+) eggs, h3llo"),
        ("0", r"(\d+)"),
        ("about 100000 of them", r"about (\d+) of them"),
    ],
)
def test_the_last_number_of_a_step_is_changed_to_one_of_like_size(step: str, shape: str) -> None:
    original = re.fullmatch(shape, step)
    assert original is not None
    value = float(original[1])
    for seed in range(20):
        alterations = list(perturb_number(step, random.Random(seed)))[:5]
        assert alterations
        for a in alterations:
            match = re.fullmatch(shape, step[: a.start] + a.text + step[a.stop :])
            assert match is not None
            assert float(match[1]) != value
            assert 0 <= float(match[1]) <= max(2 * value, value + 4)
    first = [next(perturb_number(step, random.Random(seed))).text for seed in range(40)]
    assert any(float(text) > value for text in first), "up as well as down"


def test_a_step_without_a_number_is_left_alone() -> None:
    assert list(perturb_number("so it goes, x2 and h3llo", random.Random(0))) == []
    [row] = rows_of(stranger(), [trace_of("a = b ; c = d ; # 9")], MistakeProbe())
    assert "no step that can be altered" in row.reasons["mistake_changed"]


def test_altering_a_long_number_takes_no_memory() -> None:
    """Broken models write long numbers; the choice among near ones must not be written out."""
    tracemalloc.start()
    try:
        next(perturb_number("= 3000000", random.Random(0)))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_it_runs_on_the_first_problems_of_each_set() -> None:
    traces = written()
    traces = [replace(t, problem=replace(t.problem, set="ood" if i % 2 else "id")) for i, t in enumerate(traces)]
    rows = rows_of(memorised(), traces, MistakeProbe(limit=2))
    limited = ["first 2 problems" in row.reasons.get("mistake_changed", "") for row in rows]
    assert limited == [i >= 4 for i in range(len(traces))]


# -- other corruptions, other ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "altered"),
    [
        ("Ann has more eggs than Bob.", {"Ann has fewer eggs than Bob."}),
        ("So x < y and y >= z.", {"So x > y and y >= z.", "So x < y and y <= z."}),
        ("Before lunch she left.", {"After lunch she left."}),
        ("It is not a prime.", {"It is a prime."}),
        ("It isn't even.", {"It is even.", "It isn't odd."}),
        ("They cannot divide it.", {"They can divide it."}),
        ("She does not know.", {"She does know."}),
        ("They are primes.", {"They are not primes."}),
        ("Then <<a+b>> follows.", set()),
        ("Nothing to see here.", set()),
    ],
)
def test_comparisons_and_negations_are_turned_round(step: str, altered: set[str]) -> None:
    found = [a.applied(step) for seed in range(10) for a in corrupt(step, random.Random(seed))]
    assert set(found) == altered


def test_a_number_goes_before_a_word() -> None:
    first = next(corrupt("Ann has more, namely 24.", random.Random(0)))
    assert (first.start, first.stop) == (21, 23)


def asked_alone(model: Any, prefix: Sequence[int], answer: str) -> tuple[float, bool]:
    chosen, _ = asked(model, prefix, answer)
    return sum(chosen), gives(model, prefix, answer)


@pytest.mark.parametrize("then", ["answer", "keep"])
def test_asked_behind_the_mistake(then: Any) -> None:
    """Changed, followed, drop and NLDD against separate passes over the altered text."""
    model, traces = memorised(), written()
    context = ProbeContext(reader=READER, traces=traces)
    prefixes = MistakeProbe()
    name = {"answer": "mistake_cut", "keep": "mistake_kept"}[then]
    seen = set()
    for trace, row in zip(traces, rows_of(memorised(), traces, MistakeProbe(then=then)), strict=True):
        if not trace.n_steps:
            assert set(row.values.values()) == {0.0}
            continue
        [altered] = prefixes.prefixes(trace, context)
        k = trace.cuts.index(len(altered))
        text = [*altered] if then == "answer" else [*altered, *trace.ids[trace.cuts[k] : trace.cuts[-1]]]
        clean = trace.ids[: trace.cuts[k]] if then == "answer" else trace.ids[: trace.cuts[-1]]
        answer = str(trace.answer)
        (full, stands), (cut, _), (own, kept) = (
            asked_alone(model, ids, answer) for ids in (trace.ids[: trace.cuts[-1]], clean, text)
        )
        if not stands:
            assert "gives another answer" in row.reasons[f"{name}_changed"]
            continue
        odds = [math.log(p) - math.log(1 - p) for p in (min(math.exp(x), 1 - 1e-7) for x in (full, own))]
        number = TOKENIZER.decode([altered[-2]])
        assert row.values[f"{name}_changed"] == (not kept)
        assert row.values[f"{name}_drop"] == pytest.approx((cut - own) / 2, abs=1e-4)
        assert row.values[f"{name}_nldd"] == pytest.approx((odds[0] - odds[1]) / abs(odds[0]), rel=1e-2, abs=1e-3)
        if number == answer:
            assert "answer itself" in row.reasons[f"{name}_followed"]
        else:
            assert row.values[f"{name}_followed"] == gives(model, text, number)
        seen.add(kept)
    assert True in seen


@pytest.mark.parametrize(("clean", "altered"), [(0.3, 0.1), (0.3, 0.4), (0.9, 0.1)])
def test_a_loss_of_odds_is_positive_on_either_side_of_even(clean: float, altered: float) -> None:
    """A greedy answer of several tokens may be less likely than not as a whole."""
    trace, probe = trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9"), MistakeProbe(then="keep")
    full, own = (scored(math.log(p) / 2, math.log(p) / 2) for p in (clean, altered))
    before, after = (math.log(p / (1 - p)) for p in (clean, altered))
    found = read(probe, trace, full, full, own, own).values["mistake_kept_nldd"]
    assert found == pytest.approx((before - after) / abs(before))
    assert (found > 0) == (altered < clean)


def test_going_on_from_the_mistake_is_told_from_repairing_it() -> None:
    trace = trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9")
    context, probe = ProbeContext(reader=READER, traces=[trace]), MistakeProbe()
    [prefix] = probe.prefixes(trace, context)
    wrong = TOKENIZER.decode([prefix[-2]])
    for rest, changed, followed in (
        (f"c = {wrong} + 2 = 1 ; # 1", 1, 1),
        (f"c = {wrong} + 2 = 9 ; # 9", 0, 1),  # idle
        ("c = 7 + 2 = 9 ; # 9", 0, 0),  # repaired
        (f"c = 7 + 2 = {wrong} ; # 3", 1, 0),
    ):
        if wrong == "2":
            continue
        reading = probe.read(trace, context, (), [tuple(encode(rest))])
        assert reading.values == {"mistake_changed": changed, "mistake_followed": followed}, rest


def test_a_comparison_that_was_turned_has_no_number_to_follow() -> None:
    tokenizer = gpt2_style()
    reader = TraceReader(tokenizer, "gsm8k")
    text = "Ann has more eggs than Bob.\nSo she sells them.\n#### 4"
    trace = reader.read(Problem(prompt="How many?\n", answer="4"), tokenizer(text)["input_ids"])
    context = ProbeContext(reader=reader, traces=[trace])
    [prefix] = MistakeProbe().prefixes(trace, context)
    assert tokenizer.decode(prefix).endswith("Ann has fewer eggs than Bob.\n")
    tail = tuple(tokenizer("So none.\n#### 3")["input_ids"])
    reading = MistakeProbe().read(trace, context, (), [tail])
    assert reading.values["mistake_changed"] == 1
    assert "no other number" in reading.reasons["mistake_followed"]


def test_a_wrong_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="`then` must be one of regenerate, answer, keep; got 'go on'"):
        MistakeProbe(then="go on")  # type: ignore[arg-type]
