"""Models with recurrent layers, guarded in a real run from end to end: nothing of theirs is in the other tests."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.probes import all_probes
from reasoning_guard.twins import twin_trees
from reasoning_guard_demo.model import EOS, PAD, WORDS
from tiny_models import tiny_model


def hybrid() -> Any:
    """Two layers of linear attention and two of full attention, over the demo's words."""
    words = {"vocab_size": len(WORDS), "pad_token_id": WORDS.index(PAD), "eos_token_id": WORDS.index(EOS)}
    return tiny_model("qwen3_5", **words, bos_token_id=None, max_position_embeddings=128)


def test_a_hybrid_is_guarded_and_trained_as_without_the_guard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = runs.sft_trainer(tmp_path / "bare", hybrid())
    bare.train()
    guarded = runs.sft_trainer(tmp_path / "guarded", hybrid(), eval_strategy="steps", eval_steps=3)
    callback = runs.guard(guarded, probes=all_probes(), on_error="raise")
    with caplog.at_level(logging.INFO, logger="reasoning_guard"):
        guarded.train()
    assert "scoring Qwen3_5ForCausalLM by copies of its cache" in caplog.text
    assert runs.differing(runs.weights(bare), runs.weights(guarded)) == []
    evaluations = callback.guard.evaluations
    assert [each.step for each in evaluations] == [0, 3, 6]
    assert all(math.isfinite(row.values["info_gain"]) for row in evaluations[-1].rows)
    mediation = [row for row in evaluations[-1].rows if row.answer is not None]
    assert mediation
    assert all("masks" in row.reasons["necessity"] for row in mediation)


@pytest.mark.parametrize("training", [True, False])
def test_a_hybrid_is_left_as_it_was(training: bool) -> None:
    model = hybrid().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    BranchScorer(model).score_trees(twin_trees(len(WORDS)))
    assert torch.equal(torch.rand(1), expected)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
