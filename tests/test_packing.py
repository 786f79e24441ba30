"""Packed rows against the definition: what a scored token sees is the trunk up to its branch, its own head, no more."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise
from typing import NamedTuple

import pytest
import torch

from reasoning_guard.masks import CHUNKED, FULL, SLIDING, MaskPlan, visible
from reasoning_guard.packing import PackedBatch, PackedRow, anchored, batch_rows, pad_right, parts, whole
from reasoning_guard.tree import Branch, BranchScore, TraceTree, ask_once
from reasoning_guard.trie import Trie

SEEDS = range(60)


def random_tree(rng: random.Random, letters: int = 3) -> TraceTree:
    """A tree over few letters, so that branches often begin alike; some branches ask the same thing twice."""
    trunk = tuple(rng.randrange(letters) for _ in range(rng.randint(2, 14)))
    branches: list[Branch] = []
    for _ in range(rng.randint(1, 12)):
        ids = tuple(rng.randrange(letters) for _ in range(rng.randint(1, 7)))
        start = rng.randrange(len(ids))
        at = rng.randint(1 if start else 2, len(trunk))
        branches.append(Branch(at, ids, (start, rng.randint(start + 1, len(ids)))))
    return TraceTree(trunk, (*branches, *rng.choices(branches, k=rng.randrange(3))))


def context(tree: TraceTree, branch: Branch, i: int) -> tuple[int, ...]:
    """Everything that stands before token ``i`` of a branch."""
    return tree.trunk[: branch.at] + branch.ids[:i]


def packed(*trees: TraceTree) -> tuple[list[PackedRow], PackedBatch, int]:
    """Trees packed as the scorer packs them, with the length of the longest trunk."""
    rows = [whole(Trie.of(anchored(tree).branches)) for tree in trees]
    return rows, batch_rows(rows), max(len(tree.trunk) for tree in trees)


class Query(NamedTuple):
    """One scored token: where in its row it is asked for, its id, and its place among all scored ones of the tree."""

    place: int
    target: int
    slot: int


def queries(row: PackedRow) -> list[Query]:
    """What is asked of a row, in the order of the scored tokens."""
    return sorted((Query(*each) for each in row.asked.T.tolist()), key=lambda query: query.slot)


def positions(row: PackedRow) -> list[int]:
    """Positions of a row's tokens."""
    return row.columns[1].tolist()


def by_branch(row: PackedRow, tree: TraceTree) -> list[list[Query]]:
    """What is asked of a row that holds all, branch by branch."""
    ends = accumulate((branch.scored[1] - branch.scored[0] for branch in tree.branches), initial=0)
    return [queries(row)[slice(*each)] for each in pairwise(ends)]


def seen_by(seen: torch.Tensor, tree: TraceTree, row: PackedRow, place: int, trunk_length: int) -> dict[int, int]:
    """Position to token id of every key that the token at ``place`` sees."""
    keys = [int(k) for k in seen[place].nonzero()[:, 0]]
    found: dict[int, int] = {}
    for key in keys:
        on_trunk = key < trunk_length
        position = key if on_trunk else positions(row)[key - trunk_length]
        assert position not in found, "two keys at one position: a branch sees the trunk or a sister beside itself"
        found[position] = tree.trunk[key] if on_trunk else row.ids[key - trunk_length]
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scored_token_sees_its_own_context_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    trees = [random_tree(rng) for _ in range(rng.randint(1, 3))]
    rows, batch, length = packed(*trees)
    for tree, row, seen in zip(trees, rows, visible(length, batch), strict=True):
        for branch, queries in zip(tree.branches, by_branch(row, tree), strict=True):
            assert [query.target for query in queries] == list(branch.ids[slice(*branch.scored)])
            for i, query in zip(range(*branch.scored), queries, strict=True):
                expected = dict(enumerate(context(tree, branch, i)))
                assert seen_by(seen, tree, row, query.place, length) == expected
                assert positions(row)[query.place] == len(expected) - 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [2, 5, 9])
