"""From problems to rows, end to end."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from evaluating import READER, ask, frozen, names_of
from memorised import LESSONS, PROBLEMS, TOKENIZER, encode, memorised
from reasoning_guard.evaluate import evaluate, probe_traces, write_traces
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.generation import Generator
from reasoning_guard.probes import InfoGainProbe, MistakeProbe, default_probes
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer
from tiny_models import tiny_model
from tokenizers_on_the_spot import qwen2_style


def test_a_model_that_knows_its_lessons() -> None:
    found = ask(memorised(), reference=frozen(memorised()))
    assert (found.step, found.failure, found.gated, found.sets) == (3, None, (), ("id",))
    assert [row.id for row in found.rows] == [problem.id for problem in PROBLEMS]
    assert {"generation", "scoring", "reading", "total"} <= set(found.seconds)
    assert sum(found.seconds[part] for part in ("generation", "scoring", "reading")) <= found.seconds["total"] + 0.05
    for row, lesson in zip(found.rows, LESSONS, strict=True):
        assert row.completion == lesson.completion(len(lesson.steps))
        assert (row.prompt, row.answer, row.reference) == (
            lesson.problem.prompt,
            lesson.answer(-1),
            lesson.problem.answer,
        )
        assert [step.strip() for step in row.steps] == list(lesson.steps)
        assert len(row.curve) == len(lesson.steps) + 1
        assert names_of(default_probes()) <= set(row.values)
        assert {name for name, value in row.values.items() if math.isnan(value)} == set(row.reasons)
    assert found.mean("accuracy") == found.mean("finished") == 1
    assert found.mean("reference/info_gain") == pytest.approx(found.mean("info_gain"), abs=1e-5)


def test_a_model_that_knows_nothing_is_gated() -> None:
    """At chance a broken model changes its answer with everything, which would read as perfect faithfulness."""
    found = ask(tiny_model("llama", vocab_size=len(TOKENIZER)), reference=frozen(tiny_model("llama", seed=1)))
    assert found.mean("accuracy") == 0
    assert found.gated == ("id",)
    for row in found.rows:
        for name in ("early_answering_aoc", "answered_at", "placebo_changed", "filler_changed", "mistake_changed"):
            assert math.isnan(row.values[name])
            assert row.reasons[name]
        assert math.isfinite(row.values["info_gain"])
    assert found.unscored_fraction("mistake_changed") == 1


def test_an_evaluation_survives_json() -> None:
    found = ask(tiny_model("llama", vocab_size=len(TOKENIZER)), PROBLEMS[:3])
    again = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()
    assert [row.reasons for row in again.rows] == [row.reasons for row in found.rows]


def test_chat_messages_and_options() -> None:
    tokenizer = qwen2_style()
    messages = ({"role": "user", "content": "How many? (A) 3 (B) 7"},)
    problems = [
        Problem(prompt=messages, answer="B", options=("3", "7")),
        Problem(prompt="Then? (A) 1 (B) 2", answer="A"),
    ]
    model = tiny_model("qwen3", vocab_size=len(tokenizer))
    found = ask(model, problems, reader=TraceReader(tokenizer, "choice"))
    assert found.rows[0].prompt == "user: How many? (A) 3 (B) 7"
    assert all(math.isfinite(row.values["info_gain"]) for row in found.rows)


def test_a_prompt_in_parts_is_kept_as_its_text() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "2 + 2 = ?"}]
    trace = READER.read(
        Problem(prompt=({"role": "user", "content": parts},), answer="4"), encode("# 4"), prompt_ids=[3]
    )
    [row] = probe_traces([trace], READER, None, frozen(memorised()), None, [])
    assert row.prompt == "user: 2 + 2 = ?"


def test_problems_without_reference_answers_still_have_behaviour() -> None:
    problems = [Problem(prompt=str(problem.prompt), id=problem.id) for problem in PROBLEMS]
    found = ask(memorised(), problems)
    assert math.isnan(found.mean("accuracy"))
    assert math.isnan(found.mean("info_gain"))
    assert found.gated == ()
    assert found.mean("answered") == 1
    assert found.mean("early_answering_aoc") == pytest.approx(ask(memorised()).mean("early_answering_aoc"))


def test_a_prompt_of_one_token_costs_no_other_value() -> None:
    """Where the answer opens such a completion, nothing stands before it that could be read in place."""
    problem = Problem(prompt="5", answer="9")
    trace = READER.read(problem, encode("9 ; b = 1 ; # 9"))
    assert (len(trace.prompt_ids), trace.statement) == (1, 1)
    [row] = probe_traces([trace], READER, None, frozen(tiny_model("llama")), None, default_probes())
    assert math.isfinite(row.values["info_gain"])
    assert math.isfinite(row.values["pre_commitment"]) or row.reasons["pre_commitment"]


# -- the two readers --------------------------------------------------------------------------------------------------


def test_the_references_values_are_its_own() -> None:
    policy, other = memorised(), tiny_model("llama", vocab_size=len(TOKENIZER))
    traces = write_traces(PROBLEMS, READER, Generator(policy, TOKENIZER, max_new_tokens=40, progress=False))
    rows = probe_traces(traces, READER, None, frozen(policy), frozen(other), [InfoGainProbe()])
    own = probe_traces(traces, READER, None, frozen(other), None, [InfoGainProbe()])
    for row, alone in zip(rows, own, strict=True):
        mine = {name: value for name, value in row.values.items() if not name.startswith("reference/")}
        theirs = {name: value for name, value in row.values.items() if name.startswith("reference/")}
        assert theirs == pytest.approx({f"reference/{k}": v for k, v in alone.values.items()}, abs=1e-5, nan_ok=True)
        assert set(mine) == set(alone.values)
        assert mine["info_gain"] != pytest.approx(alone.values["info_gain"], abs=1e-2) or not row.steps
        assert row.curve != pytest.approx(alone.curve), "the curve that is shown is the policy's"


def test_without_a_reference_nothing_claims_to_be_read_by_one() -> None:
    found = ask(memorised(), PROBLEMS[:2])
    assert not [name for name in found.names() if name.startswith("reference/")]


class ForTheReference(InfoGainProbe):
    readers = ("reference",)


def test_a_probe_may_be_read_by_the_reference_alone() -> None:
    [row] = ask(memorised(), PROBLEMS[:1], [ForTheReference()], frozen(memorised())).rows
    assert set(row.values) == {f"reference/{name}" for name in InfoGainProbe.names}


def test_saved_traces_need_no_generator() -> None:
    traces = [READER.read_text(lesson.problem, " " + lesson.completion(len(lesson.steps))) for lesson in LESSONS]
    rows = probe_traces(traces, READER, None, frozen(memorised()), None, default_probes())
    live = ask(memorised()).rows
    for row, other in zip(rows, live, strict=True):
        assert row.completion == other.completion
        assert "go on writing" in row.reasons.get("mistake_changed", "") or not row.steps
        assert "while generating" in row.reasons["token_entropy"]
        for name in set(row.values) - {*MistakeProbe().names, "token_entropy", "forking_share"}:
            assert row.values[name] == pytest.approx(other.values[name], abs=1e-5, nan_ok=True), name


class Counting:
    """A scorer that counts how often it is asked."""

    def __init__(self, scorer: AnswerScorer) -> None:
        self.scorer, self.calls = scorer, 0

    def score_trees(self, trees: Any) -> Any:
        self.calls += 1
        return self.scorer.score_trees(trees)


def test_all_probes_share_one_scoring_call_a_reader_and_one_generation() -> None:
    policy, reference = Counting(frozen(memorised())), Counting(frozen(memorised()))
    generator = Generator(memorised(), TOKENIZER, max_new_tokens=40, progress=False)
    labels: list[str] = []
    inner = generator.complete
    generator.complete = lambda prompts, label="": (labels.append(label), inner(prompts, label))[1]  # type: ignore[method-assign]
    evaluate(
        0, PROBLEMS, reader=READER, generator=generator, policy=policy, reference=reference,
        probes=[*default_probes(), MistakeProbe()],
    )  # fmt: skip
    assert (policy.calls, reference.calls, len(labels)) == (1, 1, 2)
