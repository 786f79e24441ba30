"""From problems to rows, end to end: nothing of one probe may touch another, nothing at all may touch the training."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from memorised import FORMAT, LESSONS, PROBLEMS, TOKENIZER, encode, memorised
from reasoning_guard.errors import ReasoningGuardWarning
from reasoning_guard.evaluate import evaluate, probe_traces, write_traces
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.generation import Generator
from reasoning_guard.model_context import reading
from reasoning_guard.probes import InfoGainProbe, MistakeProbe, Probe, ProbeContext, Reading, default_probes
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.reference import take_reference
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, BranchScore
from reasoning_guard_demo.model import build_tokenizer
from tiny_models import tiny_model
from tokenizers_on_the_spot import qwen2_style

READER = TraceReader(TOKENIZER, FORMAT)
Scores = Sequence[BranchScore]
Continued = Sequence[tuple[int, ...]]


def ask(
    model: Any,
    problems: Sequence[Problem] = PROBLEMS,
    probes: Sequence[Probe] | None = None,
    reference: Any = None,
    reader: TraceReader = READER,
) -> Evaluation:
    return evaluate(
        3,
        problems,
        reader=reader,
        generator=Generator(model, reader.tokenizer, max_new_tokens=40, progress=False),
        policy=AnswerScorer(model, reader.tokenizer, reader.format),
        reference=reference,
        probes=default_probes() if probes is None else probes,
    )


def frozen(model: Any) -> AnswerScorer:
    return AnswerScorer(model, TOKENIZER, FORMAT)


def names_of(probes: Sequence[Probe]) -> set[str]:
    readers = {"policy": "", "reference": "reference/"}
    return {readers[who] + name for probe in probes for who in probe.readers for name in probe.names}


# -- end to end -------------------------------------------------------------------------------------------------------


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


# -- probes of one's own ----------------------------------------------------------------------------------------------


class SurpriseProbe(Probe):
    """A user's own: how unlikely the last step is after the others, in nats per token."""

    names = ("surprise",)

    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        if trace.n_steps < 2:
            return []
        step = trace.ids[trace.cuts[-2] : trace.cuts[-1]]
        return [Branch(trace.cuts[-2], step, (0, len(step)))]

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"surprise": -scores[0].mean}) if scores else Reading().unscored(self.names, "one step")


def test_a_probe_of_ones_own() -> None:
    model = memorised()
    found = ask(model, probes=[*default_probes(), SurpriseProbe()])
    traces = write_traces(PROBLEMS, READER, Generator(model, TOKENIZER, max_new_tokens=40, progress=False))
    model.eval()
    for row, trace in zip(found.rows, traces, strict=True):
        if trace.n_steps < 2:
            assert row.reasons["surprise"] == "one step"
            continue
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([trace.ids])).logits[0].log_softmax(-1)
        places = range(trace.cuts[-2], trace.cuts[-1])
        plain = -sum(logprobs[p - 1, trace.ids[p]].item() for p in places) / len(places)
        assert row.values["surprise"] == pytest.approx(plain, abs=1e-4)


class Broken(Probe):
    """A probe with a mistake somewhere."""

    names = ("broken",)

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"broken": 1.0})


class BreaksInBranches(Broken):
    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        raise KeyError("a user's mistake")


class BreaksInPrefixes(Broken):
    def prefixes(self, trace: Trace, context: ProbeContext) -> list[tuple[int, ...]]:
        raise ZeroDivisionError


class BreaksInRead(Broken):
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        raise RuntimeError("a user's mistake")


class BreaksNowAndThen(Broken):
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return Reading({"broken": 1 / (trace.n_steps - 3)})


class ReturnsNothing(Broken):
    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        return None  # type: ignore[return-value]


class AsksBehindTheTrunk(Broken):
    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        return [Branch(len(trace.ids) + 1, (5,), (0, 1))]


class AsksBeforeTheTrunk(Broken):
    def branches(self, trace: Trace, context: ProbeContext) -> list[Branch]:
        return [Branch(1, (5,), (0, 1))]


def without(row: Row, name: str) -> dict[str, float]:
    return {key: value for key, value in row.values.items() if key != name}


