"""Several threads may score with one model: each gets its scores, and the model stays as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from threading import Thread

import pytest
import torch

from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


@pytest.fixture(autouse=True)
def _threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def _trees(seed: int) -> list[TraceTree]:
    rng = random.Random(seed)
    trunk = tuple(rng.randrange(3, 60) for _ in range(10 + 7 * seed))
    return [TraceTree(trunk, tuple(Branch(at, trunk[:4], (1, 4)) for at in (3, 6, len(trunk))))]


@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_threads_share_a_model(name: str) -> None:
    model = tiny_model(name)
    asked = [_trees(seed) for seed in range(3)]
    alone = [BranchScorer(model).score_trees(trees) for trees in asked]
    random_state, found = torch.get_rng_state(), [[] for _ in asked]

    def score(i: int) -> None:
        scorer = BranchScorer(model)
        for _ in range(8):
            found[i].append(scorer.score_trees(asked[i]))

    threads = [Thread(target=score, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[scores] * 8 for scores in alone]
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
