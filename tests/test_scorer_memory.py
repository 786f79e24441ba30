"""Memory that runs out, wherever it does: less is asked, nothing wrong is learnt, and what is right is found again."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.hooks import RemovableHandle

from benchmarks.architectures import plain_loop
from reasoning_guard import batching, branch_scorer, effort, selftest
from reasoning_guard.batching import Batches
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.effort import Effort, effort_of
from reasoning_guard.forward import LIMIT
from reasoning_guard.model_context import reading
from reasoning_guard.sequences import score_independent
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


def a_tree(length: int, seed: int = 0) -> TraceTree:
    """Questions of 4 tokens at six cuts."""
    rng = random.Random(seed)
    ids = [rng.randrange(3, 60) for _ in range(length + 5)]
    asked = tuple(ids[length:])
    return TraceTree(tuple(ids[:length]), tuple(Branch(length * k // 6, asked, (1, 5)) for k in range(1, 7)))


def totals(scores: Any) -> list[float]:
    return [p for each in scores for score in each for p in score.logprobs]


def truth(model: Any, trees: list[TraceTree]) -> list[float]:
    model.eval()
    return [p for tree in trees for p in plain_loop(model, tree)]


def full_when(model: torch.nn.Module, too_much: Callable[[dict[str, Any]], bool]) -> RemovableHandle:
    def limited(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if too_much(kwargs):
            raise torch.OutOfMemoryError("a full device")

    return model.register_forward_pre_hook(limited, with_kwargs=True)


def test_a_test_that_does_not_fit_is_made_in_smaller_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, trees = tiny_model("llama"), [a_tree(30), a_tree(50)]
    scorer = BranchScorer(model, token_budget=2_048)
    tested: list[int] = []
    monkeypatch.setattr(
        branch_scorer,
        "verdict_of",
        lambda m, asked, limit: tested.append(limit) or selftest.verdict_of(m, asked, limit),
    )
    full_when(model, lambda kwargs: bool(kwargs.get("use_cache")) and tested[-1] > LIMIT // 50)
    found = scorer.score_trees(trees)
    assert scorer.verdict is not None
    assert scorer.verdict.path == "one shared pass"
    assert tested == [LIMIT, LIMIT // 8, LIMIT // 64]
    assert scorer.effort.elements == LIMIT, "that of the traces is learnt from the traces"
    assert totals(found) == pytest.approx(truth(model, trees), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3_5"])
def test_a_test_without_any_room_teaches_nothing_for_later(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A full device at the first evaluation must not make the model slow for the rest of the run."""
    model, trees = tiny_model(name), [a_tree(30)]
    scorer = BranchScorer(model)
    hook = full_when(model, lambda kwargs: bool(kwargs.get("use_cache")))
    found = scorer.score_trees(trees)
    assert scorer.verdict is not None
    assert scorer.verdict.reason == "memory is too small to test it"
    assert "one by one for now" in caplog.text
    hook.remove()
    assert totals(found) == pytest.approx(truth(model, trees), abs=1e-4)
    again = scorer.score_trees(trees)
    assert scorer.verdict.plan or scorer.verdict.forks
    assert scorer.effort == Effort(2_048)
    assert totals(again) == pytest.approx(truth(model, trees), abs=1e-4)


def test_a_single_forward_that_does_not_fit_is_an_error() -> None:
    model = tiny_model("llama")
    scorer = BranchScorer(model)
    full_when(model, lambda kwargs: True)
    with pytest.raises(torch.OutOfMemoryError, match="on a single trace of 54 tokens"):
        scorer.score_trees([a_tree(30)])
    assert scorer.effort == Effort(2_048), "nothing that would last"


def test_branches_that_go_alone_are_read_fewer_at_once_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    """Models that nothing can be shared in are padded to batches; a batch within one trace can be halved too."""
    model, trees = tiny_model("mamba"), [a_tree(30)]
    scorer = BranchScorer(model)
    scorer.score_trees(trees)
    assert scorer.verdict is not None
    assert scorer.verdict.pads
    assert not scorer.verdict.forks
    hook = full_when(model, lambda kwargs: kwargs["input_ids"].shape[0] > 2)
    found = scorer.score_trees(trees)
    assert "on branches of one trace: token budget halved" in caplog.text
    assert scorer.effort.alone_from == float("inf")
    hook.remove()
    assert totals(found) == pytest.approx(truth(model, trees), abs=1e-4)


