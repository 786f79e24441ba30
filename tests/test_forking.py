"""Models that no mask can steer go on from copies of their caches, exactly; those that can't continue are found out."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from benchmarks.architectures import plain_loop
from reasoning_guard import forking, selftest_twin
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.exactness import largest_difference
from reasoning_guard.forking import score_forked
from reasoning_guard.model_context import reading
from reasoning_guard.sequences import TokenSequence, score_independent
from reasoning_guard.tree import Branch, TraceTree
from reasoning_guard.twins import build_twin, twin_trees
from tiny_models import tiny_model

FORKING = ["qwen3_5", "lfm2", "bloom", "gpt_neo"]
"""Recurrent and convolutional layers between attention, alibi, local windows."""


def ids(rng: random.Random, n: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, 60) for _ in range(n))


def make_tree(rng: random.Random, prompt: tuple[int, ...], n_steps: int) -> TraceTree:
    """Two answers at every cut, a long filler behind the prompt, and a question that scores its first token."""
    trunk, cuts = prompt, [len(prompt)]
    for _ in range(n_steps):
        trunk += ids(rng, rng.randint(2, 7))
        cuts.append(len(trunk))
    cue = (7, 8)
    asked = [Branch(cut, cue + answer, (2, 2 + len(answer))) for cut in cuts for answer in ((9,), (10, 11, 12))]
    filler = Branch(cuts[0], ids(rng, 25) + cue + (9,), (27, 28))
    return TraceTree(trunk, (*asked, filler, Branch(cuts[-1], (13, 14), (0, 2))))


def groups_of(seed: int) -> list[list[TraceTree]]:
    """Groups of several completions of one prompt, one completion that begins as another does, and a lone trace."""
    rng = random.Random(seed)
    prompt = ids(rng, 30)
    first = [make_tree(rng, prompt, n) for n in (4, 7, 0)]
    return [[*first, make_tree(rng, first[1].trunk, 2)], [make_tree(rng, ids(rng, 12), 3)]]


def totals(scores: Any) -> list[float]:
    return [p for each in scores for score in each for p in score.logprobs]


@contextmanager
def fed(model: nn.Module) -> Iterator[list[torch.Size]]:
    """The shapes of what the model is given to read."""
    shapes: list[torch.Size] = []

    def note(_module: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
        shapes.append(kwargs["input_ids"].shape)

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.fixture
def passes_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_CPU_PASS", 0)


@pytest.mark.parametrize("a_pass", [0, 20])
@pytest.mark.parametrize("name", FORKING)
def test_scores_are_those_of_a_plain_loop(name: str, a_pass: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_CPU_PASS", a_pass)
    model, groups = tiny_model(name), groups_of(0)
    scorer = BranchScorer(model)
    found = scorer.score_tree_groups(groups)
    assert scorer.verdict is not None
    assert scorer.verdict.forks, scorer.verdict
    assert model.training
    model.eval()
    for group, scores in zip(groups, found, strict=True):
        truth = [p for tree in group for p in plain_loop(model, tree)]
        assert totals(scores) == pytest.approx(truth, abs=2e-4)


@pytest.mark.usefixtures("passes_are_free")
def test_what_begins_alike_is_read_once() -> None:
    """One pass for each token that a group shares; a batch of one length wastes nothing on padding."""
    rng = random.Random(1)
    prompt, asked = ids(rng, 40), (7, 8, 9, 10)
    trunks = [prompt + ids(rng, 30) for _ in range(3)]
    group = [TraceTree(trunk, tuple(Branch(cut, asked, (2, 4)) for cut in (40, 50, 60, 70))) for trunk in trunks]
    model = tiny_model("lfm2")
    scorer = BranchScorer(model)
    scorer.score_tree_groups([group])  # the self-test
    with fed(model) as shapes:
        scorer.score_tree_groups([group])
    once = len(prompt) + 3 * 30
    questions = (len(asked) - 1) * (1 + 3 * 3)  # at the prompt's end once for the group
    assert sum(shape.numel() for shape in shapes) == once + questions
    assert min(shape[1] for shape in shapes) > 1, "a single token is read by other code"
    small = BranchScorer(model, token_budget=len(trunks[0]))
    with fed(model) as shapes:
        small.score_trees(group)
    assert sum(shape.numel() for shape in shapes) == once + questions, "traces come together even so"


def test_where_a_pass_costs_more_than_it_saves_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_CPU_PASS", 100_000)
    model, [group, _] = tiny_model("lfm2"), groups_of(2)
    scorer = BranchScorer(model)
    scorer.score_trees(group)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(forking, "_copies", refuse)
    with reading(model):
        alone = score_independent(model, group, scorer.token_budget)
    assert totals(scorer.score_trees(group)) == totals(alone)


def test_a_model_that_forgets_its_state_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """Jamba's layers begin anew with every pass of several tokens; that raises no error."""
    model, [group, _] = tiny_model("jamba"), groups_of(3)
    with reading(model):
        asked = twin_trees(60)
        off = largest_difference(
            score_forked(model, asked, 10**6, a_pass=0), score_independent(model, asked, token_budget=1)
        )
    assert off > 0.1
    scorer = BranchScorer(model)
    with caplog.at_level(logging.INFO, logger="reasoning_guard"):
        found = scorer.score_trees(group)
    assert "a pass of its own for every branch" in caplog.text
    model.eval()
    assert totals(found) == pytest.approx([p for tree in group for p in plain_loop(model, tree)], abs=1e-4)


