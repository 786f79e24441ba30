"""Groups, hidden trunks, long traces, small memory and the number of operations."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.architectures import plain_loop
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.effort import Effort
from reasoning_guard.forward import LIMIT
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


def ids(rng: random.Random, n: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, 60) for _ in range(n))


def make_tree(rng: random.Random, prompt: tuple[int, ...], n_steps: int, asked: tuple[int, ...]) -> TraceTree:
    """A completion of ``prompt`` with steps of 2 to 7 tokens; the same question at each of its cuts."""
    trunk, cuts = prompt, [len(prompt)]
    for _ in range(n_steps):
        trunk += ids(rng, rng.randint(2, 7))
        cuts.append(len(trunk))
    return TraceTree(trunk, tuple(Branch(cut, asked, (1, len(asked))) for cut in cuts))


def groups_of(rng: random.Random) -> list[list[TraceTree]]:
    """Groups of one, of several, of one without steps, and of twins."""
    prompts = [ids(rng, n) for n in (30, 12, 17)]
    asked = ids(rng, 4)
    first = [make_tree(rng, prompts[0], n, asked) for n in (3, 9, 0, 5)]
    return [first, [make_tree(rng, prompts[1], 4, asked)], [make_tree(rng, prompts[2], 2, asked)] * 3]


def totals(scores: Sequence[Sequence[object]]) -> list[float]:
    return [p for each in scores for score in each for p in score.logprobs]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt_oss", "gpt2", "mamba"])
def test_groups_score_as_a_plain_loop_does(name: str) -> None:
    model = tiny_model(name)
    groups = groups_of(random.Random(0))
    found = BranchScorer(model, token_budget=150).score_tree_groups(groups)  # the first group takes several batches
    model.eval()
    for group, scores in zip(groups, found, strict=True):
        truth = [p for tree in group for p in plain_loop(model, tree)]
        assert totals(scores) == pytest.approx(truth, abs=1e-4)


def fed_tokens(model: torch.nn.Module) -> list[int]:
    seen: list[int] = []
    layer = model.model.layers[0].mlp.gate_proj  # type: ignore[union-attr]
    layer.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0] * args[0].shape[1]))
    return seen


def test_a_group_reads_its_prompt_and_the_answer_without_steps_once() -> None:
    model, rng = tiny_model("llama"), random.Random(1)
    prompt, asked = ids(rng, 40), ids(rng, 3)
    completions = [ids(rng, 12) for _ in range(8)]
    group = [TraceTree(prompt + c, tuple(Branch(at, asked, (1, 3)) for at in (40, 46, 52))) for c in completions]
    scorer = BranchScorer(model)
    scorer.score_tree_groups([group])
    seen = fed_tokens(model)
    scorer.score_tree_groups([group])
    tokens = 40 + 8 * 12 + (1 + 8 * 2) * 2
    assert tokens <= sum(seen) <= tokens + 7 * 2  # rows are padded to the first, which alone asks without steps


def test_a_beginning_that_is_read_takes_no_room_in_a_batch() -> None:
    """But memory may: what ran out behind one says nothing of batches without."""
    model, rng = tiny_model("llama"), random.Random(15)
    prompt, asked = ids(rng, 200), ids(rng, 3)
    group = [TraceTree(prompt + ids(rng, 12), tuple(Branch(at, asked, (1, 3)) for at in (206, 212))) for _ in range(8)]
    scorer, passes = BranchScorer(model, token_budget=250), []
    scorer.score_tree_groups([group])
    model.register_forward_pre_hook(lambda *_: passes.append(None))
    scorer.score_tree_groups([group])
    assert len(passes) == 3, "the prompt, the completions and the questions"
    scorer.effort.tokens, scorer.effort.held_behind = 8 * 250, 250
    passes.clear()
    scorer.score_tree_groups([group])
    assert len(passes) == 1 + 8 * 2
    passes.clear()
    scorer.score_trees(group)
    assert len(passes) == 2


def test_groups_that_share_nothing_fill_batches_together() -> None:
    model, rng = tiny_model("llama"), random.Random(12)
    asked = ids(rng, 4)
    lone = [[make_tree(rng, ids(rng, 20), 3, asked)] for _ in range(8)]
    apart = [[make_tree(rng, (1, *ids(rng, 20)), 3, asked) for _ in range(2)] for _ in range(4)]
    scorer = BranchScorer(model)
    expected = [scorer.score_trees(group) for group in (*lone, *apart)]
    passes: list[object] = []
    model.register_forward_pre_hook(lambda *_: passes.append(None))
    found = scorer.score_tree_groups([*lone, *apart])
    assert len(passes) == 2, "all trunks in one pass, all branches in another"
    for one, other in zip(found, expected, strict=True):
        assert totals(one) == pytest.approx(totals(other), abs=1e-4)


def test_a_group_is_read_as_far_as_its_branches_see() -> None:
    """Twins that go on for longer than the model's context, asked where they still are within it."""
    model, rng = tiny_model("gpt2", n_positions=64), random.Random(13)
    tree = TraceTree(ids(rng, 100), tuple(Branch(at, ids(rng, 4), (1, 4)) for at in (20, 40)))
    [scores] = BranchScorer(model).score_tree_groups([[tree, tree, tree]])
    model.eval()
    assert totals(scores) == pytest.approx(3 * plain_loop(model, tree), abs=1e-4)


