"""Every probe against a plain implementation of its definition, on traces read by small real models."""

from __future__ import annotations

import math
import random
import re
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from memorised import CONTEXT, FORMAT, LESSONS, OPENER, PROBLEMS, TOKENIZER, encode, memorised
from reasoning_guard.evaluate import probe_traces, write_traces
from reasoning_guard.evaluation import Row
from reasoning_guard.generation import Generator
from reasoning_guard.probes import (
    AccuracyProbe,
    BehaviourProbe,
    EarlyAnsweringProbe,
    FillerProbe,
    InfoGainProbe,
    MistakeProbe,
    PlaceboProbe,
    PreCommitmentProbe,
    Probe,
    ProbeContext,
    default_probes,
)
from reasoning_guard.probes.behaviour import HEDGES, repetition
from reasoning_guard.probes.controls import nearest_donor
from reasoning_guard.probes.corrupters import perturb_number
from reasoning_guard.probes.early_answering import answered_at, area_over_curve
from reasoning_guard.probes.information import watermark_gain
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.traces import Trace
from reasoning_guard.tree import BranchScore
from tiny_models import tiny_model
from tokenizers_on_the_spot import gpt2_style, qwen2_style

READER = TraceReader(TOKENIZER, FORMAT)
EOS = int(TOKENIZER.eos_token_id)
NAMES = ("prior", "posterior", "info_gain", "info_gain_share", "info_gain_ppl", "info_gain_watermark", "entropy_gain")


def stranger(seed: int = 0, **changes: Any) -> Any:
    """A random model with strong opinions about everything."""
    return tiny_model("qwen3", seed, vocab_size=len(TOKENIZER), eos_token_id=EOS, **changes)


def trace_of(text: str, answer: str | None = "9", prompt: str = "5 : a = 3 ; ?", id: str = "", **changes: Any) -> Trace:
    problem = Problem(prompt=prompt, answer=answer, id=id or text + prompt)
    return replace(READER.read(problem, encode(text)), **changes)


def rows_of(
    model: Any, traces: Sequence[Trace], *probes: Probe, reference: Any = None, reader: TraceReader = READER
) -> list[Row]:
    scorer = AnswerScorer(model, reader.tokenizer, reader.format)
    frozen = None if reference is None else AnswerScorer(reference, reader.tokenizer, reader.format)
    generator = Generator(model, reader.tokenizer, max_new_tokens=40, progress=False)
    return probe_traces(traces, reader, generator, scorer, frozen, probes)


def written() -> list[Trace]:
    """What the model that knows its lessons writes, steps and all."""
    return write_traces(PROBLEMS, READER, Generator(memorised(), TOKENIZER, max_new_tokens=40, progress=False))


@torch.no_grad()
def token_numbers(model: Any, prefix: Sequence[int], tokens: Sequence[int]) -> tuple[list[float], list[float]]:
    """Log-probability of each token after the prefix, and entropy of the distribution that it was drawn from."""
    model.eval()
    logprobs = model(input_ids=torch.tensor([[*prefix, *tokens]]), use_cache=False).logits[0].float().log_softmax(-1)
    places = range(len(prefix) - 1, len(prefix) + len(tokens) - 1)
    chosen = [logprobs[p, t].item() for p, t in zip(places, tokens, strict=True)]
    return chosen, [-(logprobs[p].exp() * logprobs[p]).sum().item() for p in places]


def asked(model: Any, prefix: Sequence[int], answer: str) -> tuple[list[float], list[float]]:
    """The same for an answer with its terminator, asked for by the cue."""
    return token_numbers(model, [*prefix, *encode("#")], [*encode(answer), EOS])


def emitted(model: Any, prefix: Sequence[int], n: int = 3) -> list[int]:
    """What greedy decoding writes when it is asked for the answer."""
    ids = torch.tensor([[*prefix, *encode("#")]])
    config = {"do_sample": False, "max_new_tokens": n, "pad_token_id": 0}
    return (
        model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), **config)[0, ids.shape[1] :].tolist()
    )


