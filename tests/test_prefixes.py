"""Where reading stops: every sequence is read once, whole, and for as little as the price of a pass allows."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from reasoning_guard.prefixes import FEWEST, Stop, stops

Shared = list[tuple[tuple[int, ...], int]]


def random_sequences(rng: random.Random) -> Shared:
    distinct = {tuple(rng.choices((0, 1), k=rng.randint(1, 9))) for _ in range(rng.randint(1, 10))}
    chosen = [(ids, rng.randint(0, len(ids) - 1)) for ids in distinct]
    return sorted(chosen, key=lambda each: (each[0][: each[1]], each[0]))


def planned(sequences: Shared, a_pass: int) -> Stop:
    return stops([ids for ids, _ in sequences], [shared for _, shared in sequences], a_pass)


def passes(stop: Stop, sequences: Shared) -> Iterator[tuple[list[int], int]]:
    """Each pass with the sequences that it ends, none for one that only reads on, and the tokens that it reads."""
    for begin, end in stop.together:
        yield list(range(begin, end)), sum(len(ids) - stop.depth for ids, _ in sequences[begin:end])
    for child in stop.further:
        assert child.depth - stop.depth >= FEWEST
        beginnings = {ids[: child.depth] for ids, _ in sequences[child.begin : child.end]}
        assert len(beginnings) == 1, "a stop is one prefix"
        assert all(shared >= child.depth for _, shared in sequences[child.begin : child.end])
        yield [], child.depth - stop.depth
        yield from passes(child, sequences)


@pytest.mark.parametrize("a_pass", [0, 1, 3, 1000])
def test_every_sequence_ends_once_at_the_cost_that_is_said(a_pass: int) -> None:
    rng = random.Random(a_pass)
    for _ in range(500):
        sequences = random_sequences(rng)
        root = planned(sequences, a_pass)
        done = list(passes(root, sequences))
        assert sorted(i for ended, _ in done for i in ended) == list(range(len(sequences)))
        at_each_stop = sum(bool(stop.together) + len(stop.further) for stop in every(root))
        assert root.cost == a_pass * at_each_stop + sum(tokens for _, tokens in done)
        assert root.cost <= a_pass + sum(len(ids) for ids, _ in sequences), "never dearer than nothing shared"


def every(stop: Stop) -> Iterator[Stop]:
    yield stop
    for child in stop.further:
        yield from every(child)


def test_passes_that_cost_nothing_read_every_shared_token_once() -> None:
    """Of sequences that part at even depths only, so that no stop is a single token behind another."""
    rng = random.Random(7)
    for _ in range(300):
        single = random_sequences(rng)
        sequences = [(tuple(i for i in ids for _ in range(2)), 2 * shared) for ids, shared in single]
        distinct = {ids[:n] for ids, shared in sequences for n in range(1, shared + 1)}
        once = len(distinct) + sum(len(ids) - shared for ids, shared in sequences)
        assert planned(sequences, 0).cost == once


def test_a_single_shared_token_hides_nothing_that_is_shared_below_it() -> None:
    """Two prompts that begin with the same token: it is read again, and each prompt still once."""
    prompts = [(0, *range(100 * n, 100 * n + 99)) for n in (1, 2)]
    sequences = [((*prompt, *asked), 100) for prompt in prompts for asked in ((1, 2), (3, 4))]
    root = planned(sequences, 4)
    assert [(stop.depth, stop.together) for stop in root.further] == [(100, [(0, 2)]), (100, [(2, 4)])]
    assert root.together == []


def test_one_prefix_that_everything_begins_with_is_a_stop_where_it_saves_more_than_one_pass() -> None:
    sequences = [((*range(40), asked, 99), 40) for asked in (50, 51)]
    assert [stop.depth for stop in planned(sequences, 39).further] == [40]
    assert planned(sequences, 41).further == []


def test_a_chain_is_read_once_and_its_questions_go_on_from_it() -> None:
    trunk, asked = tuple(range(100, 160)), (1, 2, 3)
    cuts = (20, 40, 60)
    sequences = [(trunk[:cut] + asked, cut) for cut in cuts]
    root = planned(sequences, 4)
    depths = [stop.depth for stop in every(root)]
    assert depths == [0, 20, 40], "the last question has the rest of the chain to itself"
    assert planned(sequences, 1000).further == []


def test_a_thousand_steps_need_no_deep_stack() -> None:
    trunk = tuple(range(6000))
    sequences = [((*trunk[:cut], 9999, 1), cut) for cut in range(2, 6000, 2)]
    root = stops([ids for ids, _ in sequences], [shared for _, shared in sequences], 0)
    stop, n = root, 1
    while stop.further:
        [stop] = stop.further
        n += 1
    assert n > 2900
