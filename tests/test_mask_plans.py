"""Mask plans by a model's settings: which are tried, how far they see, and in what they hand a mask over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reasoning_guard.masks import CHUNKED, FULL, SLIDING, MaskPlan, mask_plans, table_of
from reasoning_guard.packing import PackedRow, batch_rows, whole
from reasoning_guard.tree import Branch
from reasoning_guard.trie import Trie

PLAIN = MaskPlan()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (PLAIN,)),
        ({"layer_types": [FULL, FULL], "sliding_window": None}, (PLAIN,)),
        ({"sliding_window": 5}, (MaskPlan(window=5), PLAIN, MaskPlan(by_layer_type=True, window=5))),
        (
            {"sliding_window": 5, "layer_types": [FULL, SLIDING]},
            (MaskPlan(by_layer_type=True, window=5), MaskPlan(window=5), PLAIN),
        ),
        ({"attention_chunk_size": 7}, (PLAIN, MaskPlan(by_layer_type=True, chunk=7))),
        ({"attention_chunk_size": 7, "layer_types": [CHUNKED, FULL]}, (MaskPlan(by_layer_type=True, chunk=7), PLAIN)),
    ],
)
def test_the_likelier_plan_is_tried_first(settings: dict[str, Any], expected: tuple[MaskPlan, ...]) -> None:
    assert mask_plans(SimpleNamespace(**settings)) == expected


@pytest.mark.parametrize(
    ("plan", "reach"),
    [
        (PLAIN, None),
        (MaskPlan(window=5), 5),
        (MaskPlan(by_layer_type=True), None),
        (MaskPlan(by_layer_type=True, window=5), 5),
        (MaskPlan(by_layer_type=True, chunk=7), 7),
        (MaskPlan(by_layer_type=True, window=9, chunk=7), 7),
    ],
)
def test_a_plan_reaches_as_far_as_the_layer_that_sees_least(plan: MaskPlan, reach: int | None) -> None:
    assert [length for length in range(1, 20) if plan.reaches(length)] == [*range(1, 20)][:reach]


def test_one_mask_is_handed_to_layers_of_every_kind() -> None:
    mask = torch.zeros(1)
    assert MaskPlan(window=5).everywhere(mask) is mask
    kinds = {"by_layer_type": True, "window": 5, "chunk": 7}
    assert MaskPlan(**kinds).everywhere(mask) == {FULL: mask, SLIDING: mask, CHUNKED: mask}
    assert MaskPlan(by_layer_type=True, chunk=7).everywhere(mask) == {FULL: mask, CHUNKED: mask}


def test_a_table_has_the_numbers_of_each_token_and_room_for_those_of_padding() -> None:
    row = whole(Trie.of([Branch(3, (7, 8, 9), (1, 3), (1, 2))]))
    table = table_of(batch_rows([row, PackedRow()]))
    assert table.dtype == torch.int32
    assert table[0, 0].tolist() == [[3, 1, 2, 2, 0], [3, 1, 2, 2, 1]]
    assert table[1, 0].tolist() == [[1, 0, 0, 0, 2**31 - 1]] * 2