def gives(model: Any, prefix: Sequence[int], answer: str) -> bool:
    wanted = [*encode(answer), EOS]
    return emitted(model, prefix)[: len(wanted)] == wanted


# -- information ------------------------------------------------------------------------------------------------------

CHAINS = [
    trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9"),
    trace_of("b = 3 + 4 = 7 ; c = 7 * 2 = 3 ; d = 3 + 6 = 9 ; e = 9 * 2 = 7 ; # 7", "9 2 1"),
    trace_of("b = 1 ; # 9"),
    trace_of("... ... ; ... ; ; b ; 0 = 0 ; ... ; 3 ; # 0", "4 4"),
]


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


def scored(*logprobs: float) -> BranchScore:
    return BranchScore(logprobs, (True,) * len(logprobs), (0.5,) * len(logprobs), (1.0,) * len(logprobs))


def read(probe: Probe, trace: Trace, *scores: BranchScore) -> Any:
    return probe.read(trace, ProbeContext(reader=READER, traces=[trace]), scores, ())


def test_a_share_of_nothing_is_not_a_number() -> None:
    reading = read(InfoGainProbe(), CHAINS[2], scored(-0.0, -0.0), scored(-0.5, -0.5))
    assert math.isnan(reading.values["info_gain_share"])
    assert "certain" in reading.reasons["info_gain_share"]
    assert reading.values["info_gain"] == -0.5


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


# -- pre-commitment ---------------------------------------------------------------------------------------------------


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


# -- early answering --------------------------------------------------------------------------------------------------


def same_by_generating(model: Any, trace: Trace) -> list[bool]:
    return [gives(model, trace.ids[:cut], str(trace.answer)) for cut in trace.cuts]


def test_same_k_is_what_greedy_decoding_writes_at_the_cut() -> None:
    model, traces = memorised(), written()
    rows = rows_of(memorised(), traces, EarlyAnsweringProbe())
    seen = Counter()
    for lesson, trace, row in zip(LESSONS, traces, rows, strict=True):
        same = same_by_generating(model, trace)
        assert same == list(lesson.right), "the model must know its lessons, else this shows nothing"
        n = len(same) - 1
        seen.update(same)
        area = sum(not each for each in same[:-1]) / n if n else 0.0
        assert row.values["early_answering_aoc"] == pytest.approx(area)
        settled = next(k for k in range(n + 1) if all(same[k:]))
        assert row.values["answered_at"] == pytest.approx(settled / n if n else 0.0)
    assert min(seen.values()) > 5


def test_the_mean_over_traces_is_the_papers_area_weighted_by_length() -> None:
    """Lanham et al.: an area for each chain length, from the share of its traces that keep their answer at each cut."""
    traces = written()
    found = [row.values["early_answering_aoc"] for row in rows_of(memorised(), traces, EarlyAnsweringProbe())]
    by_length: dict[int, list[list[bool]]] = {}
    for trace in traces:
        by_length.setdefault(trace.n_steps, []).append(same_by_generating(memorised(), trace))
    area = 0.0
    for n, curves in by_length.items():
        kept = [sum(same[k] for same in curves) / len(curves) for k in range(n)]
        area += len(curves) / len(traces) * (sum(1 - share for share in kept) / n if n else 0)
    assert len(by_length) == 5
    assert sum(found) / len(found) == pytest.approx(area)


def test_an_answer_that_the_model_does_not_stand_by_is_unscored() -> None:
    [row] = rows_of(memorised(), [replace(written()[0], answer="5")], EarlyAnsweringProbe())
    assert all(math.isnan(row.values[name]) for name in EarlyAnsweringProbe.names)
    assert "gives another answer" in row.reasons["answered_at"]


@pytest.mark.parametrize("seed", range(12))
def test_areas_and_shares_of_random_curves(seed: int) -> None:
    rng = random.Random(seed)
    same = [rng.random() < 0.5 for _ in range(rng.randint(1, 8))] + [True]
    n = len(same) - 1
    assert area_over_curve(same) == pytest.approx(1 - sum(same[:n]) / n)
    assert answered_at(same) == pytest.approx(next(k for k in range(n + 1) if False not in same[k:]) / n)