def test_the_users_own_model_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is continued wrongly by this model only, as a patched forward may."""
    model: Any = tiny_model("qwen3_5")
    forward = model.forward

    def forgets(*args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        seen = past_key_values is not None and past_key_values.get_seq_length() > 0
        fresh = DynamicCache(config=model.config) if seen else past_key_values
        return forward(*args, past_key_values=fresh, **kwargs)

    with reading(model):
        assert selftest_twin.verdict_of_twin(model).forks
    monkeypatch.setattr(model, "forward", forgets)
    [group, _] = groups_of(4)
    scorer = BranchScorer(model)
    found = scorer.score_trees(group)
    assert scorer.verdict is not None
    assert not scorer.verdict.forks
    assert "copies of its cache change scores on this model" in scorer.verdict.reason
    monkeypatch.undo()
    model.eval()
    assert totals(found) == pytest.approx([p for tree in group for p in plain_loop(model, tree)], abs=2e-4)


@pytest.mark.usefixtures("passes_are_free")
def test_hidden_tokens_are_said_to_be_unscored() -> None:
    tree = TraceTree(tuple(range(3, 43)), (Branch(30, (7, 8), (1, 2)), Branch(30, (7, 8), (1, 2), hide=(5, 9))))
    [[seen, hidden]] = BranchScorer(tiny_model("lfm2")).score_trees([tree])
    assert seen.total < 0
    assert hidden.total != hidden.total


def test_what_goes_on_at_once_is_within_every_limit() -> None:
    """Three sequences of ten tokens with two scored ones, of which four are read; states of 20 elements a row."""
    model: Any = tiny_model("lfm2").eval()
    nested = {"a": [torch.zeros(5)], "b": (torch.zeros(2), torch.zeros(3))}
    cache: Any = SimpleNamespace(layers=[SimpleNamespace(keys=torch.zeros(1, 10), states=nested, seen=4)])
    three = [TokenSequence(tuple(range(i, i + 10)), 8) for i in range(3)]

    def holds(batch: list[TokenSequence] = three, budget: int = 18, a_pass: int = 0, limit: int = 10**6) -> bool:
        with reading(model):
            return forking._Room(model, 4, cache, budget, a_pass, limit).holds(batch)

    assert holds()
    assert not holds(budget=17), "tokens"
    uneven = [TokenSequence(tuple(range(8)), 7), *three[:2]]
    assert holds(uneven, a_pass=2)
    assert not holds(uneven, a_pass=1), "padding"
    assert holds(limit=3 * 20)
    assert not holds(limit=3 * 20 - 1), "copies"
    model.lm_head.register_forward_hook(lambda *_: None)
    assert holds(limit=3 * 2 * 64)
    assert not holds(limit=3 * 2 * 64 - 1), "logits of what is scored"
    model.set_attn_implementation("eager")
    assert holds(limit=3 * 4 * 6 * 10)
    assert not holds(limit=3 * 4 * 6 * 10 - 1), "attention's weights"


@pytest.mark.usefixtures("passes_are_free")
@pytest.mark.parametrize("limit", [2**13, 2**16])
def test_small_parts_score_the_same(limit: int) -> None:
    """One branch at a time from its copy, a trunk in pieces of a few tokens under eager attention."""
    model, [group, _] = tiny_model("qwen3_5", attn_implementation="eager"), groups_of(5)
    with reading(model):
        with fed(model) as at_once:
            whole = score_forked(model, group, 10**6)
        with fed(model) as in_parts:
            assert largest_difference(score_forked(model, group, 10**6, limit=limit), whole) < 2e-4
        assert max(rows for rows, _ in in_parts) < max(rows for rows, _ in at_once) or limit > 2**13
        assert largest_difference(score_forked(model, group, 1), whole) < 2e-4


@pytest.mark.usefixtures("passes_are_free")
def test_memory_that_runs_out_makes_the_parts_smaller(caplog: pytest.LogCaptureFixture) -> None:
    model, groups = tiny_model("lfm2"), groups_of(6)
    scorer = BranchScorer(model)
    whole = scorer.score_tree_groups(groups)

    def limited(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[0] > 1:
            raise torch.OutOfMemoryError("a small device")

    hook = model.register_forward_pre_hook(limited, with_kwargs=True)
    again = scorer.score_tree_groups(groups)
    hook.remove()
    for one, other in zip(whole, again, strict=True):
        assert totals(one) == pytest.approx(totals(other), abs=1e-4)
    assert "token budget halved" in caplog.text
    assert scorer.effort.alone_from == float("inf"), "fewer at once were enough"


@pytest.mark.usefixtures("passes_are_free")
def test_one_trace_that_does_not_fit_is_read_in_smaller_parts(caplog: pytest.LogCaptureFixture) -> None:
    model, [[tree, *_], _] = tiny_model("qwen3_5"), groups_of(8)
    scorer = BranchScorer(model)
    whole = scorer.score_trees([tree])

    def limited(_module: object, _args: object, _kwargs: dict[str, Any]) -> None:
        if scorer.effort.elements > 2**20:
            raise torch.OutOfMemoryError("a small device")

    scorer.effort.elements = 2**21
    hook = model.register_forward_pre_hook(limited, with_kwargs=True)
    again = scorer.score_trees([tree])
    hook.remove()
    assert totals(again) == pytest.approx(totals(whole), abs=2e-4)
    assert "it is read in smaller parts" in caplog.text
    assert scorer.effort.elements == 2**18


def test_a_device_without_room_for_a_cache_reads_branch_by_branch() -> None:
    model, [group, _] = tiny_model("bloom"), groups_of(7)
    scorer = BranchScorer(model, token_budget=2048)
    whole = scorer.score_trees(group)
    scorer.effort.alone_from = 0
    with fed(model) as shapes:
        assert totals(scorer.score_trees(group)) == pytest.approx(totals(whole), abs=1e-4)
    assert len(shapes) == len({t.trunk[: b.at] + b.ids for t in group for b in t.branches})


@pytest.mark.parametrize("name", ["qwen3_5", "lfm2"])
def test_twins_have_every_kind_of_layer_and_are_quick_to_test(name: str) -> None:
    model = tiny_model(name, hidden_size=512, num_attention_heads=16, num_key_value_heads=4, head_dim=32)
    twin: Any = build_twin(model)
    assert set(twin.config.layer_types) == set(model.config.layer_types)
    assert sum(p.numel() for p in twin.parameters()) < 500_000


def test_compared_branches_stay_uncompared() -> None:
    """Whole distributions are not kept where every branch comes in a pass of its own."""
    one = Branch(30, (7, 8), (1, 2))
    tree = TraceTree(tuple(range(3, 43)), (replace(one, against=Branch(20, (7, 8), (1, 2))),))
    [[score]] = BranchScorer(tiny_model("lfm2")).score_trees([tree])
    assert score.kl == ()
    assert score.total < 0
