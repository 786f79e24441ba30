"""Trunks and branches in one pass: when it is taken, that it is as exact, and that it reads no token twice."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AttentionInterface,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.architectures import plain_loop
from reasoning_guard import one_pass, selftest, selftest_twin
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.forward import LIMIT, score_shared
from reasoning_guard.masks import MaskPlan, table_of, visible, visible_by
from reasoning_guard.model_context import attending_by
from reasoning_guard.one_pass import fits, launch_at_once
from reasoning_guard.packing import anchored, batch_rows, whole
from reasoning_guard.table_attention import BY_TABLE, attend_by_table
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.trie import Trie
from tiny_models import passes_of, tiny_model


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


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "mixtral", "gpt2", "mistral", "gemma3", "llama4", "gemma2", "gpt_oss"]
)
def test_it_is_taken_where_passes_are_launched_and_scores_the_same(name: str, launched: None) -> None:
    """By a table, which takes layers that see back to the first token, and scaled-dot-product attention."""
    model, trees = tiny_model(name), [a_tree(0), a_tree(1, length=31)]
    scorer = BranchScorer(model)
    scorer.score_trees(trees)
    assert scorer.verdict is not None
    assert scorer.verdict.at_once == (name not in ("gemma2", "gpt_oss"))
    fed = passes_of(model)
    found = scorer.score_trees(trees)
    assert len(fed) == (2 if scorer.verdict.plan != MaskPlan() or not scorer.verdict.at_once else 1)
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


def assert_two_passes_are_right(model: torch.nn.Module, tree: TraceTree) -> None:
    """The self-test finds masks exact and one pass not; scores are those of a forward a branch."""
    scorer = BranchScorer(model)
    [found] = scorer.score_trees([tree])
    assert scorer.verdict is not None
    assert scorer.verdict.plan is not None
    assert not scorer.verdict.at_once
    truth = plain_loop(model.eval(), tree)
    assert [p for score in found for p in score.logprobs] == pytest.approx(truth, abs=1e-4)


def test_a_model_that_takes_masks_behind_a_cache_only_is_not_read_at_once(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_pass, "table_of", lambda batch: table_of(batch).roll(1, 2))
    monkeypatch.setattr(selftest_twin, "_twins", {})
    model, tree = tiny_model("llama"), a_tree(0)
    assert_two_passes_are_right(model, tree)


@pytest.mark.parametrize("name", ["mistral", "gemma3", "llama4"])
def test_short_traces_are_within_every_window(name: str, launched: None) -> None:
    model, tree = tiny_model(name), a_tree(0, length=4, n=1)
    tree = TraceTree(tree.trunk, (Branch(4, (5, 6, 7), (1, 3)),))
    scorer = BranchScorer(model)
    [found] = scorer.score_trees([tree])
    fed = passes_of(model)
    assert scorer.score_trees([tree]) == [found]
    assert len(fed) == 1
    assert [p for score in found for p in score.logprobs] == pytest.approx(plain_loop(model.eval(), tree), abs=1e-4)


def test_kernels_without_a_mask_are_given_the_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no kernel knows tables."""
    asked: list[tuple[int, object]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(query: torch.Tensor, *inputs: object, **settings: object) -> torch.Tensor:
        mask = settings["attn_mask"]
        asked.append((query.shape[2], None if mask is None else tuple(mask.shape)))  # type: ignore[attr-defined]
        return attend(query, *inputs, **settings)  # type: ignore[arg-type]

    model, tree = tiny_model("llama").eval(), a_tree(0)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with torch.no_grad():
        launch_at_once(model, [tree], MaskPlan())
    assert {(24, None), (28, (1, 1, 28, 52))} <= set(asked)
    assert not any(queries == 52 for queries, _ in asked)
    assert model.config._attn_implementation == "sdpa"


def test_what_attention_by_a_table_does_not_know_is_refused() -> None:
    """A cap on the weights, say: the self-test then finds another way."""
    query = torch.randn(1, 2, 5, 4)
    table = table_of(batch_rows([whole(Trie.of([Branch(3, (7, 8, 9), (1, 3))]))]))
    with pytest.raises(ValueError, match="does not know softcap=30"):
        attend_by_table(torch.nn.Module(), query, query, query, table, softcap=30.0, dropout=0.0)


def test_a_model_that_caps_its_attention_is_read_in_two_passes(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest_twin, "_twins", {})

    def capped(*inputs: object, **settings: object) -> object:
        return attend_by_table(*inputs, softcap=30.0, **settings)  # type: ignore[arg-type]

    monkeypatch.setitem(AttentionInterface._global_mapping, BY_TABLE, capped)
    model, tree = tiny_model("llama"), a_tree(0)
    assert_two_passes_are_right(model, tree)


def test_masks_and_logits_must_fit() -> None:
    """A mask in place of the table, should no kernel know tables."""
    model, plan = tiny_model("llama"), MaskPlan()
    fed = 4 * 8
    mask = 4 * fed * (24 + fed)
    assert fits(model, [a_tree(0)], plan, LIMIT)
    assert fits(model, [a_tree(0)], plan, mask)
    assert not fits(model, [a_tree(0)], plan, mask - 2)
    assert not fits(model, [a_tree(0), a_tree(1)], plan, mask)
    against = Branch(24, (5, 6, 7, 8, 9, 10), (1, 6))
    compared = [a_tree(0, against=against)]
    vocabulary = model.config.vocab_size
    fed += 4 * 6
    enough = max(4 * fed * (24 + fed), 4 * 2 * 5 * vocabulary * 2 // 3 + 1)
    assert fits(model, compared, plan, enough)
    assert not fits(model, compared, plan, enough - 2), "what is compared with is fed too"
    model.lm_head.register_forward_hook(lambda *_: None)  # who watches the head wants to see it at work
    assert not fits(model, [a_tree(0)], plan, 4 * 5 * vocabulary * 2 // 3 - 2)


def test_where_a_kernel_reads_the_table_no_mask_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan, asked = tiny_model("llama"), MaskPlan(), []
    monkeypatch.setattr(one_pass, "needs_no_mask", lambda *of: bool(asked.append(of)) or True)
    assert fits(model, [a_tree(0)], plan, 0)
    assert not fits(model, [a_tree(0)], MaskPlan(window=30), LIMIT)
    model.bfloat16()
    with torch.autocast("cpu", torch.float16):
        assert fits(model, [a_tree(0)], plan, 0)
    assert fits(model, [a_tree(0)], plan, 0)
    size = model.config.hidden_size // model.config.num_attention_heads
    cpu = torch.device("cpu")
    assert asked == [(cpu, torch.float32, size), (cpu, torch.float16, size), (cpu, torch.bfloat16, size)]
    model.lm_head.register_forward_hook(lambda *_: None)
    enough = 4 * 5 * model.config.vocab_size * 2 // 3 + 1
    assert fits(model, [a_tree(0)], plan, enough)
    assert not fits(model, [a_tree(0)], plan, enough - 3), "logits must"


@pytest.mark.parametrize(
    "settings",
    [{}, {"hidden_size": 64}, {"hidden_size": 64, "num_attention_heads": [2, 4]}, {"num_attention_heads": 4}],
    ids=str,
)
def test_where_settings_say_nothing_of_heads_a_mask_must_fit(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(one_pass, "needs_no_mask", lambda *_: True)
    monkeypatch.setattr(one_pass, "text_config", lambda _: SimpleNamespace(vocab_size=64, **settings))
    assert not fits(model, [a_tree(0)], MaskPlan(), 0)
    assert fits(model, [a_tree(0)], MaskPlan(), LIMIT)


def test_what_was_taken_for_a_kernels_is_right_under_a_mask(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_pass, "needs_no_mask", lambda *_: True)
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    scorer.score_trees([tree])
    scorer.effort.elements = 10
    fed = passes_of(model)
    [found] = scorer.score_trees([tree])
    assert fed == [(1, 24 + 4 * 7)]
    truth = plain_loop(model.eval(), tree)
    assert [p for score in found for p in score.logprobs] == pytest.approx(truth, abs=1e-4)


def test_windows_that_hide_some_of_a_trace_and_other_attention_do_not_fit() -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    assert not fits(model, [tree], MaskPlan(window=24 + 4 * 8 - 1), LIMIT)
    assert fits(model, [tree], MaskPlan(window=24 + 4 * 8), LIMIT)
    mixed = MaskPlan(by_layer_type=True, window=500, chunk=30)
    assert not fits(model, [tree], mixed, LIMIT)
    assert fits(model, [tree], replace(mixed, chunk=60), LIMIT)
    model.set_attn_implementation("eager")
    assert not fits(model, [tree], MaskPlan(), LIMIT)


def test_a_table_says_what_a_mask_says() -> None:
    trees = [a_tree(0, hide=(1, 3)), a_tree(1, length=19)]
    batch = batch_rows([whole(Trie.of(anchored(tree).branches)) for tree in trees])
    assert torch.equal(visible_by(table_of(batch), 24), visible(24, batch))
    assert MaskPlan(by_layer_type=True, window=99).everywhere(batch.at).keys() == {
        "full_attention",
        "sliding_attention",
    }


def test_the_longest_trunk_and_the_longest_row_may_be_of_two_trees() -> None:
    """Padded, a pass is as wide as both together."""
    model, plan = tiny_model("llama"), MaskPlan()
    long = TraceTree(tuple(range(3, 53)) * 4, (Branch(200, (5, 6), (1, 2)),))
    wide = TraceTree((5, 6, 7), tuple(Branch(3, (i, 9, 8, 7), (1, 4)) for i in range(3, 53)))
    mask = 2 * (50 * 4) * (200 + 50 * 4)
    assert not fits(model, [long, wide], plan, 2 * 2 * mask - 2)
    assert fits(model, [long, wide], plan, 2 * 2 * mask)
    assert fits(model, [long], plan, 2 * 2 * 2 * 202)


def test_memory_that_runs_out_in_one_pass_leads_to_two(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    expected = scorer.score_trees([tree])

    def full(*_: object) -> object:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("reasoning_guard.batching.launch_at_once", full)
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


def test_one_pass_that_fails_after_its_test_leads_to_two(
    launched: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    [expected] = scorer.score_trees([tree])

    def refuse(*_: object) -> object:
        raise ValueError("attention by a table does not know that")

    monkeypatch.setattr("reasoning_guard.batching.launch_at_once", refuse)
    for _ in range(2):
        [found] = scorer.score_trees([tree])
        assert [p for s in found for p in s.logprobs] == pytest.approx(
            [p for s in expected for p in s.logprobs], abs=1e-4
        )
    assert [r.message for r in caplog.records if "one pass failed" in r.message] == [
        "one pass failed: trunks are read first from now on (attention by a table does not know that)"
    ]


def test_what_two_passes_refuse_too_is_raised(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    scorer.score_trees([tree])

    def broken(*_: object, **__: object) -> object:
        raise ValueError("a layer of its own")

    monkeypatch.setattr(model.model.layers[0], "forward", broken)
    with pytest.raises(ValueError, match="a layer of its own"):
        scorer.score_trees([tree])


def test_attention_that_a_host_replaces_is_tested_anew(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tree = tiny_model("llama"), a_tree(0)
    scorer = BranchScorer(model)
    [before] = scorer.score_trees([tree])
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def sharper(*inputs: object, scaling: float, **settings: object) -> object:
        return plain(*inputs, scaling=3 * scaling, **settings)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", sharper)
    [found] = scorer.score_trees([tree])
    truth = plain_loop(model.eval(), tree)
    assert [p for s in found for p in s.logprobs] == pytest.approx(truth, abs=1e-4)
    assert [p for s in before for p in s.logprobs] != pytest.approx(truth, abs=1e-2)


def test_parts_that_attend_differently_do_so_afterwards() -> None:
    text = LlamaConfig(vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)
    parts = {"": "sdpa", "text_config": "sdpa", "vision_config": "eager"}
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=parts)

    def attention() -> tuple[str, ...]:
        wholes = model.config, model.config.text_config, model.config.vision_config
        return tuple(each._attn_implementation for each in wholes)

    with attending_by(model, BY_TABLE):
        assert attention() == (BY_TABLE, BY_TABLE, "eager")
    assert attention() == ("sdpa", "sdpa", "eager")


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