def test_with_options_it_is_the_likeliest_letter_that_counts() -> None:
    tokenizer = qwen2_style()
    reader = TraceReader(tokenizer, "choice")
    options = ("it is 3/4 of the eggs on Monday", "7", "12")
    seen = set()
    for seed in range(9):
        model = tiny_model("qwen3", seed, vocab_size=len(tokenizer))
        problem = Problem(prompt="How many eggs? (A) 3/4 of them (B) 7 (C) 12\n", answer="B", options=options)
        text = "Ann has 3. Then 3 + 4 = 7. So 7 it is. Each costs. The answer is (B)."
        trace = reader.read(problem, tokenizer(text)["input_ids"])
        assert (trace.n_steps, trace.answer) == (4, "B")
        [row] = rows_of(model, [trace], EarlyAnsweringProbe(), reader=reader)
        cue = tokenizer(" The answer is (")["input_ids"]
        chosen = []
        for cut in trace.cuts:
            totals = [
                sum(token_numbers(model, [*trace.ids[:cut], *cue], tokenizer(f"{letter})")["input_ids"])[0])
                for letter in "ABC"
            ]
            chosen.append(totals.index(max(totals)))
        if chosen[-1] != 1:
            assert math.isnan(row.values["early_answering_aoc"])
            assert "another answer" in row.reasons["early_answering_aoc"]
            continue
        area = sum(choice != 1 for choice in chosen[:-1]) / 4
        assert row.values["early_answering_aoc"] == pytest.approx(area)
        seen.add(area)
    assert seen


# -- placebo and filler -----------------------------------------------------------------------------------------------


def steps_of(n: int, answer: str, id: str, *, set: str = "id", stated: str | None = None) -> Trace:
    """A chain of ``n`` tokens in one step."""
    trace = trace_of(" ".join(["..."] * (n - 1) + [";", "#", stated or answer]), answer, id=id)
    return replace(trace, problem=replace(trace.problem, set=set))


def test_the_donor_is_the_nearest_in_length() -> None:
    me = steps_of(10, "1", "me")
    others = [steps_of(n, "2", f"n{n}") for n in (4, 8, 11, 20)]
    donor = nearest_donor(me, [me, *others])
    assert donor is not None
    assert donor.problem.id == "n11"


@pytest.mark.parametrize(
    ("donor", "why"),
    [
        (steps_of(10, "2", "me"), "the same problem"),
        (steps_of(10, "1", "x"), "it leads to the trace's own answer"),
        (steps_of(10, "5", "x", stated="1"), "it states the trace's own answer"),
        (steps_of(10, "4", "x"), "it leads to the reference answer"),
        (steps_of(10, "2", "x", set="ood"), "another set"),
        (trace_of("# 2", "2", id="x"), "no steps"),
    ],
)
def test_who_gives_no_steps(donor: Trace, why: str) -> None:
    me = replace(steps_of(10, "4", "me"), answer="1")
    assert nearest_donor(me, [me, donor]) is None, why
    far = steps_of(3, "2", "far")
    assert nearest_donor(me, [me, donor, far]) is far, why


def test_answers_of_equal_value_are_the_same_answer() -> None:
    me, donor = steps_of(5, "1/2", "me"), replace(steps_of(5, "1", "x"), answer="0.5")
    assert FORMAT.mathematical
    assert nearest_donor(me, [me, donor]) is None


def test_ties_are_spread_over_the_donors_and_do_not_depend_on_order() -> None:
    traces = [steps_of(6, str(i), f"p{i}") for i in range(10)]
    chosen = {t.problem.id: nearest_donor(t, traces) for t in traces}
    again = {t.problem.id: nearest_donor(t, traces[::-1]) for t in traces}
    assert chosen == again
    assert len({donor.problem.id for donor in chosen.values() if donor}) > 3


def spliced(trace: Trace, steps: Sequence[int]) -> list[int]:
    return [*trace.prompt_ids, *steps]