def test_rows_of_a_batch_are_about_as_long() -> None:
    """Short and long traces in turns: in the order in which they come, half of what is fed would be padding."""
    model, rng = tiny_model("llama"), random.Random(14)
    asked = ids(rng, 3)
    lengths = [length for pair in zip(range(20, 60, 2), range(160, 200, 2), strict=True) for length in pair]
    trees = [TraceTree(ids(rng, n), tuple(Branch(n * k // 4, asked, (1, 3)) for k in range(1, 5))) for n in lengths]
    scorer = BranchScorer(model)
    scorer.score_trees(trees)
    seen = fed_tokens(model)
    scorer.score_trees(trees)
    unique = sum(lengths) + len(trees) * 4 * 2
    assert unique <= sum(seen) < 1.2 * unique


def hidden_truth(model: torch.nn.Module, tree: TraceTree, branch: Branch) -> list[float]:
    """One row per branch under a dense mask: its own causal triangle, less the hidden columns in the branch's rows."""
    row = torch.tensor([tree.trunk[: branch.at] + branch.ids])
    n = row.shape[1]
    seen = torch.ones(n, n).tril().bool()
    seen[branch.at :, slice(*branch.hide)] = False
    mask = torch.zeros(1, 1, n, n).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logprobs = model(input_ids=row, attention_mask=mask, position_ids=torch.arange(n)[None]).logits[0]
    logprobs = logprobs.log_softmax(-1)
    return [logprobs[branch.at + i - 1, branch.ids[i]].item() for i in range(*branch.scored)]


def test_a_branch_can_hide_the_prompt_or_the_steps() -> None:
    model, rng = tiny_model("llama"), random.Random(2)
    trunk, asked = ids(rng, 50), ids(rng, 5)
    slices = [(0, 0), (0, 20), (20, 50), (7, 9)]
    tree = TraceTree(trunk, tuple(Branch(50, asked, (2, 5), hide) for hide in slices))
    [found] = BranchScorer(model).score_trees([tree])
    model.eval()
    for score, branch in zip(found, tree.branches, strict=True):
        assert score.logprobs == pytest.approx(hidden_truth(model, tree, branch), abs=1e-4)
    assert len({round(score.total, 2) for score in found}) == len(slices), "hiding must matter"


def test_what_cannot_be_hidden_is_nan_and_the_rest_is_scored() -> None:
    model, rng = tiny_model("mamba"), random.Random(3)
    tree = TraceTree(ids(rng, 30), tuple(Branch(30, (5, 6, 7), (1, 3), hide) for hide in ((0, 4), (0, 0), (7, 7))))
    [[hidden, plain, same]] = BranchScorer(model).score_trees([tree])
    assert hidden.total != hidden.total
    assert plain.total == same.total < 0
    with pytest.raises(ValueError, match="`hide` must be a slice of the 3 trunk tokens"):
        Branch(3, (5,), (0, 1), (0, 4))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_long_traces_are_read_in_parts(attention: str) -> None:
    model = tiny_model("llama", num_hidden_layers=2, max_position_embeddings=4096)
    model.set_attn_implementation(attention)
    rng = random.Random(4)
    tree = make_tree(rng, ids(rng, 50), 60, ids(rng, 4))
    scorer = BranchScorer(model)
    scorer.effort.elements = 20_000
    largest = 0

    def watch(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        nonlocal largest
        mask = kwargs.get("attention_mask")
        largest = max(largest, mask.numel() if isinstance(mask, torch.Tensor) else 0)

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(watch, with_kwargs=True)
    scorer.score_trees([tree])  # with the self-test
    largest = 0
    found = scorer.score_trees([tree])
    assert 0 < largest <= 20_000
    model.eval()
    assert totals(found) == pytest.approx(plain_loop(model, tree), abs=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_long_branches_are_read_in_pieces(attention: str) -> None:
    """Branches as long as the trunk, hidden and compared ones among them, under masks that are a small part of it."""
    model, rng = tiny_model("llama", num_hidden_layers=2, max_position_embeddings=4096), random.Random(10)
    model.set_attn_implementation(attention)
    trunk, other, asked = ids(rng, 300), ids(rng, 250), ids(rng, 4)
    scored = (251, 254)
    full, bare = Branch(300, asked, (1, 4)), Branch(40, other + asked, scored, hide=(0, 40))
    again = Branch(40, other + asked, scored, against=bare)
    tree = TraceTree(trunk, (full, bare, again, Branch(300, asked, (1, 4), hide=(40, 300), against=again)))
    scorer = BranchScorer(model)
    [whole] = scorer.score_trees([tree])
    scorer.effort.elements = 100_000
    sizes: list[int] = []
    layer = model.model.layers[0].self_attn
    layer.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(kwargs["attention_mask"].numel() if _masked(kwargs) else 0),
        with_kwargs=True,
    )
    [found] = scorer.score_trees([tree])
    assert 0 < max(sizes) <= 50_000
    assert len(sizes) > 5
    model.eval()
    for score, same, branch in zip(found, whole, tree.branches, strict=True):
        assert score.logprobs == pytest.approx(hidden_truth(model, tree, branch), abs=1e-4)
        assert score.kl == pytest.approx(same.kl, abs=1e-4)
        assert score.js == pytest.approx(same.js, abs=1e-4)
    assert [bool(score.kl) for score in found] == [False, False, True, True]


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_masks_over_long_trunks_are_made_in_pieces(kind: str) -> None:
    """Behind a prompt that was read before, and beyond a window, a trunk needs a mask; never one of its own square."""
    settings = {"num_hidden_layers": 2, "max_position_embeddings": 4096}
    model = tiny_model(kind, **settings, **({"sliding_window": 64} if kind == "mistral" else {}))
    rng = random.Random(12)
    prompt, asked = ids(rng, 40), ids(rng, 4)
    trees = [make_tree(rng, prompt + ids(rng, n), 3, asked) for n in (400, 380)]
    scorer = BranchScorer(model)
    whole = [*scorer.score_tree_groups([trees])[0], *scorer.score_trees(trees)]
    scorer.effort.elements = 60_000
    sizes: list[int] = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(kwargs["attention_mask"].numel() if _masked(kwargs) else 0),
        with_kwargs=True,
    )
    found = [*scorer.score_tree_groups([trees])[0], *scorer.score_trees(trees)]
    assert 0 < max(sizes) <= 60_000 < 400 * 400
    assert scorer.verdict is not None
    assert scorer.verdict.plan is not None
    assert totals(found) == pytest.approx(totals(whole), abs=1e-4)
    model.eval()
    assert totals(found[:1]) == pytest.approx(plain_loop(model, trees[0]), abs=1e-4)


def _masked(kwargs: dict[str, object]) -> bool:
    return isinstance(kwargs.get("attention_mask"), torch.Tensor)


@pytest.mark.slow
def test_sixteen_thousand_tokens_and_two_hundred_steps() -> None:
    model = tiny_model("llama", num_hidden_layers=1, max_position_embeddings=20_000)
    rng = random.Random(5)
    trunk, asked = ids(rng, 16_000), ids(rng, 6)
    cuts = range(80, 16_001, 80)
    tree = TraceTree(trunk, tuple(Branch(cut, asked, (2, 6)) for cut in cuts))
    masks = [0]
    model.register_forward_pre_hook(
        lambda _m, _a, kwargs: masks.append(getattr(kwargs.get("attention_mask"), "numel", lambda: 0)()),
        with_kwargs=True,
    )
    [found] = BranchScorer(model).score_trees([tree])
    assert 0 < max(masks) <= LIMIT // 4 < 16_000**2 // 30, "no table of all tokens by all tokens"
    model.eval()
    few = [0, 99, 199]
    truth = plain_loop(model, TraceTree(trunk, tuple(tree.branches[i] for i in few)))
    assert totals([[found[i] for i in few]]) == pytest.approx(truth, abs=1e-3)


def test_a_budget_that_was_found_is_every_scorers_of_the_model() -> None:
    model = tiny_model("llama")
    BranchScorer(model).effort.tokens = 123
    assert BranchScorer(model).token_budget == 123
    assert BranchScorer(tiny_model("llama")).token_budget == 2_048
    assert BranchScorer(model, token_budget=77).token_budget == 77


def operations(model: torch.nn.Module, scorer: BranchScorer, tree: TraceTree) -> int:
    with FlopCounterMode(display=False) as counter:
        scorer.score_trees([tree])
    return counter.get_total_flops()


def test_operations_are_those_of_the_unique_tokens() -> None:
    """Counted by PyTorch, computed by hand: linear layers a unique token, attention a (query, key) pair, head a row."""
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    scorer, rng = BranchScorer(model), random.Random(6)
    trunk, asked = ids(rng, 60), ids(rng, 5)
    tree = TraceTree(trunk, tuple(Branch(at, asked, (2, 5)) for at in range(12, 61, 6)))
    scorer.score_trees([tree])
    config, branch_tokens, wanted = model.config, 9 * 4, 9 * 3
    linear = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear))
    pairs = 60 * 60 + branch_tokens * (60 + branch_tokens)
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * pairs
    head = model.lm_head.weight.numel() * wanted
    assert operations(model, scorer, tree) == 2 * (linear * (60 + branch_tokens) + attention + head)


def test_long_branches_attend_to_what_they_see_and_little_else() -> None:
    """Eight replacements of the whole chain: in one row, each would attend to the trunk and to the other seven."""
    model = tiny_model("llama", max_position_embeddings=4096)
    model.set_attn_implementation("eager")
    scorer, rng = BranchScorer(model), random.Random(11)
    trunk, asked = ids(rng, 700), ids(rng, 3)
    tree = TraceTree(trunk, tuple(Branch(50, (7 + i, *ids(rng, 500), *asked), (502, 504)) for i in range(8)))
    scorer.score_trees([tree])
    config, tokens = model.config, 50 + 8 * 503
    linear = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear))
    a_pair = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    attention = (operations(model, scorer, tree) - 2 * linear * tokens) / (2 * a_pair)
    one_row = (8 * 503) * (50 + 8 * 503)
    assert attention < one_row / 6


