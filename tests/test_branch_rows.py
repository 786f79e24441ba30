"""Random trees in one batch, read in rows, pieces and cut caches of every size, against one masked forward a branch."""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Sequence

import pytest
import torch

from reasoning_guard import branch_pass, divergences
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.divergences import Compared
from reasoning_guard.forward import LIMIT, read_prompt, score_shared
from reasoning_guard.head import head_of
from reasoning_guard.logits import Logits
from reasoning_guard.masks import CHUNKED, FULL, SLIDING, MaskPlan
from reasoning_guard.model_context import reading
from reasoning_guard.one_pass import fits, launch_at_once
from reasoning_guard.packing import anchored, parts
from reasoning_guard.selftest import verdict_of
from reasoning_guard.tree import Branch, BranchScore, TraceTree
from reasoning_guard.trie import Trie
from tiny_models import tiny_model

SOME = TraceTree(tuple(range(3, 23)), (Branch(20, (5, 6, 7), (1, 3)),))


def random_branch(rng: random.Random, trunk: tuple[int, ...], prompt: int, asked: int, other: Branch | None) -> Branch:
    """One to seventy tokens, some as on the trunk, at any place of it; a third hide some or all that stands before."""
    at = rng.choice([rng.randint(2, len(trunk)), prompt, len(trunk)])
    repeated = trunk[at : at + rng.choice([0, 0, 5, 30])]
    ids = (*repeated, *(rng.randrange(3, 9) for _ in range(asked + rng.choice([0, 1, 3, 9, 40]))))
    start = rng.randint(0, len(ids) - asked)
    first = rng.randint(0, at)
    slices = [(0, 0)] * 6 + [(0, at), (min(prompt, at), at), (first, rng.randint(first, at))]
    return Branch(at, ids, (start, start + asked), rng.choice(slices), other)


def random_tree(rng: random.Random, prompt: tuple[int, ...]) -> TraceTree:
    """Branches of all kinds; every third is compared with another, or with one that is not asked for itself."""
    trunk = prompt + tuple(rng.randrange(3, 9) for _ in range(rng.randint(0, 50)))
    branches: list[Branch] = []
    for _ in range(rng.randint(0, 9)):
        asked = rng.randint(1, 4)
        other = random_branch(rng, trunk, len(prompt), asked, None) if rng.random() < 0.3 else None
        if branches and rng.random() < 0.2:
            one = rng.choice(branches)
            other, asked = Branch(one.at, one.ids, one.scored, one.hide), one.scored[1] - one.scored[0]
        branches.append(random_branch(rng, trunk, len(prompt), asked, other))
    return TraceTree(trunk, tuple(branches))


def distributions(model: torch.nn.Module, plan: MaskPlan, tree: TraceTree, branch: Branch) -> torch.Tensor:
    """Log-probabilities ``[m, V]`` at the scored tokens, from a forward over this branch alone under a dense mask."""
    row = torch.tensor([tree.trunk[: branch.at] + branch.ids])
    places = torch.arange(row.shape[1])
    apart = places[:, None] - places[None]
    own = branch.at - (branch.scored[0] == 0)  # the token before a branch is fed again where it is asked
    seen = apart >= 0
    seen[own:, branch.hide[0] : min(branch.hide[1], own)] = False
    masks = {FULL: seen}
    if plan.window is not None:
        masks[SLIDING] = seen & (apart < plan.window)
    if plan.chunk is not None:
        masks[CHUNKED] = seen & (places[:, None] // plan.chunk == places[None] // plan.chunk)
    added = {
        name: torch.zeros(1, 1, *each.shape).masked_fill(~each, torch.finfo(torch.float32).min)
        for name, each in masks.items()
    }
    mask = added if plan.by_layer_type else added[SLIDING if plan.window is not None else FULL]
    logits = model(input_ids=row, attention_mask=mask, position_ids=places[None], use_cache=False).logits[0]
    return logits[[branch.at + i - 1 for i in range(*branch.scored)]].double().log_softmax(-1)


def assert_right(score: BranchScore, model: torch.nn.Module, plan: MaskPlan, tree: TraceTree, branch: Branch) -> None:
    q = distributions(model, plan, tree, branch)
    expected = q.gather(1, torch.tensor(branch.ids[slice(*branch.scored)])[:, None])[:, 0]
    best = q.topk(2).values
    assert score.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert score.entropies == pytest.approx((-(q.exp() * q).sum(-1)).tolist(), abs=1e-4)
    assert score.margins == pytest.approx((best[:, 0] - best[:, 1]).tolist(), abs=1e-4)
    if branch.against is None:
        assert score.kl == score.js == ()
        return
    p = distributions(model, plan, tree, branch.against)
    middle = torch.logaddexp(p, q) - math.log(2)
    js = ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / (2 * math.log(2))
    assert score.kl == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), abs=1e-4, rel=1e-4)
    assert score.js == pytest.approx(js.tolist(), abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "mistral", "gemma2", "gemma3", "gpt_oss", "llama4"])