def plain_donor(trace: Trace, traces: Sequence[Trace]) -> list[Trace]:
    """All donors of the least distance; the tie is the probe's to break."""
    able = [
        t
        for t in traces
        if t.steps and t.problem != trace.problem and t.answer not in (trace.answer, trace.problem.answer)
    ]
    distance = {t.problem.id: abs(len(t.reasoning_ids) - len(trace.reasoning_ids)) for t in able}
    return [t for t in able if distance[t.problem.id] == min(distance.values())]


def test_placebo_and_filler_equal_their_definitions() -> None:
    model, traces = memorised(), written()
    rows = rows_of(memorised(), traces, PlaceboProbe(), FillerProbe(), reference=stranger())
    changed = []
    for trace, row in zip(traces, rows, strict=True):
        if not trace.n_steps:
            assert {row.values[name] for name in (*PlaceboProbe.names, *FillerProbe.names)} == {0.0}
            continue
        others = [spliced(trace, donor.reasoning_ids) for donor in plain_donor(trace, traces)]
        dots = spliced(trace, encode("...") * len(trace.reasoning_ids))
        for control, prefixes in (("placebo", others), ("filler", [dots])):
            own = sum(asked(model, trace.ids[: trace.cuts[-1]], str(trace.problem.answer))[0])
            gains = [(own - sum(asked(model, p, str(trace.problem.answer))[0])) / 2 for p in prefixes]
            gain = row.values[f"{control}_gain"]
            best = min(range(len(gains)), key=lambda i: abs(gains[i] - gain))
            assert gain == pytest.approx(gains[best], abs=1e-4)
            truth = not gives(model, prefixes[best], str(trace.answer))
            assert row.values[f"{control}_changed"] == truth
            changed.append(truth)
        assert "reference/placebo_gain" in row.values
        assert "reference/filler_gain" not in row.values
    assert {True, False} <= set(changed)


def test_the_filler_is_as_long_as_the_steps() -> None:
    context = ProbeContext(reader=READER, traces=CHAINS)
    for trace in CHAINS:
        assert FillerProbe().replacement(trace, context) == tuple(encode("...")) * len(trace.reasoning_ids)


def test_a_trace_spliced_into_itself_changes_nothing() -> None:
    """The null: a donor with the very same steps, asked about another answer."""
    me = trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 9", id="me")
    twin = replace(trace_of("b = 3 + 4 = 7 ; c = 7 + 2 = 9 ; # 2", "2", id="twin"))
    row, _ = rows_of(stranger(), [me, twin], PlaceboProbe())
    assert row.values["placebo_gain"] == pytest.approx(0, abs=1e-5)


def test_a_placebo_beyond_the_context_is_unscored_not_changed() -> None:
    """What was never read can't have changed the answer."""
    short = written()[4]
    donor = trace_of("b = 1 ; " * (CONTEXT // 4) + "# 4", "4", id="donor")
    row, _ = rows_of(memorised(), [short, donor], PlaceboProbe())
    for name in PlaceboProbe.names:
        assert math.isnan(row.values[name]), name
        assert "context" in row.reasons[name]


def test_nobody_to_borrow_from_is_unscored() -> None:
    [row] = rows_of(stranger(), [CHAINS[0]], PlaceboProbe())
    assert math.isnan(row.values["placebo_gain"])
    assert "nothing to put" in row.reasons["placebo_gain"]


# -- mistakes ---------------------------------------------------------------------------------------------------------


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


# -- behaviour --------------------------------------------------------------------------------------------------------


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


# -- odd traces -------------------------------------------------------------------------------------------------------

CALIBRATION = {"confidence", "brier", "overconfidence"}
NEEDS_REFERENCE = {"accuracy", *NAMES, "pre_commitment", "placebo_gain", "filler_gain", *CALIBRATION}
NEEDS_ANSWER = {"early_answering_aoc", "answered_at", "placebo_changed", "filler_changed", "mistake_changed"}
NEEDS_ANSWER |= CALIBRATION
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
    # A random model does not stand by its answer; that makes these unscored for a reason of their own.
    allowed = {n for n in missing if "gives another answer" in row.reasons.get(n, "")}
    assert expected <= missing <= expected | allowed | {"mistake_changed"}


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
