"""How far two ways of scoring are apart, and what counts as an answer to that question."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reasoning_guard import exactness
from reasoning_guard.exactness import largest_difference, try_at_once, try_copies, try_sharing, within_reach
from reasoning_guard.forward import Scores
from reasoning_guard.masks import MaskPlan
from reasoning_guard.model_context import reading
from reasoning_guard.sequences import score_independent
from reasoning_guard.tree import Branch, BranchScore, TraceTree
from tiny_models import tiny_model

TREES = [
    TraceTree(tuple(range(3, 23)), (Branch(4, (5, 6, 7), (1, 3)), Branch(20, (8, 6, 7), (1, 3)))),
    TraceTree(tuple(range(30, 41)), (Branch(7, (5, 9), (1, 2)),)),
]


def score(*logprobs: float) -> BranchScore:
    return BranchScore(logprobs, (True,) * len(logprobs), (), ())


def test_the_largest_difference_is_that_of_any_token_of_any_branch_of_any_tree() -> None:
    truth = [[score(-1.0, -2.0), score(-3.0)], [score(-4.0)]]
    assert largest_difference(truth, truth) == 0.0
    for tree, branch, token in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        found = [[[*each.logprobs] for each in scores] for scores in truth]
        found[tree][branch][token] += 0.25
        moved = [[score(*each) for each in scores] for scores in found]
        assert largest_difference(moved, truth) == largest_difference(truth, moved) == 0.25


def test_a_token_that_cannot_come_differs_from_one_that_can_and_what_is_no_number_from_everything() -> None:
    never = score(-math.inf, -1.0)
    assert largest_difference([[never]], [[never]]) == 0.0
    assert largest_difference([[never]], [[score(-9.0, -1.0)]]) == math.inf
    for place in (0, 1):
        lost = [-1.0, -1.0]
        lost[place] = math.nan
        assert largest_difference([[score(*lost)]], [[score(-1.0, -1.0)]]) == math.inf


def test_whatever_is_compared_must_be_as_many() -> None:
    for found in ([], [[]], [[score(-1.0, -1.0)]]):
        with pytest.raises(ValueError, match=r"shorter|longer"):
            largest_difference(found, [[score(-1.0)]])


def moved(scores: Scores, by: float = 0.5) -> Scores:
    return [[score(*(each - by for each in branch.logprobs)) for branch in tree] for tree in scores]


@pytest.mark.parametrize("ahead", [True, False])
def test_sharing_is_tried_with_and_without_a_beginning_that_is_read_ahead(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lengths = exactness.score_shared, list[int]()

    def off(model: Any, trees: Any, plan: Any, *, prompt: Any = None, limit: int) -> Scores:
        lengths.append(0 if prompt is None else prompt.length)
        found = whole(model, trees, plan, prompt=prompt, limit=limit)
        return moved(found) if (prompt is not None) == ahead else found

    model = tiny_model("llama")
    with reading(model):
        truth = score_independent(model, TREES, 1)
        assert try_sharing(model, TREES, MaskPlan(), truth) < 1e-4
        monkeypatch.setattr(exactness, "score_shared", off)
        assert try_sharing(model, TREES, MaskPlan(), truth) == pytest.approx(0.5, abs=1e-4)
    assert sorted(lengths) == [0, 10], "half of the first trunk: one branch attaches before its end, one behind"


Ways = {
    "score_shared": lambda model, truth: try_sharing(model, TREES, MaskPlan(), truth),
    "launch_at_once": lambda model, truth: try_at_once(model, TREES, truth, MaskPlan()),
    "score_forked": lambda model, truth: try_copies(model, TREES, truth),
}


@pytest.mark.parametrize("name", Ways)
def test_an_error_is_an_answer_and_memory_that_runs_out_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ask = tiny_model("llama"), Ways[name]

    def failing(error: Exception) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        return fail

    with reading(model):
        truth = score_independent(model, TREES, 1)
        assert ask(model, truth) < 1e-4
        assert ask(model, moved(truth)) == pytest.approx(0.5, abs=1e-4)
        monkeypatch.setattr(exactness, name, failing(TypeError("takes no such mask")))
        assert ask(model, truth) == math.inf
        monkeypatch.setattr(exactness, name, failing(torch.OutOfMemoryError("full")))
        with pytest.raises(torch.OutOfMemoryError):
            ask(model, truth)


def test_one_pass_is_for_attention_that_a_table_can_stand_in_for() -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    with reading(model):
        assert try_at_once(model, TREES, score_independent(model, TREES, 1), MaskPlan()) == math.inf


def test_within_reach_is_what_every_layer_sees_to_its_last_token() -> None:
    truth = [[score(-1.0), score(-2.0)], [score(-3.0)]]
    assert within_reach(TREES, truth, MaskPlan()) == (TREES, truth)
    kept, scores = within_reach(
        TREES, truth, MaskPlan(window=9)
    )  # two branches end behind 7 and 9 tokens, one behind 23
    assert [tree.branches for tree in kept] == [TREES[0].branches[:1], TREES[1].branches]
    assert [tree.trunk for tree in kept] == [tree.trunk for tree in TREES]
    assert scores == [[score(-1.0)], [score(-3.0)]]
    _, scores = within_reach(TREES, truth, MaskPlan(window=8))
    assert scores == [[score(-1.0)], []]