def test_random_trees_score_as_a_masked_forward_a_branch(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(f"{name} {seed}")
    prompts = [tuple(rng.randrange(3, 60) for _ in range(rng.randint(2, 25))) for _ in range(3)]
    together = bool(seed % 2)
    trees = [random_tree(rng, prompts[0 if together else i]) for i in range(3)]
    tokens = rng.choice([1, 16, 64])
    monkeypatch.setattr(branch_pass, "_tokens_in_a_pass", lambda _: tokens)
    monkeypatch.setattr(branch_pass, "_NARROWEST", rng.choice([1, 5, 40]))
    monkeypatch.setattr(divergences, "_BLOCK", rng.choice([1, 128, 2**22]))
    model = tiny_model(name)
    with reading(model, dense_masks=True):
        plan = verdict_of(model, [SOME]).plan
        assert plan is not None
        prompt = read_prompt(model, prompts[0]) if together else None
        limit = rng.choice([LIMIT, 100_000, 10_000, 1_000])
        once = score_shared(model, trees, plan, prompt=prompt, limit=limit)
        found = score_shared(model, trees, plan, prompt=prompt, limit=limit)
        assert found == once, "what was read ahead is left as it was"
        sees_all = fits(model, trees, plan, LIMIT)
        assert sees_all or name not in ("llama", "qwen3", "gpt2"), (
            "these have neither windows nor attention of their own"
        )
        at_once = launch_at_once(model, trees, plan)() if sees_all else found
        for tree, scores, others in zip(trees, found, at_once, strict=True):
            for branch, score, other in zip(tree.branches, scores, others, strict=True):
                assert_right(score, model, plan, tree, branch)
                assert_right(other, model, plan, tree, branch)


def test_random_trees_are_cut_compared_and_hidden_at_all() -> None:
    """The property above would also hold for trees that ask nothing."""
    rng = random.Random(0)
    branches = [b for _ in range(50) for b in random_tree(rng, tuple(range(3, 20))).branches]
    assert sum(b.against is not None for b in branches) > 50
    assert sum(b.hide[0] < b.hide[1] for b in branches) > 50
    assert sum(b.scored[0] == 0 for b in branches) > 10


@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_as_long_as_the_weights_of_a_pass_are_worth(tied: bool) -> None:
    """A head of 9.6 M parameters counts whether it has a name of its own or goes by the embedding's."""
    model = tiny_model("llama", num_hidden_layers=1, vocab_size=200_000, tie_word_embeddings=tied)
    layer = sum(p.numel() for p in model.model.layers.parameters() if p.dim() > 1)
    keys = (48 * 200_000 + layer) / (2 * 48)
    assert branch_pass._tokens_in_a_pass(model) == int((2 / 3 * 40 * keys) ** 0.5)
    assert branch_pass._tokens_in_a_pass(tiny_model("llama")) == 512, "least"


def compared_tree(rng: random.Random, n: int) -> TraceTree:
    """``n`` long branches, each compared with one that sees the trunk to its end."""
    trunk = tuple(rng.randrange(3, 60) for _ in range(40))
    full = Branch(40, (5, 6, 7), (1, 3))
    other = [tuple(rng.randrange(3, 60) for _ in range(20)) for _ in range(n)]
    return TraceTree(trunk, tuple(Branch(10, (30 + i, *ids), (18, 20), against=full) for i, ids in enumerate(other)))


def test_distributions_are_kept_only_until_they_are_compared() -> None:
    trie = Trie.of(anchored(compared_tree(random.Random(0), 8)).branches)
    compared = Compared([trie])
    kept = []
    for part in parts(trie, 24, 100):
        for piece in part.pieces:
            compared.note([piece], Logits(torch.randn(1, piece.n_wanted, 11), range(piece.n_wanted)))
            kept.append(compared.n_kept)
    assert len(kept) == 8
    assert max(kept) == 2, "the two that all are compared with"
    assert kept[-1] == 0
    assert compared.found[0].keys() == set(range(8))


def test_the_logits_of_a_pass_are_gone_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_pass, "_tokens_in_a_pass", lambda _: 16)
    monkeypatch.setattr(branch_pass, "_NARROWEST", 16)
    model, tree = tiny_model("llama"), compared_tree(random.Random(1), 6)
    model.lm_head.register_forward_hook(lambda *_: None)  # who watches the head wants to see it at work
    scorer = BranchScorer(model)
    scorer.score_trees([tree])
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    model.register_forward_pre_hook(lambda *_: alive.append(sum(each() is not None for each in made)))
    model.register_forward_hook(lambda _m, _a, output: made.append(weakref.ref(output.logits)))
    scorer.score_trees([tree])
    assert len(alive) > 6
    assert not any(alive)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_of_a_script_decides_nothing(dtype: torch.dtype) -> None:
    model, tree = tiny_model("llama"), compared_tree(random.Random(2), 4)
    usual = BranchScorer(model).score_trees([tree])
    try:
        torch.set_default_dtype(dtype)
        found = BranchScorer(model).score_trees([tree])
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == usual