def test_parts_hold_every_token_once_and_each_sees_what_it_sees_in_one_row(seed: int, width: int) -> None:
    rng = random.Random(seed)
    tree = random_tree(rng)
    anchored_tree = anchored(tree)
    [row], _, _ = packed(tree)
    divided = parts(Trie.of(anchored_tree.branches), width, max(1, width // 2))
    pieces = [piece for part in divided for piece in part.pieces]
    assert sorted(node for piece in pieces for node in piece.nodes) == sorted(row.nodes)
    assert sorted((q.slot, q.target) for piece in pieces for q in queries(piece)) == [
        (q.slot, q.target) for q in queries(row)
    ]
    for part in divided:
        before: list[PackedBatch] = []
        keys: list[int] = []
        for piece in part.pieces:
            assert len(piece.ids) <= width
            assert piece.n_wanted <= max(1, width // 2)
            batch = batch_rows([piece])
            keys += piece.nodes
            [seen] = visible(part.reach, batch, before)
            for place, node in enumerate(piece.nodes):
                at = piece.columns[2, place]
                assert seen[place, : part.reach].tolist() == [i < at for i in range(part.reach)]
                assert at <= part.reach
                expected = [row.nodes[k] for k in ancestors(row, row.nodes.index(node))]
                found = [key for key, sees in zip(keys, seen[place, part.reach :].tolist(), strict=True) if sees]
                assert sorted(found) == sorted(expected)
            before.append(batch)
    reaches = [part.reach for part in divided]
    assert reaches == sorted(reaches, reverse=True), "the cache is only ever cut shorter"


def ancestors(row: PackedRow, place: int) -> list[int]:
    """Places of a token's own branch up to and with itself."""
    nodes, leave = row.nodes, row.columns[5].tolist()
    return [other for other in range(len(row.ids)) if nodes[other] <= nodes[place] < leave[other]]


def test_a_branch_that_hides_all_of_the_trunk_needs_none_of_it() -> None:
    hidden = [Branch(9, (5, 6), (1, 2), hide) for hide in ((0, 9), (1, 9), (0, 8))]
    reaches = [parts(Trie.of([branch]), 8, 8)[0].reach for branch in hidden]
    assert reaches == [1, 1, 9]


@pytest.mark.parametrize("only_compared", [False, True])
def test_a_row_makes_no_more_distributions_than_it_may(only_compared: bool) -> None:
    """Of a branch that is compared, and of what it is compared with; of the others where all are made."""
    ids = [tuple(range(3 * i, 3 * i + 3)) for i in range(18)]
    compared = [Branch(9, ids[i], (1, 3), against=Branch(9, ids[i + 6], (1, 3))) for i in range(6)]
    tree = Trie.of([*compared, *(Branch(9, each, (1, 3)) for each in ids[12:])])
    rows = [piece for part in parts(tree, 100, 4, only_compared) for piece in part.pieces]
    made = [sum(token < 36 or not only_compared for token in row.ids) for row in rows]
    assert (max(made), sum(made)) == (4, 24 if only_compared else 36)


def test_branches_are_divided_into_rows_of_like_sizes_and_no_short_one_is_left_alone() -> None:
    def chain(first: int, size: int) -> Branch:
        return Branch(9, (first, *range(50, 50 + size)), (size - 1, size + 1))

    def sizes(branches: list[Branch]) -> list[list[int]]:
        return [[len(row.ids) for row in part.pieces] for part in parts(Trie.of(branches), 32, 100)]

    assert sizes([chain(i, 3) for i in range(12)]) == [[18], [18]], "not 32 and 4"
    assert sizes([chain(0, 3), chain(1, 41)]) == [[22, 22]], "not 3, 32 and 9"


@pytest.mark.parametrize("seed", range(10))
def test_branches_that_ask_alike_under_other_ids_stand_in_the_same_order(seed: int) -> None:
    """So that their scores round alike."""
    rng = random.Random(seed)
    asked = [tuple(rng.randrange(4) for _ in range(rng.randint(2, 7))) for _ in range(12)]
    renamed = [tuple(9 - token for token in ids) for ids in asked]
    one, other = (Trie.of([Branch(5, ids, (1, len(ids))) for ids in each]) for each in (asked, renamed))
    assert (one.columns[1:] == other.columns[1:]).all()
    assert (one.asked[0] == other.asked[0]).all()


def trie(tree: TraceTree) -> tuple[set[tuple[int, tuple[int, ...]]], set[tuple[int, tuple[int, ...]]]]:
    """All tokens that must be fed, and those whose distribution is wanted, as (place on the trunk, prefix)."""
    fed, wanted = set(), set()
    for branch in tree.branches:
        place, own, (start, stop) = branch.at, branch.ids, branch.scored
        while start and tree.trunk[place : place + 1] == own[:1]:  # what it repeats of the trunk is read there
            place, own, start, stop = place + 1, own[1:], start - 1, stop - 1
        again = start == 0  # the token before the branch has to be fed again
        at = place - again
        ids = tree.trunk[at:place] + own
        start, stop = start + again, stop + again
        fed |= {(at, ids[:i]) for i in range(1, stop)}
        wanted |= {(at, ids[:i]) for i in range(start, stop)}
    return fed, wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_every_shared_token_is_fed_once_and_wanted_ones_come_first(seed: int) -> None:
    tree = random_tree(random.Random(seed), letters=2)
    [row], _, _ = packed(tree)
    fed, wanted = trie(tree)
    assert len(row.ids) == len(fed)
    assert row.n_wanted == len(wanted)
    assert {query.place for query in queries(row)} == set(range(row.n_wanted))


def test_sharing_saves_tokens_at_all() -> None:
    """The property above would also hold for trees without a common head."""
    saved = 0
    for seed in SEEDS:
        tree = random_tree(random.Random(seed), letters=2)
        saved += sum(b.scored[1] - (b.scored[0] > 0) for b in tree.branches) - len(trie(tree)[0])
    assert saved > 100


def test_a_trace_spliced_into_itself_is_the_same_question() -> None:
    trunk = (5, 6, 7, 8, 9)
    own, spliced = Branch(5, (3, 4), (1, 2)), Branch(2, (7, 8, 9, 3, 4), (4, 5))
    assert anchored(TraceTree(trunk, (spliced,))) == anchored(TraceTree(trunk, (own,)))
    hiding = Branch(2, (7, 8, 9, 3, 4), (4, 5), hide=(0, 1))
    assert anchored(TraceTree(trunk, (hiding,))).branches == (hiding,), "those tokens of its own do not see the prompt"


@pytest.mark.parametrize("seed", SEEDS)
def test_padding_sees_one_token_and_is_seen_by_nobody(seed: int) -> None:
    rng = random.Random(seed)
    trees = [random_tree(rng) for _ in range(3)]
    rows, batch, length = packed(*trees)
    seen = visible(length, batch)
    assert bool(seen.any(-1).all()), "a token that sees nothing makes its softmax empty"
    for row, each in zip(rows, seen, strict=True):
        real = len(row.ids)
        assert not each[:real, length + real :].any()
        assert each[real:].sum(-1).eq(1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_windows_and_chunks_count_positions_not_places(seed: int) -> None:
    rng = random.Random(seed)
    trees = [random_tree(rng), random_tree(rng)]
    window, chunk = rng.randint(1, 6), rng.randint(2, 6)
    rows, batch, length = packed(*trees)
    alone = MaskPlan(window=window).build(length, batch, torch.float32)
    mixed = MaskPlan(by_layer_type=True, window=window, chunk=chunk).build(length, batch, torch.float32)
    assert isinstance(mixed, dict)
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(mixed[SLIDING], alone)
    for r, (tree, row) in enumerate(zip(trees, rows, strict=True)):
        for branch, queries in zip(tree.branches, by_branch(row, tree), strict=True):
            for i, query in zip(range(*branch.scored), queries, strict=True):
                full = dict(enumerate(context(tree, branch, i)))
                last = len(full) - 1
                near = {p: t for p, t in full.items() if p > last - window}
                same = {p: t for p, t in full.items() if p // chunk == last // chunk}
                for name, expected in ((FULL, full), (SLIDING, near), (CHUNKED, same)):
                    assert seen_by(mixed[name][r, 0] == 0, tree, row, query.place, length) == expected, name


@pytest.mark.parametrize(("window", "chunk"), [(None, None), (3, None), (None, 4), (3, 4)])
def test_a_plan_says_how_many_masks_it_makes(window: int | None, chunk: int | None) -> None:
    """The room that masks take is reckoned by it."""
    _, batch, length = packed(random_tree(random.Random(0)))
    mixed = MaskPlan(by_layer_type=True, window=window, chunk=chunk)
    assert mixed.n_masks == len(mixed.build(length, batch, torch.float32))
    assert MaskPlan(window=window).n_masks == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masks_are_additive_in_the_models_own_dtype(dtype: torch.dtype) -> None:
    _, batch, length = packed(random_tree(random.Random(0)))
    mask = MaskPlan().build(length, batch, dtype)
    assert isinstance(mask, torch.Tensor)
    assert mask.dtype == dtype
    assert mask.shape == (1, 1, batch.ids.shape[1], length + batch.ids.shape[1])
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(dtype).min}


def test_anchoring_keeps_the_question() -> None:
    branches = Branch(3, (7, 8, 9), (0, 2)), Branch(2, (7, 8, 9), (1, 2)), Branch(3, (7, 8, 9), (0, 2), hide=(1, 3))
    first, second, third = anchored(TraceTree((4, 5, 6), branches)).branches
    assert first == Branch(2, (6, 7, 8), (1, 3))
    assert second == Branch(2, (7, 8), (1, 2))
    assert third == Branch(2, (6, 7, 8), (1, 3), hide=(1, 2))


def test_a_branch_of_thousands_of_tokens_needs_no_recursion() -> None:
    ids = tuple(range(5000))
    row = whole(Trie.of([Branch(1, ids, (1, 5000)), Branch(1, (*ids[:4000], 9), (4000, 4001))]))
    assert len(row.ids) == 4999
    assert positions(row) == list(range(1, 5000))


def test_padding_on_the_right() -> None:
    assert pad_right([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]


@pytest.mark.parametrize(
    ("at", "ids", "scored", "says"),
    [
        (0, (1, 2), (0, 1), "at least one trunk token"),
        (1, (1, 2), (1, 1), "non-empty slice"),
        (1, (1, 2), (0, 3), "non-empty slice of the 2 branch ids"),
        (1, (), (0, 1), "non-empty slice"),
        (1, (1, 2), (-1, 1), "non-empty slice"),
        (1, (1, 2), (0, 1), "two trunk tokens before a first token that is scored; got 1"),
    ],
)
def test_branches_that_ask_for_nothing_or_too_much_are_refused(
    at: int, ids: tuple[int, ...], scored: tuple[int, int], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Branch(at, ids, scored)


def test_a_branch_behind_the_trunk_is_refused() -> None:
    with pytest.raises(ValueError, match="attaches at 4, but the trunk has 3"):
        TraceTree((1, 2, 3), (Branch(4, (5,), (0, 1)),))


@pytest.mark.parametrize("hide", [(0, 4), (2, 1), (-1, 2)])
def test_what_is_hidden_is_a_slice_of_the_trunk_before_the_branch(hide: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a slice of the 3 trunk tokens before the branch"):
        Branch(3, (5, 6), (1, 2), hide)


def test_a_comparison_with_what_only_one_trunk_says_is_a_question_of_that_trunk() -> None:
    asked = Branch(2, (7, 8), (1, 2), against=Branch(3, (7, 8), (1, 2)))
    trees = [TraceTree((1, 2, token), (asked,)) for token in (3, 4)]
    assert ask_once(trees, 2) == (trees, [[(0, 0)], [(1, 0)]])


def test_totals_and_means_of_a_score() -> None:
    score = BranchScore((-1.0, -3.0), (True, False), (0.1, 0.2), (0.5, 0.6))
    assert (score.total, score.mean, score.all_greedy) == (-4.0, -2.0, False)
