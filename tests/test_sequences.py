"""Branches as sequences of their own: how many go through at once, and what they may take."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from benchmarks.architectures import plain_loop
from reasoning_guard.head import head_of
from reasoning_guard.model_context import reading
from reasoning_guard.sequences import TokenSequence, batches, score_independent, sequences_of
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import passes_of, tiny_model

TREES = [
    TraceTree(tuple(range(3, 23)), (Branch(4, (5, 6, 7, 8), (1, 3)), Branch(20, (8, 6, 7), (1, 3)))),
    TraceTree(
        tuple(range(3, 23)), (Branch(4, (5, 6, 7, 8), (1, 3)), Branch(9, (5, 6), (0, 2)), Branch(9, (7,), (0, 1)))
    ),
]


def test_a_sequence_is_what_stands_before_the_last_scored_token_and_that() -> None:
    trunk = TREES[0].trunk
    first, second, again, last = (each for every in sequences_of(TREES) for each in every[:2])
    assert first == again == TokenSequence((*trunk[:4], 5, 6, 7), 5)
    assert second == TokenSequence((*trunk, 8, 6, 7), 21)
    assert last == TokenSequence((*trunk[:9], 5, 6), 9), "its first token is scored too"
    assert [*first.wanted] == [4, 5]
    assert [*last.wanted] == [8, 9]


@pytest.mark.parametrize("split", [True, False])
def test_every_question_is_read_once_in_whatever_batches(split: bool) -> None:
    rng = random.Random(0)
    for budget in (1, 12, 23, 24, 10_000):
        model = tiny_model("llama")
        with reading(model):
            expected = [p for tree in TREES for p in plain_loop(model, tree)]
            head_of(model)
            shapes = passes_of(model)
            shuffled = rng.sample(TREES, 2)
            found = dict(zip(shuffled, score_independent(model, shuffled, budget, split=split), strict=True))
        assert [p for tree in TREES for s in found[tree] for p in s.logprobs] == pytest.approx(expected, abs=1e-4)
        assert sum(rows for rows, _ in shapes) == 4, "what two trees ask is one question"
        assert all(rows == 1 or rows * (columns + 1) <= budget for rows, columns in shapes)
        assert len(shapes) == {1: 4, 12: 4, 23: 3, 24: 3, 10_000: 1}[budget]


def test_batches_are_filled_to_the_brim_with_the_shortest_first() -> None:
    some = {TokenSequence(tuple(range(n)), 1) for n in (9, 3, 4, 8, 5, 2)}
    sizes = [[len(each.ids) for each in batch] for batch in batches(some, lambda b: len(b) * len(b[-1].ids) <= 12)]
    assert sizes == [[2, 3, 4], [5], [8], [9]]
    sizes = [[len(each.ids) for each in batch] for batch in batches(some, lambda b: len(b) * len(b[-1].ids) <= 2)]
    assert sizes == [[2], [3], [4], [5], [8], [9]], "one that does not fit comes alone"


@pytest.mark.parametrize(
    ("picks", "split", "passes"),
    [(True, True, 1), (True, False, 2), (False, False, 3)],
    ids=["never made", "of the asked places", "of all places"],
)
def test_logits_that_are_made_have_their_limit(
    picks: bool, split: bool, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences of 6, 9, 10 and 22 fed tokens, which ask at 6 places."""
    model = tiny_model("llama")
    if not picks:
        whole = model.forward
        monkeypatch.setattr(model, "forward", lambda input_ids, **rest: whole(input_ids=input_ids, **_less(rest)))
    limit, made = (5 * 3 if picks else 22) * 64, list[int]()

    def note(_model: Any, _inputs: Any, kwargs: dict[str, Any]) -> None:
        rows, columns = kwargs["input_ids"].shape
        made.append(rows * len(kwargs.get("logits_to_keep", range(columns))) * 64)

    with reading(model):
        assert (head_of(model).picks, head_of(model).splits) == (picks, True)
        model.register_forward_pre_hook(note, with_kwargs=True)
        score_independent(model, TREES, 10_000, split=split, limit=limit)
    assert len(made) == passes
    assert all(size <= limit for size in made) != split, "where the head is left to do later, there are none"


def _less(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "logits_to_keep"}


def test_padding_is_masked_where_nothing_was_read_before() -> None:
    masks: list[torch.Tensor] = []
    model = tiny_model("llama")
    with reading(model):
        head_of(model)
        model.register_forward_pre_hook(lambda _m, _a, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
        score_independent(model, TREES, 10_000)
    [mask] = masks
    assert mask.sum(1).tolist() == [6, 9, 10, 22]
    assert (mask.diff(dim=1) <= 0).all(), "on the right"
