"""Trunks and branches in one pass: when it is taken, that it is as exact, and that it reads no token twice."""

from __future__ import annotations

import random

import pytest
import torch

from benchmarks.architectures import plain_loop
from reasoning_guard import one_pass, selftest
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.forward import LIMIT, score_shared
from reasoning_guard.masks import MaskPlan, mask_plans
from reasoning_guard.one_pass import fits, launch_at_once, trunks_go_apart
from reasoning_guard.packing import anchored, batch_rows, pack
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


def a_tree(seed: int, length: int = 24, n: int = 4, **options: object) -> TraceTree:
    rng = random.Random(seed)
    ids = [rng.randrange(3, 60) for _ in range(length + 8)]
    asked = tuple(ids[length:])
    cuts = [length * (k + 1) // n for k in range(n)]
    return TraceTree(tuple(ids[:length]), tuple(Branch(at, asked, (3, 8), **options) for at in cuts))  # type: ignore[arg-type]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where passes are launched."""
    monkeypatch.setattr(one_pass, "is_launched", lambda _: True)
    monkeypatch.setattr(selftest, "is_launched", lambda _: True)


def passes_of(model: torch.nn.Module) -> list[tuple[int, ...]]:
    """Shapes of what is fed from now on."""
    fed: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _m, _a, kw: fed.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    return fed


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3", "gpt_oss", "llama4", "gpt2"])
def test_it_is_taken_where_passes_are_launched_and_scores_the_same(name: str, launched: None) -> None:
    model, trees = tiny_model(name), [a_tree(0), a_tree(1, length=31)]
    scorer = BranchScorer(model)
    scorer.score_trees(trees)
    assert scorer.verdict is not None
    assert scorer.verdict.at_once
    fed = passes_of(model)
    found = scorer.score_trees(trees)
    assert len(fed) == 1
    model.eval()
    truth = [p for tree in trees for p in plain_loop(model, tree)]
    assert [p for scores in found for score in scores for p in score.logprobs] == pytest.approx(truth, abs=1e-4)


def test_a_cpu_reads_the_trunk_first() -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    scorer.score_trees([tree])
    assert scorer.verdict is not None
    assert not scorer.verdict.at_once
    fed = passes_of(model)
    scorer.score_trees([tree])
    assert [shape[1] for shape in fed] == [24, 4 * 7]


def test_every_token_is_fed_once(launched: None) -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    scorer.score_trees([tree])
    fed = passes_of(model)
    scorer.score_trees([tree])
    assert fed == [(1, 24 + 4 * 7)]


def test_a_model_that_takes_masks_behind_a_cache_only_is_not_read_at_once(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = MaskPlan.build_with_trunk

    def shifted(self: MaskPlan, *inputs: object) -> object:
        return right(self, *inputs).roll(1, -1)  # type: ignore[arg-type, union-attr]

    monkeypatch.setattr(MaskPlan, "build_with_trunk", shifted)
    monkeypatch.setattr(selftest, "_twins", {})
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    [found] = scorer.score_trees([tree])
    assert scorer.verdict is not None
    assert scorer.verdict.plan is not None
    assert not scorer.verdict.at_once
    model.eval()
    assert [p for score in found for p in score.logprobs] == pytest.approx(plain_loop(model, tree), abs=1e-4)


def test_trunks_attend_without_a_mask_where_a_gpu_has_more_to_do_than_to_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    assert not trunks_go_apart(model, [a_tree(0)])
    assert trunks_go_apart(model, [a_tree(0, length=20_000)]), "attention under a mask grows with the square"
    assert trunks_go_apart(model, [a_tree(0, length=200)] * 10_000), "all rows of a batch count"
    monkeypatch.setattr(one_pass, "weights_of", lambda _: 7_000_000_000)
    assert trunks_go_apart(model, [a_tree(0, length=200)])
    model.set_attn_implementation("eager")
    assert not trunks_go_apart(model, [a_tree(0, length=20_000)]), "eager attention has no other way"


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "llama4", "gpt2"])
@pytest.mark.parametrize("apart", [False, True])
def test_trunks_with_and_without_a_mask_score_the_same(name: str, apart: bool, launched: None) -> None:
    """Windows and chunks of these models are shorter than one trunk and longer than the other."""
    model, [plan, *_] = tiny_model(name).eval(), mask_plans(tiny_model(name).config)
    for trees in [a_tree(0), a_tree(1, length=31)], [a_tree(2, length=4, n=1), a_tree(3, length=4, n=2)]:
        with torch.no_grad():
            found = launch_at_once(model, trees, plan, apart)()
        truth = [p for tree in trees for p in plain_loop(model, tree)]
        assert [p for scores in found for score in scores for p in score.logprobs] == pytest.approx(truth, abs=1e-4)
        assert model.config._attn_implementation == "sdpa"


def test_kernels_without_a_mask_are_given_the_trunks(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, object]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(query: torch.Tensor, *inputs: object, **settings: object) -> torch.Tensor:
        mask = settings["attn_mask"]
        asked.append((query.shape[2], None if mask is None else tuple(mask.shape)))  # type: ignore[attr-defined]
        return attend(query, *inputs, **settings)  # type: ignore[arg-type]

    model, tree = tiny_model("llama").eval(), a_tree(0)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with torch.no_grad():
        launch_at_once(model, [tree], MaskPlan(), apart=True)
    assert {(24, None), (28, (1, 1, 28, 52))} <= set(asked)
    assert not any(queries == 52 for queries, _ in asked)