def test_groups_of_single_tokens_are_read_fewer_at_once_when_memory_runs_out() -> None:
    """Behind a beginning that is all of their trunks, little is left to count: but something."""
    model, trunk = tiny_model("llama"), tuple(range(3, 43))
    group = [TraceTree(trunk, (Branch(40, (50 + i,), (0, 1)),)) for i in range(4)]
    group.append(TraceTree(trunk, (Branch(40, (5, 6, 7), (1, 3)),)))
    scorer = BranchScorer(model)
    [expected] = scorer.score_tree_groups([group])
    full_when(model, lambda kwargs: kwargs["input_ids"].shape[0] > 1)
    [found] = scorer.score_tree_groups([group])
    assert totals(found) == pytest.approx(totals(expected), abs=1e-4)
    assert scorer.effort.held_behind == 41
    assert scorer.token_budget == 2_048, "which counts what is read, and one beginning was"


def test_a_beginning_that_was_too_long_once_makes_only_traces_as_long_slow() -> None:
    model, prompt, short = tiny_model("llama"), tuple(range(3, 53)), a_tree(24)
    hiding = TraceTree(short.trunk, (*short.branches, Branch(20, (7, 8), (1, 2), hide=(5, 9))))
    group = [TraceTree((*prompt, 5 + i), (Branch(51, (7, 8), (1, 2)),)) for i in range(4)]
    scorer = BranchScorer(model)
    expected, [of_group] = totals(scorer.score_trees([hiding])), scorer.score_tree_groups([group])
    hook = full_when(model, lambda kwargs: kwargs["input_ids"].shape[1] > 20 and bool(kwargs.get("use_cache")))
    [found] = scorer.score_tree_groups([group])
    hook.remove()
    assert totals(found) == pytest.approx(totals(of_group), abs=1e-4)
    assert (scorer.effort.alone_from, scorer.effort.elements, scorer.token_budget) == (50, LIMIT, 2_048)
    assert totals(BranchScorer(model).score_trees([hiding])) == pytest.approx(expected, abs=1e-4)


def test_padding_that_does_not_fit_is_left_out() -> None:
    model, trees = tiny_model("mamba"), [a_tree(30), a_tree(40)]
    scorer = BranchScorer(model)
    full_when(model, lambda kwargs: kwargs["input_ids"].numel() > 50)
    assert totals(scorer.score_trees(trees)) == pytest.approx(truth(model, trees), abs=1e-4)
    assert scorer.verdict is not None
    assert not scorer.verdict.pads


def test_a_long_trace_makes_only_traces_as_long_slow() -> None:
    model, trees = tiny_model("llama"), [a_tree(24), a_tree(60), a_tree(24, seed=1)]
    scorer = BranchScorer(model)
    expected = totals(scorer.score_trees(trees))
    shapes: list[int] = []
    full_when(model, lambda kwargs: shapes.append(kwargs["input_ids"].shape[1]) or _long(kwargs))
    assert totals(scorer.score_trees(trees)) == pytest.approx(expected, abs=1e-4)
    assert (scorer.effort.alone_from, scorer.effort.elements) == (84, LIMIT)
    shapes.clear()
    assert totals(scorer.score_trees(trees)) == pytest.approx(expected, abs=1e-4)
    assert len(shapes) == 2 + 6, "trunks and branches of the two short ones, then the long one's branches"


def _long(kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("use_cache")) and kwargs["input_ids"].shape[1] > 50