def test_batches_whose_trees_ask_unequally_much_leave_no_tree_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_pass, "_tokens_in_a_pass", lambda _: 8)
    monkeypatch.setattr(branch_pass, "_NARROWEST", 8)
    rng, model = random.Random(3), tiny_model("llama")
    few, many = compared_tree(rng, 1), compared_tree(rng, 9)
    with reading(model):
        one_by_one = [score_shared(model, [tree], MaskPlan())[0] for tree in (few, many)]
        for trees, expected in (((few, many), one_by_one), ((many, few), one_by_one[::-1])):
            for scores, others in zip(score_shared(model, trees, MaskPlan()), expected, strict=True):
                assert _numbers(scores) == pytest.approx(_numbers(others), abs=1e-4)


def _numbers(scores: Sequence[BranchScore]) -> list[float]:
    return [number for score in scores for number in (*score.logprobs, *score.kl, *score.js)]


@pytest.mark.parametrize("vocabulary", [64, 4000])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("alone", [True, False])
def test_masks_and_logits_stay_within_their_limit(vocabulary: int, attention: str, alone: bool) -> None:
    """Trees of unequal branches in one batch: what is padded to the longest counts too. And one tree of both kinds."""
    small = {"num_hidden_layers": 1, "max_position_embeddings": 4096, "vocab_size": vocabulary}
    model, rng = tiny_model("llama", **small), random.Random(0)
    model.set_attn_implementation(attention)
    prompt = tuple(range(3, 20))
    trees = [random_tree(rng, prompt), random_tree(rng, prompt), compared_tree(rng, 1), compared_tree(rng, 9)]
    long = Branch(17, (3, *(rng.randrange(3, 60) for _ in range(600))), (400, 600))
    short = [Branch(17, (4 + i, *(rng.randrange(3, 60) for _ in range(20))), (1, 2 + 19 * (i > 10))) for i in range(20)]
    trees = [TraceTree(prompt, (*short, long))] if alone else [*trees, TraceTree(prompt, (long,))]
    masks, logits = [0], [0]
    model.register_forward_pre_hook(
        lambda _m, _a, kwargs: masks.append(_size(kwargs.get("attention_mask"))), with_kwargs=True
    )
    model.lm_head.register_forward_hook(
        lambda _m, _a, output: logits.append(output.numel())
    )  # watched, it makes logits
    tables = 2 * (1 + (4 if attention == "eager" else 0))  # the mask and, where they are made, the weights of each head
    limit = 250_000 if attention == "eager" else 200_000
    with reading(model):
        score_shared(model, trees, MaskPlan(), limit=limit)
    assert max(masks) * tables <= limit // 2
    assert max(logits) <= limit * 3 // 2
    assert limit / 3 < max(max(masks) * tables, max(logits)), "otherwise this would say nothing"