def test_masks_and_logits_must_fit() -> None:
    model, plan = tiny_model("llama"), MaskPlan()
    tokens = 24 + 4 * 8
    assert fits(model, [a_tree(0)], plan, LIMIT)
    assert fits(model, [a_tree(0)], plan, 4 * tokens**2)
    assert not fits(model, [a_tree(0)], plan, 4 * tokens**2 - 2)
    assert not fits(model, [a_tree(0), a_tree(1)], plan, 4 * tokens**2)
    against = Branch(24, (5, 6, 7, 8, 9, 10), (1, 6))
    compared = [a_tree(0, against=against)]
    vocabulary = model.config.vocab_size
    enough = max(4 * (tokens + 4 * 6) ** 2, 4 * 2 * 5 * vocabulary * 2 // 3 + 1)
    assert fits(model, compared, plan, enough)
    model.lm_head.register_forward_hook(lambda *_: None)  # who watches the head wants to see it at work
    assert not fits(model, [a_tree(0)], plan, 4 * 5 * vocabulary * 2 // 3 - 2)


@pytest.mark.parametrize("plan", [MaskPlan(), MaskPlan(window=7), MaskPlan(by_layer_type=True, window=7, chunk=5)])
def test_branches_see_what_they_see_behind_a_cache_and_trunks_what_causal_attention_sees(plan: MaskPlan) -> None:
    trees = [a_tree(0, hide=(1, 3)), a_tree(1)]
    batch = batch_rows([pack(anchored(tree).branches) for tree in trees])
    whole, behind = plan.build_with_trunk(24, batch, torch.float32), plan.build(24, batch, torch.float32)
    if isinstance(whole, torch.Tensor):
        whole, behind = {"full_attention": whole}, {"full_attention": behind}
    assert isinstance(behind, dict)
    places = torch.arange(24)
    causal = places[None] <= places[:, None]
    near = causal & (places[None] > places[:, None] - 7) if plan.window else causal
    same = causal & (places[None] // 5 == places[:, None] // 5)
    expected = {"full_attention": causal if plan.by_layer_type else near, "sliding_attention": near}
    for name, mask in whole.items():
        assert torch.equal(mask[:, :, 24:], behind[name])
        seen = mask[:, 0, :24] == 0
        assert not seen[:, :, 24:].any(), "no trunk sees a branch"
        assert torch.equal(seen[0, :, :24], expected.get(name, same))


def test_the_longest_trunk_and_the_longest_row_may_be_of_two_trees() -> None:
    """Padded, a pass is as wide as both together."""
    model, plan = tiny_model("llama"), MaskPlan()
    long = TraceTree(tuple(range(3, 53)) * 4, (Branch(200, (5, 6), (1, 2)),))
    wide = TraceTree((5, 6, 7), tuple(Branch(3, (i, 9, 8, 7), (1, 4)) for i in range(3, 53)))
    width = 200 + 50 * 4
    assert not fits(model, [long, wide], plan, 4 * 2 * width**2 - 2)
    assert fits(model, [long, wide], plan, 4 * 2 * width**2)
    assert fits(model, [long], plan, 4 * 202**2)


def test_memory_that_runs_out_in_one_pass_leads_to_two(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    expected = scorer.score_trees([tree])

    def full(*_: object) -> object:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("reasoning_guard.branch_scorer.launch_at_once", full)
    elements = scorer.effort.elements
    [found] = scorer.score_trees([tree])
    assert [p for s in found for p in s.logprobs] == pytest.approx(
        [p for s in expected[0] for p in s.logprobs], abs=1e-4
    )
    assert not scorer.effort.at_once
    assert scorer.effort.elements == elements, "two passes have all the room that they had"
    fed = passes_of(model)
    scorer.score_trees([tree])
    assert len(fed) == 2


def test_traces_too_long_for_one_pass_do_not_decide_for_short_ones(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, long, short = tiny_model("llama"), a_tree(0, length=300), a_tree(1)
    monkeypatch.setattr(selftest, "fits", lambda model, trees, *_: len(trees[0].trunk) < 100)
    scorer = BranchScorer(model)
    scorer.score_trees([long])
    assert scorer.verdict is not None
    assert scorer.verdict.at_once
    fed = passes_of(model)
    scorer.score_trees([short])
    assert len(fed) == 1


def test_trees_without_branches_cost_nothing_to_ask() -> None:
    model, plan = tiny_model("llama").eval(), MaskPlan()
    bare, tree = TraceTree((3, 4, 5), ()), a_tree(0)
    with torch.no_grad():
        assert launch_at_once(model, [bare], plan)() == [[]]
        assert score_shared(model, [bare], plan) == [[]]
        first, second = launch_at_once(model, [bare, tree], plan)()
    assert first == []
    assert [p for s in second for p in s.logprobs] == pytest.approx(plain_loop(model, tree), abs=1e-4)
