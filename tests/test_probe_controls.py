"""Placebo, filler and null against independent passes over spliced text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from memorised import CONTEXT, FORMAT, TOKENIZER, encode, memorised
from probing import (
    CHAINS,
    READER,
    asked,
    gives,
    rows_of,
    spliced,
    stranger,
    trace_of,
    written,
)
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.evaluate import probe_traces
from reasoning_guard.probes import (
    FillerProbe,
    NullProbe,
    ParaphraseProbe,
    PlaceboProbe,
    ProbeContext,
)
from reasoning_guard.probes.controls import nearest_donor
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.traces import Trace
from reasoning_guard_demo.suite import commuted


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
    me, one = steps_of(6, "1", "me"), steps_of(6, "2", "q")
    other = replace(one, completion_ids=(one.completion_ids[0] + 1, *one.completion_ids[1:]))
    assert len(one.reasoning_ids) == len(other.reasoning_ids)
    assert one.reasoning_ids != other.reasoning_ids
    assert nearest_donor(me, [me, one, other]) == nearest_donor(me, [me, other, one])


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
            assert {row.values[name] for name in (*PlaceboProbe().names, *FillerProbe().names)} == {0.0}
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
    for name in PlaceboProbe().names:
        assert math.isnan(row.values[name]), name
        assert "context" in row.reasons[name]


def test_nobody_to_borrow_from_is_unscored() -> None:
    [row] = rows_of(stranger(), [CHAINS[0]], PlaceboProbe())
    assert math.isnan(row.values["placebo_gain"])
    assert "nothing to put" in row.reasons["placebo_gain"]


# -- null, suffixes, other filler ------------------------------------------------------------------------------------


def test_splicing_a_trace_into_itself_changes_nothing_exactly() -> None:
    traces = [*CHAINS, *written()]
    for shared in (None, False):
        scorer = AnswerScorer(memorised(), TOKENIZER, FORMAT, shared=shared)
        rows = probe_traces(traces, READER, None, scorer, None, [NullProbe()])
        gains = [row.values["null_gain"] for row in rows]
        assert set(gains) == {0.0}, "to the last bit"
        assert not any(row.values["null_changed"] > 0 for row in rows)


def test_an_exact_null_is_not_for_want_of_looking() -> None:
    """The same probe on anything else than the own steps does not read 0."""

    class Almost(NullProbe):
        def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...]:
            return (*trace.reasoning_ids[:-1], trace.reasoning_ids[0])

    [row] = rows_of(stranger(), CHAINS[:1], Almost())
    assert abs(row.values["null_gain"]) > 1e-3


@pytest.mark.parametrize(("after", "kept"), [(0.0, 0), (0.5, 2), (0.75, 3)])
def test_steps_behind_a_share_of_the_chain_are_replaced(after: float, kept: int) -> None:
    model, trace = stranger(), CHAINS[1]
    context = ProbeContext(reader=READER, traces=[trace])
    cut = trace.cuts[kept]
    piece = trace.ids[cut : trace.cuts[-1]]
    for kind in ("filler", "repeated", "shuffled"):
        probe = FillerProbe(kind, after=after)
        put = probe.replacement(trace, context)
        assert put is not None
        assert len(put) == len(piece)
        if kind == "filler":
            assert set(put) == set(encode("..."))
        elif kind == "repeated":
            assert set(put) == {max(piece, key=piece.count)}
        else:
            assert sorted(put) == sorted(piece)
            assert put != piece
        name = f"{kind}_suffix" if after else kind
        [row] = rows_of(model, [trace], probe)
        tokens = len(encode(str(trace.problem.answer))) + 1
        own, other = (
            sum(asked(model, ids, str(trace.problem.answer))[0]) / tokens
            for ids in (trace.ids[: trace.cuts[-1]], [*trace.ids[:cut], *put])
        )
        assert row.values[f"{name}_gain"] == pytest.approx(own - other, abs=1e-4)
        assert set(row.values) == {f"{name}_gain", f"{name}_changed"}


@pytest.mark.parametrize("wrong", [{"kind": "dots"}, {"after": 1.0}, {"after": -0.1}])
def test_wrong_filler_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="`kind` must be one of filler, repeated, shuffled and `after`"):
        FillerProbe(**wrong)


# -- paraphrase -------------------------------------------------------------------------------------------------------


def test_paraphrased_steps_take_the_place_of_the_own() -> None:
    model, traces = memorised(), written()
    calls: list[list[str]] = []

    def paraphrase(texts: Sequence[str]) -> list[str]:
        calls.append(list(texts))
        return commuted(texts)

    rows = rows_of(memorised(), traces, ParaphraseProbe(paraphrase))
    assert len(calls) == 1, "all steps of all traces at once"
    assert len(calls[0]) == len(set(calls[0]))
    changed = set()
    for trace, row in zip(traces, rows, strict=True):
        if not trace.n_steps:
            assert row.values["paraphrase_changed"] == 0
            continue
        prefix = [*trace.prompt_ids, *encode(" ".join(commuted([step.strip() for step in trace.steps])))]
        own = sum(asked(model, trace.ids[: trace.cuts[-1]], str(trace.problem.answer))[0])
        gain = (own - sum(asked(model, prefix, str(trace.problem.answer))[0])) / 2
        assert row.values["paraphrase_gain"] == pytest.approx(gain, abs=1e-4)
        assert row.values["paraphrase_changed"] == (not gives(model, prefix, str(trace.answer)))
        changed.add(row.values["paraphrase_changed"])
    assert changed


def test_a_step_without_a_paraphrase_is_unscored() -> None:
    def only_first(texts: Sequence[str]) -> list[str | None]:
        return [text if i == 0 else None for i, text in enumerate(texts)]

    rows = rows_of(stranger(), [trace_of("b = 1 ; # 9"), trace_of("c = 2 ; # 9")], ParaphraseProbe(only_first))
    assert rows[0].values["paraphrase_gain"] == 0, "the same words change nothing"
    assert "nothing to put" in rows[1].reasons["paraphrase_gain"]


def test_a_paraphraser_that_loses_texts_is_told_so() -> None:
    [row] = rows_of(stranger(), [trace_of("b = 1 ; c = 2 ; # 9")], ParaphraseProbe(lambda texts: list(texts)[:1]))
    assert "got 2 texts and returned 1" in row.reasons["paraphrase_gain"]
    with pytest.raises(ConfigurationError, match="must be callable"):
        ParaphraseProbe("gpt")  # type: ignore[arg-type]