def _size(mask: object) -> int:
    return mask.numel() if isinstance(mask, torch.Tensor) else 0


@pytest.mark.parametrize(
    ("watched", "compared", "passes"), [(False, 0, 1), (True, 0, 2), (False, 1, 1), (False, 40, 2)]
)
def test_memory_for_logits_limits_only_what_makes_them(watched: bool, compared: int, passes: int) -> None:
    """120 positions, and room for the logits of 75; of a plain head, those that are compared are made."""
    model = tiny_model("llama", num_hidden_layers=1, vocab_size=40_000)
    trunk, asked = tuple(range(3, 63)), (5, 6, 7, 8)
    against = Branch(5, (9, 6, 7, 8), (1, 4))
    branches = [Branch(at, asked, (1, 4), against=against if at < 20 + compared else None) for at in range(20, 60)]
    with reading(model):
        assert head_of(model).splits
        if watched:
            model.lm_head.register_forward_hook(lambda *_: None)
        calls: list[object] = []
        model.register_forward_pre_hook(lambda *_: calls.append(None))
        score_shared(model, [TraceTree(trunk, tuple(branches))], MaskPlan(), limit=2_000_000)
    assert len(calls) == 1 + passes, "the trunk, then the branches"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("plan", [MaskPlan(), MaskPlan(by_layer_type=True, window=5, chunk=7)])
@pytest.mark.parametrize("trees", [1, 3])
def test_masks_get_a_quarter_of_the_room_and_logits_three(
    attention: str, plan: MaskPlan, trees: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask counts twice, for what it is made from, and so do eager weights; half a row may stand before a stem."""
    monkeypatch.setattr(branch_pass, "_tokens_in_a_pass", lambda _: 300 * trees)
    model, limit, trunk = tiny_model("llama", vocab_size=64), 2**20, 100
    model.set_attn_implementation(attention)
    short = [Branch(50, (n, *range(3, 23)), (1, 21)) for n in range(3, 43)]
    tries = [Trie.of([*short, Branch(50, (50, *range(80)), (1, 81))])] * trees
    tables = 2 * trees * (plan.n_masks + (4 if attention == "eager" else 0))
    with reading(model):
        width, wanted = branch_pass._room(model, trunk, tries, plan, limit)
        assert wanted == limit * 3 // 2 // (64 * trees)
        assert width == min(300, limit // 2 // (tables * (trunk + 300)))
        assert branch_pass._room(model, trunk, tries, plan, 16)[0] == 1, "there is always room for a token"
        monkeypatch.setattr(branch_pass, "_tokens_in_a_pass", lambda _: 60)
        for narrowest, row in ((60, 60), (1, 60 // trees)):  # the least that a row has, each by itself
            monkeypatch.setattr(branch_pass, "_NARROWEST", narrowest)
            keys = trunk + 80 + row // 2
            for room in (2**22, 40_000):
                width = branch_pass._room(model, trunk, tries, plan, room)[0]
                assert width == min(row, room // 2 // (tables * keys))


@pytest.mark.parametrize("picks", [True, False])
def test_a_row_of_a_head_that_makes_all_logits_has_room_for_them(picks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_pass, "_tokens_in_a_pass", lambda _: 300)
    model, limit = tiny_model("llama", vocab_size=20_000), 2**20
    model.lm_head.register_forward_hook(lambda *_: None)  # watched, it is not left to do later
    if not picks:
        whole = model.forward
        monkeypatch.setattr(model, "forward", lambda input_ids, use_cache: whole(input_ids, use_cache=use_cache))
    tries = [Trie.of([Branch(50, (n, *range(3, 23)), (1, 21)) for n in range(3, 43)])]
    with reading(model):
        assert (head_of(model).splits, head_of(model).picks) == (False, picks)
        logits = limit * 3 // 2 // 20_000
        assert branch_pass._room(model, 100, tries, MaskPlan(), limit) == (300 if picks else logits, logits)