@pytest.mark.parametrize(
    "broken",
    [
        BreaksInBranches, BreaksInPrefixes, BreaksInRead, BreaksNowAndThen, ReturnsNothing,
        AsksBehindTheTrunk, AsksBeforeTheTrunk,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::reasoning_guard.errors.ReasoningGuardWarning")
def test_a_broken_probe_costs_its_own_values_only(broken: type[Probe]) -> None:
    sound = ask(memorised(), PROBLEMS)
    found = ask(memorised(), PROBLEMS, [broken(), *default_probes()])
    assert found.failure is None
    lost = 0
    for row, other in zip(found.rows, sound.rows, strict=True):
        assert without(row, "broken") == pytest.approx(other.values, abs=1e-5, nan_ok=True)
        if math.isnan(row.values["broken"]):
            lost += 1
            assert row.reasons["broken"]
    assert lost > 0
    assert (lost < len(found.rows)) == (broken is BreaksNowAndThen)


def test_a_broken_probe_is_said_once() -> None:
    with pytest.warns(ReasoningGuardWarning, match="BreaksInRead failed: RuntimeError: a user's mistake") as said:
        ask(memorised(), PROBLEMS, [BreaksInRead()])
    assert len([w for w in said if issubclass(w.category, ReasoningGuardWarning)]) == 1


class YieldsItsBranches(SurpriseProbe):
    """Written with ``yield``, as many would."""

    names = ("yielded",)

    def branches(self, trace: Trace, context: ProbeContext) -> Iterator[Branch]:  # type: ignore[override]
        yield from super().branches(trace, context)

    def read(self, trace: Trace, context: ProbeContext, scores: Scores, continued: Continued) -> Reading:
        value = super().read(trace, context, scores, continued).values.get("surprise", math.nan)
        return Reading({"yielded": value}) if value == value else Reading().unscored(self.names, "one step")


def test_a_probe_may_yield_its_questions() -> None:
    """At least it must not shift the scores of the probes behind it."""
    found = ask(memorised(), PROBLEMS, [YieldsItsBranches(), SurpriseProbe(), InfoGainProbe()])
    for row, other in zip(found.rows, ask(memorised(), PROBLEMS).rows, strict=True):
        assert row.values["info_gain"] == pytest.approx(other.values["info_gain"], abs=1e-5)
        assert row.values["yielded"] == pytest.approx(row.values["surprise"], abs=1e-6, nan_ok=True)


# -- what training must not notice ------------------------------------------------------------------------------------


def trained(kind: str, guarded: bool) -> dict[str, torch.Tensor]:
    """Weights after a few steps of training with dropout, with or without an evaluation after each step."""
    torch.manual_seed(0)
    random.seed(0)
    model: Any = memorised()
    if kind == "bf16":
        model = model.to(torch.bfloat16)
    if kind == "lora":
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3, init_lora_weights=False)
        model = get_peft_model(model, lora)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable()
        model.config.use_cache = False
    reference = take_reference(model, TOKENIZER, FORMAT) if guarded else None
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.tensor([encode(f"{LESSONS[i].problem.prompt} {LESSONS[i].completion(2)}")[:18] for i in (0, 1, 2)])
    for _ in range(3):
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if guarded:
            ask(model, PROBLEMS[:4], reference=reference)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["full", "lora", "bf16", "checkpointing"])
def test_training_ends_in_the_same_weights_bit_for_bit(kind: str) -> None:
    plain, guarded = trained(kind, guarded=False), trained(kind, guarded=True)
    assert plain.keys() == guarded.keys()
    assert all(torch.equal(plain[name], guarded[name]) for name in plain)


def test_the_model_and_everything_around_it_is_left_as_it_was() -> None:
    model, tokenizer = memorised(), build_tokenizer()
    tokenizer.padding_side = "right"
    model.model.layers[0].eval()
    model.model.embed_tokens.requires_grad_(False)
    reader = TraceReader(tokenizer, FORMAT)
    reference = take_reference(model, tokenizer, FORMAT)
    ids = torch.tensor([encode(str(PROBLEMS[0].prompt))])
    model(input_ids=ids, labels=ids).loss.backward()
    before = snapshot(model, tokenizer)
    ask(model, reference=reference, reader=reader)
    assert all(torch.equal(a, b) for a, b in zip(before[0], snapshot(model, tokenizer)[0], strict=True))
    assert snapshot(model, tokenizer)[1:] == before[1:]


def snapshot(model: Any, tokenizer: Any) -> tuple[Any, ...]:
    """Tensors first, then what can be compared directly."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    tensors = [t.detach().clone() for t in (*model.parameters(), *model.buffers(), *gradients, torch.get_rng_state())]
    return (
        tensors,
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        (model.config.to_dict(), model.generation_config.to_dict(), copy.copy(vars(model.config))),
        (repr(tokenizer), random.getstate(), torch.is_grad_enabled()),
    )


def test_an_error_in_the_middle_leaves_the_flags_as_they_were() -> None:
    model = memorised()
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()

    def broken() -> None:
        with reading(model, dense_masks=True):
            torch.rand(3)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        broken()
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
