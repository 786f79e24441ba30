"""The scorer against a plain loop over prefixes, written from the definition."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import pytest
import torch

from reasoning_guard.exactness import largest_difference
from reasoning_guard.formats import TraceFormat
from reasoning_guard.forward import score_shared
from reasoning_guard.generation import Generator
from reasoning_guard.masks import MaskPlan, mask_plans
from reasoning_guard.model_context import reading
from reasoning_guard.model_parts import text_config
from reasoning_guard.problems import Problem
from reasoning_guard.scorer import AnswerCurve, AnswerScorer
from reasoning_guard.sequences import score_independent
from reasoning_guard.traces import Trace
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.twins import build_twin, twin_trees
from reasoning_guard_demo.model import build_tokenizer
from tiny_models import ARCHITECTURES, STATEFUL, tiny_model

FORMAT = TraceFormat(name="hashes", cue=" #", step_end=r";", answer=r"# (\S+)")
TOKENIZER = build_tokenizer()


def make_trace(n_steps: int, answer: str = "7", seed: int = 0) -> Trace:
    """A trace of random words: a prompt of 6 to 20, then steps of 2 to 7 tokens each."""
    rng = random.Random(f"{n_steps}/{answer}/{seed}")

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, len(TOKENIZER)) for _ in range(n))

    prompt = ids(rng.randint(6, 20))
    steps = [ids(rng.randint(2, 7)) for _ in range(n_steps)]
    cuts = [len(prompt)]
    for step in steps:
        cuts.append(cuts[-1] + len(step))
    return Trace(
        problem=Problem(prompt=str(prompt), answer=answer),
        prompt_ids=prompt,
        completion_ids=sum(steps, ()) + ids(3),
        text="",
        steps=tuple(map(str, steps)),
        cuts=tuple(cuts),
        answer=answer,
        correct=True,
    )


@torch.no_grad()
def loop(model: torch.nn.Module, trace: Trace, answer: str) -> AnswerCurve:
    """One plain forward a prefix, all logits, nothing shared: the definition, word for word."""
    asked = TOKENIZER(f" # {answer}", add_special_tokens=False)["input_ids"] + [TOKENIZER.eos_token_id]
    n_cue = len(TOKENIZER(" #", add_special_tokens=False)["input_ids"])
    rows = []
    for cut in trace.cuts:
        ids = torch.tensor([[*trace.ids[:cut], *asked]])
        logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        places = range(cut + n_cue, ids.shape[1])
        chosen = [logprobs[p - 1, ids[0, p]].item() for p in places]
        greedy = all(logprobs[p - 1].argmax().item() == ids[0, p].item() for p in places)
        entropy = [-(logprobs[p - 1].exp() * logprobs[p - 1]).sum().item() for p in places]
        rows.append((sum(chosen), greedy, sum(entropy) / len(entropy)))
    logprobs, greedy, entropies = zip(*rows, strict=True)
    return AnswerCurve(logprobs, len(asked) - n_cue, greedy, entropies)


def assert_same(found: AnswerCurve, truth: AnswerCurve, tolerance: float = 1e-4) -> None:
    assert found.n_tokens == truth.n_tokens
    assert found.greedy == truth.greedy
    assert found.logprobs == pytest.approx(truth.logprobs, abs=tolerance, rel=0)
    assert found.entropies == pytest.approx(truth.entropies, abs=tolerance, rel=0)


LONG = "1 2 3 4 5 6 7 8 9 10 0"
MIXED = [
    make_trace(0), make_trace(0, LONG), make_trace(1), make_trace(5, LONG), make_trace(9), make_trace(9, seed=1),
    make_trace(40, "3"), make_trace(40, LONG, seed=2),
]  # fmt: skip


@pytest.mark.parametrize("name", [*ARCHITECTURES, *STATEFUL])
def test_scores_equal_a_plain_loop(name: str) -> None:
    model = tiny_model(name)
    scorer = AnswerScorer(model, TOKENIZER, FORMAT)
    found = scorer.score(MIXED)
    assert scorer.verdict is not None
    assert (scorer.verdict.plan is None) == (name in STATEFUL), scorer.verdict
    model.eval()
    for curve, trace in zip(found, MIXED, strict=True):
        truth = loop(model, trace, trace.problem.answer or "")
        assert_same(curve, truth)
    spread = [max(curve.logprobs) - min(curve.logprobs) for curve in found if len(curve.logprobs) > 2]
    assert min(spread) > 1, "the cuts must matter, else a wrong mask would go unnoticed"


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "gpt_oss"])
def test_the_self_test_refuses_a_mask_that_forgets_the_window(name: str) -> None:
    """What the scorer rests on: a wrong plan is far off on the twin, not a little."""
    twin = build_twin(tiny_model(name, **{"sliding_window": 4096}))
    with reading(twin):
        trees = twin_trees(96)
        truth = score_independent(twin, trees, 256)
        assert largest_difference(score_shared(twin, trees, MaskPlan()), truth) > 0.1
        right = next(plan for plan in mask_plans(text_config(twin)) if plan.window)
        assert largest_difference(score_shared(twin, trees, right), truth) < 1e-4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_attention_implementations(attention: str) -> None:
    model = tiny_model("llama", attn_implementation=attention)
    model.set_attn_implementation(attention)
    found = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    model.eval()
    for curve, trace in zip(found, MIXED, strict=True):
        assert_same(curve, loop(model, trace, trace.problem.answer or ""))


def test_the_independent_path_equals_the_loop_too() -> None:
    model = tiny_model("gemma3")
    found = AnswerScorer(model, TOKENIZER, FORMAT, shared=False).score(MIXED)
    model.eval()
    for curve, trace in zip(found, MIXED, strict=True):
        assert_same(curve, loop(model, trace, trace.problem.answer or ""))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_bfloat16_differs_from_its_own_loop_within_its_noise(name: str) -> None:
    model = tiny_model(name).to(torch.bfloat16)
    scorer = AnswerScorer(model, TOKENIZER, FORMAT)
    found = scorer.score(MIXED)
    assert scorer.verdict is not None
    assert scorer.verdict.plan is not None
    model.eval()
    precise = tiny_model(name).eval()
    ours, loops = [], []
    for curve, trace in zip(found, MIXED, strict=True):
        answer = trace.problem.answer or ""
        truth = loop(precise, trace, answer).logprobs
        own = loop(model, trace, answer).logprobs
        ours += [abs(a - b) / curve.n_tokens for a, b in zip(curve.logprobs, truth, strict=True)]
        loops += [abs(a - b) / curve.n_tokens for a, b in zip(own, truth, strict=True)]
    # Against float32, sharing must not be noisier than the plain bfloat16 loop itself.
    assert sum(ours) < 1.5 * sum(loops)


def test_under_autocast() -> None:
    model = tiny_model("llama")
    with torch.autocast("cpu", torch.bfloat16):
        scorer = AnswerScorer(model, TOKENIZER, FORMAT)
        found = scorer.score(MIXED)
        assert scorer.verdict is not None
        assert scorer.verdict.plan is not None
        model.eval()
        loops = [loop(model, trace, trace.problem.answer or "") for trace in MIXED]
    truth = [loop(model, trace, trace.problem.answer or "") for trace in MIXED]
    assert 0 < mean_error(found, truth) < 1.5 * mean_error(loops, truth)


def mean_error(found: list[AnswerCurve], truth: list[AnswerCurve]) -> float:
    errors = [
        abs(a - b) / curve.n_tokens
        for curve, other in zip(found, truth, strict=True)
        for a, b in zip(curve.logprobs, other.logprobs, strict=True)
    ]
    return sum(errors) / len(errors)


def test_traces_from_left_padded_generation_score_alike() -> None:
    """Prompts of three lengths are padded on the left to one batch: nothing of the padding may reach a trace."""
    model = tiny_model("llama").eval()
    prompts = [make_trace(3).prompt_ids, make_trace(2, seed=5).prompt_ids, make_trace(1, seed=2).prompt_ids[:3]]
    assert len({len(prompt) for prompt in prompts}) == 3
    written = Generator(model, TOKENIZER, max_new_tokens=12, progress=False).complete(prompts)
    for prompt, completion in zip(prompts, written, strict=True):
        with torch.no_grad():
            alone = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
        assert completion.ids == tuple(alone.tolist())[: len(completion.ids)]
        cuts = tuple(len(prompt) + k for k in (0, len(completion.ids) // 2, len(completion.ids)))
        trace = Trace(
            problem=Problem(prompt="p", answer="7"), prompt_ids=prompt, completion_ids=completion.ids, text="",
            steps=("a", "b"), cuts=cuts, answer="7", correct=True,
        )  # fmt: skip
        assert_same(AnswerScorer(model, TOKENIZER, FORMAT).score([trace])[0], loop(model, trace, "7"))


def test_groups_of_completions_score_as_the_loop_does_each() -> None:
    model = tiny_model("llama")
    first, *others = [make_trace(n, seed=n) for n in (4, 2, 6)]
    shift = [len(first.prompt_ids) - len(other.prompt_ids) for other in others]
    group = [first] + [
        replace(other, prompt_ids=first.prompt_ids, cuts=tuple(cut + more for cut in other.cuts))
        for other, more in zip(others, shift, strict=True)
    ]
    found = AnswerScorer(model, TOKENIZER, FORMAT).score_groups([group, [make_trace(3, "12")], []])
    assert [len(curves) for curves in found] == [3, 1, 0]
    model.eval()
    for curve, trace in zip(found[0] + found[1], [*group, make_trace(3, "12")], strict=True):
        assert_same(curve, loop(model, trace, trace.answer or ""))


def test_a_branch_may_score_its_first_token() -> None:
    model = tiny_model("qwen3").eval()
    trunk = make_trace(4).ids
    tree = TraceTree(trunk, (Branch(10, trunk[10:14], (0, 4)), Branch(len(trunk), (5, 6), (1, 2))))
    first, _ = AnswerScorer(model, TOKENIZER, FORMAT).score_trees([tree])[0]
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([trunk])).logits[0].log_softmax(-1)
    assert first.logprobs == pytest.approx([logprobs[p - 1, trunk[p]].item() for p in range(10, 14)], abs=1e-4)


def test_the_head_runs_over_scored_positions_only() -> None:
    """No ``[tokens, vocabulary]`` tensor: the head sees a prefix of the packed row, and of the trunk nothing."""
    model = tiny_model("llama")
    scorer = AnswerScorer(model, TOKENIZER, FORMAT)
    scorer.score(MIXED)
    seen: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0] * args[0].shape[1]))
    trace = make_trace(9)
    scorer.score([trace])
    handle.remove()
    assert sum(seen) == (trace.n_steps + 1) * 2  # "7" and EOS at every cut


def test_tokens_through_the_layers_are_the_unique_tokens_of_the_tree() -> None:
    model = tiny_model("llama")
    scorer = AnswerScorer(model, TOKENIZER, FORMAT)
    scorer.score(MIXED)
    seen: list[int] = []
    layer = model.model.layers[0].mlp.gate_proj
    handle = layer.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0] * args[0].shape[1]))
    trace = make_trace(9)
    own, wrong = scorer.reader.ask("7"), scorer.reader.ask("8")
    tree = TraceTree(trace.ids, tuple(Branch(cut, q.ids, q.scored) for cut in trace.cuts for q in (own, wrong, own)))
    scorer.score_trees([tree])
    handle.remove()
    # The cue is shared by both answers, and the last token of a branch is predicted, never fed: "#", "7" and "8".
    assert sum(seen) == trace.cuts[-1] + (trace.n_steps + 1) * 3


def test_many_branches_are_scored_in_parts_with_the_same_result() -> None:
    model = tiny_model("llama")
    whole = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    scorer = AnswerScorer(model, TOKENIZER, FORMAT)
    scorer.effort.elements = 2_000
    parts = scorer.score(MIXED)
    for a, b in zip(parts, whole, strict=True):
        assert_same(a, b)


def test_out_of_memory_halves_the_budget_and_carries_on(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("llama")
    whole = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    inner = model.forward

    def limited(*args: object, **kwargs: object) -> object:
        ids = kwargs["input_ids"]
        assert isinstance(ids, torch.Tensor)
        if ids.shape[0] > 2:
            raise torch.OutOfMemoryError("a small device")
        return inner(*args, **kwargs)

    model.forward = limited  # type: ignore[method-assign]
    scorer = AnswerScorer(model, TOKENIZER, FORMAT, token_budget=4_096)
    with caplog.at_level(logging.WARNING):
        found = scorer.score(MIXED)
    assert scorer.token_budget < 4_096
    assert "halved" in caplog.text
    for a, b in zip(found, whole, strict=True):
        assert_same(a, b)


def test_out_of_memory_that_never_ends_is_raised() -> None:
    model = tiny_model("llama")
    scorer = AnswerScorer(model, TOKENIZER, FORMAT)
    scorer.score(MIXED)

    def full(*args: object, **kwargs: object) -> object:
        raise torch.OutOfMemoryError("a full device")

    model.forward = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError, match="on a single trace"):
        scorer.score(MIXED)


def test_beyond_the_context_is_nan() -> None:
    model = tiny_model("gpt2", n_positions=40)
    trace = make_trace(12)
    curve = AnswerScorer(model, TOKENIZER, FORMAT).score([trace])[0]
    fits = [cut + 2 <= 40 for cut in trace.cuts]
    assert True in fits
    assert False in fits
    assert [lp == lp for lp in curve.logprobs] == fits
    model.eval()
    assert curve.logprobs[0] == pytest.approx(loop_at(model, trace, 0), abs=1e-4)


def loop_at(model: torch.nn.Module, trace: Trace, k: int) -> float:
    asked = [*TOKENIZER(" # 7", add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
    ids = torch.tensor([[*trace.ids[: trace.cuts[k]], *asked]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    return sum(logprobs[p - 1, ids[0, p]].item() for p in range(ids.shape[1] - 2, ids.shape[1]))


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("llama")
    model.model.layers[1].eval()
    flags = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_gradient_checkpointing_in_training_mode_changes_nothing() -> None:
    model = tiny_model("llama")
    plain = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    model.gradient_checkpointing_enable()
    model.train()
    checkpointed = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    assert checkpointed == plain


def test_flash_and_flex_attention_are_switched_for_the_pass_and_back() -> None:
    model = tiny_model("llama")
    truth = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    model.set_attn_implementation("flex_attention")
    found = AnswerScorer(model, TOKENIZER, FORMAT).score(MIXED)
    assert model.config._attn_implementation == "flex_attention"
    for a, b in zip(found, truth, strict=True):
        assert_same(a, b)


def test_without_an_answer_it_says_what_to_do() -> None:
    trace = make_trace(2)
    bare = Trace(
        problem=Problem(prompt="p", id="seven"), prompt_ids=trace.prompt_ids, completion_ids=trace.completion_ids,
        text="", steps=trace.steps, cuts=trace.cuts, answer=None, correct=False,
    )  # fmt: skip
    scorer = AnswerScorer(tiny_model("llama"), TOKENIZER, FORMAT)
    with pytest.raises(ValueError, match=r"seven.*answers="):
        scorer.score([bare])
    assert len(scorer.score([bare], answers=["7"])[0].logprobs) == 3


def test_the_path_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    scorer = AnswerScorer(tiny_model("mamba"), TOKENIZER, FORMAT)
    with caplog.at_level(logging.INFO, logger="reasoning_guard"):
        scorer.score(MIXED[:2])
        scorer.score(MIXED[:2])
    said = [record for record in caplog.records if "scoring" in record.message]
    assert len(said) == 1
    assert "a pass of its own for every branch" in said[0].message