def test_other_words_for_a_full_device_count_too() -> None:
    model, trees = tiny_model("llama"), [a_tree(20), a_tree(20, seed=1)]
    scorer = BranchScorer(model)
    expected = totals(scorer.score_trees(trees))

    def limited(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[0] > 1:
            raise RuntimeError("MPS backend out of memory. (MPS allocated: 8 GB)")

    hook = model.register_forward_pre_hook(limited, with_kwargs=True)
    assert totals(scorer.score_trees(trees)) == pytest.approx(expected, abs=1e-4)
    hook.remove()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scorer.score_trees(trees)


def test_logits_of_sequences_of_their_own_are_bounded() -> None:
    model, trees = tiny_model("cohere", vocab_size=4_000), [a_tree(24)]
    sizes: list[int] = []
    with reading(model):
        whole = score_independent(model, trees, 10**6)
        model.lm_head.register_forward_hook(lambda _m, _a, output: sizes.append(output.numel()))
        found = score_independent(model, trees, 10**6, limit=300_000)
    assert totals(found) == pytest.approx(totals(whole), abs=1e-4)
    assert 100_000 < max(sizes) <= 300_000


def test_what_was_learnt_belongs_to_a_device_and_to_how_many_processes_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scorer is often made while its model is still on the CPU, and before the processes know of each other."""
    model = tiny_model("llama")
    scorer = BranchScorer(model)
    assert (scorer.token_budget, scorer.effort.trying) == (2_048, False)
    scorer.effort.tokens = 512
    monkeypatch.setattr(effort, "device_of", lambda model: torch.device("cuda"))
    assert (scorer.token_budget, scorer.effort.trying) == (8_192, True)
    monkeypatch.setattr(effort, "_several_processes", lambda: True)
    assert (scorer.token_budget, scorer.effort.trying) == (16_384, False)
    monkeypatch.undo()
    assert scorer.token_budget == 512
    monkeypatch.setattr(effort, "device_of", lambda model: torch.device("cuda"))
    torch.use_deterministic_algorithms(True)
    try:
        assert (scorer.token_budget, scorer.effort.trying) == (16_384, False)
    finally:
        torch.use_deterministic_algorithms(False)


def test_sixteen_bits_leave_room_for_twice_as_many_elements() -> None:
    assert effort_of(tiny_model("llama")).elements == LIMIT
    assert effort_of(tiny_model("llama").bfloat16()).elements == 2 * LIMIT
    assert BranchScorer(tiny_model("llama").bfloat16(), token_budget=100).effort.elements == 2 * LIMIT


def test_smaller_parts_that_helped_are_kept() -> None:
    effort = Effort(1_000)
    effort.shrink([50], shared=True)
    effort.shrink([70], shared=True)
    effort.shrink([70], shared=True)
    assert effort.alone_from == 70
    assert effort.elements == LIMIT // 8, "what the trace of 50 needed, and not what was no help to that of 70"


def test_what_a_batch_brought_is_fetched_once_the_next_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is safe: CUDA says at launch that memory ran out. A launch that fails loses nothing of what waits."""
    model, trees = tiny_model("llama"), [a_tree(length, length) for length in (12, 18, 24, 30, 36)]
    expected = BranchScorer(model, token_budget=60).score_trees(trees)
    monkeypatch.setattr(batching, "device_of", lambda _: torch.device("cuda"))
    monkeypatch.setattr(batching, "empty_cache", lambda _: None)
    own = Batches._launch_batch
    for failing in (None, 0, 2):
        scorer, events = BranchScorer(model, token_budget=60), []

        def spied(*inputs: Any, events: list[str] = events, failing: int | None = failing) -> Any:
            events.append("launch")
            if failing is not None and events.count("launch") == failing + 1:
                raise torch.OutOfMemoryError("full")
            scores = own(*inputs)
            return lambda: events.append("fetch") or scores()

        monkeypatch.setattr(Batches, "_launch_batch", spied)
        assert totals(scorer.score_trees(trees)) == pytest.approx(totals(expected), abs=1e-5)
        assert events.count("fetch") == 5
        if failing is None:
            assert events == ["launch", *["launch", "fetch"] * 4, "fetch"]


def test_memory_is_given_back_when_nothing_of_the_failed_batch_holds_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is being handled holds the frames that it went through, and they hold what they had made."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    own = Batches._launch_batch

    def full_once(*inputs: Any) -> Any:
        if held:
            return own(*inputs)
        made = torch.zeros(8)
        held.append(weakref.ref(made))
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Batches, "_launch_batch", full_once)
    monkeypatch.setattr(batching, "empty_cache", lambda _: alive.extend(ref() is not None for ref in held))
    gc.disable()  # whatever frees it must not be chance
    try:
        BranchScorer(tiny_model("llama"), token_budget=60).score_trees([a_tree(12), a_tree(18)])
    finally:
        gc.enable()
    assert alive == [False]