def test_operations_grow_in_line_with_the_steps() -> None:
    model = tiny_model("llama")
    scorer, rng = BranchScorer(model), random.Random(7)
    trunk, asked = ids(rng, 400), ids(rng, 5)
    counts = []
    for n in (10, 20, 30):
        tree = TraceTree(trunk, tuple(Branch(400 - i, asked, (2, 5)) for i in range(n)))
        scorer.score_trees([tree])
        counts.append(operations(model, scorer, tree))
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    assert second == pytest.approx(first, rel=0.05)


def test_a_branch_among_many_takes_no_more_operations() -> None:
    """Attention's too: eager, where it is counted, and more branches than one row holds."""
    model = tiny_model("llama", max_position_embeddings=4096)
    model.set_attn_implementation("eager")
    scorer, rng = BranchScorer(model), random.Random(7)
    trunk, asked = ids(rng, 400), ids(rng, 9)
    a_branch = []
    for n in (100, 200, 400):
        places = [40 + i * 360 // n for i in range(n)]
        tree = TraceTree(trunk, tuple(Branch(at, asked, (2, 9)) for at in places))
        scorer.score_trees([tree])
        a_branch.append(operations(model, scorer, tree) / n)
    assert sorted(a_branch, reverse=True) == a_branch, "the trunk is shared by more, and nothing else changes"


def fails_when(model: torch.nn.Module, too_much: object) -> None:
    def limited(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        if too_much(kwargs):  # type: ignore[operator]
            raise torch.OutOfMemoryError("a small device")

    model.register_forward_pre_hook(limited, with_kwargs=True)


def test_one_trace_that_does_not_fit_is_read_in_smaller_parts(caplog: pytest.LogCaptureFixture) -> None:
    model, rng = tiny_model("llama"), random.Random(8)
    tree = make_tree(rng, ids(rng, 30), 12, ids(rng, 4))
    scorer = BranchScorer(model)
    whole = scorer.score_trees([tree])
    scorer.effort.elements = 2**21
    fails_when(model, lambda kwargs: scorer.effort.elements > 2**20)
    assert totals(scorer.score_trees([tree])) == pytest.approx(totals(whole), abs=1e-4)
    assert scorer.effort.elements == 2**18
    assert "smaller parts" in caplog.text


def test_one_trace_without_room_for_a_cache_goes_branch_by_branch(caplog: pytest.LogCaptureFixture) -> None:
    model, rng = tiny_model("llama"), random.Random(9)
    trees = [make_tree(rng, ids(rng, 30), n, ids(rng, 4)) for n in (3, 12)]
    scorer = BranchScorer(model)
    whole = scorer.score_trees(trees)
    fails_when(model, lambda kwargs: kwargs.get("use_cache") and kwargs["input_ids"].shape[1] > 60)
    assert totals(scorer.score_trees(trees)) == pytest.approx(totals(whole), abs=1e-4)
    assert "one by one" in caplog.text
    assert scorer.effort.alone_from < float("inf")


def test_effort_shrinks_in_order_and_then_gives_up() -> None:
    effort = Effort(1000, elements=2**20)
    effort.shrink([40, 50], shared=True)
    assert effort.tokens == 50
    effort.shrink([50], shared=True)
    assert effort.elements == 2**17
    effort.shrink([50], shared=True)
    assert effort.alone_from == 50
    with pytest.raises(torch.OutOfMemoryError, match="single trace of 50 tokens"):
        effort.shrink([50], shared=False)
