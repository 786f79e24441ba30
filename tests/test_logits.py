"""The numbers that are read off logits, against the plain formulas in double precision."""

from __future__ import annotations

import pytest
import torch

from numbers_of import numbers_in
from reasoning_guard import logits as logits_module
from reasoning_guard.logits import best_two


def table(vocabulary: int, kind: str) -> torch.Tensor:
    """Logits ``[2, 3, V]``, seeded by the size."""
    logits = torch.randn(2, 3, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 8
    if kind == "impossible":
        logits[..., ::3] = -torch.inf
    if kind == "far":
        logits += 3e4
    return logits


@pytest.mark.parametrize("vocabulary", [5, 127, 128, 129, 255, 256, 257, 1000, 20_000])
@pytest.mark.parametrize("kind", ["usual", "impossible", "far"])
def test_numbers_equal_the_formulas(vocabulary: int, kind: str) -> None:
    logits = table(vocabulary, kind)
    exact = logits.double().flatten(0, 1).log_softmax(-1)
    flat, targets = [4, 0, 4, 5], [1, 2, 4, int(exact[5].argmax())]
    tolerance = 1e-5 if kind != "far" else 1e-2  # float32 has steps of .002 there
    for (logprob, greedy, entropy, margin), row, target in zip(
        numbers_in(logits, flat, targets), exact[flat], targets, strict=True
    ):
        p = row.exp()
        two = row.topk(2).values
        assert logprob == pytest.approx(row[target].item(), abs=tolerance) or (logprob < -1e3 and p[target] == 0)
        assert greedy == (int(row.argmax()) == target)
        assert entropy == pytest.approx(-(p * row).nan_to_num(0).sum().item(), abs=max(1e-4, tolerance))
        assert margin == pytest.approx((two[0] - two[1]).item(), abs=tolerance)
    assert numbers_in(logits, [5], [targets[-1]])[0][1], "the best token is greedy"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_of_half_precision_logits_are_made_in_float32(dtype: torch.dtype) -> None:
    logits = table(3000, "usual").to(dtype)
    exact = logits.double().flatten(0, 1).log_softmax(-1)
    [(logprob, _, _, _)] = numbers_in(logits, [3], [7])
    assert logprob == pytest.approx(exact[3, 7].item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_best_two_equal_topk_with_ties_too(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 1000, (1,), generator=generator))
    rows = torch.randint(0, 1 + 40 * (seed % 3), (4, size), generator=generator).float()
    top, second, best = best_two(rows)
    expected = rows.topk(2).values
    assert torch.equal(torch.stack([top, second], 1), expected)
    assert torch.equal(best, rows.argmax(-1)), "the first of equal ones, as greedy decoding writes it"


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 129, 192, 640, 700])
@pytest.mark.parametrize("kind", ["apart", "equal", "few values", "ruled out", "one left"])
def test_the_best_stands_where_argmax_finds_it(kind: str, length: int) -> None:
    """Greedy decoding takes the first of equal ones, and equal ones are common in half precision."""
    logits = torch.randn(50, length, generator=torch.Generator().manual_seed(length))
    if kind == "equal":
        logits.zero_()
    elif kind == "few values":
        logits = logits.round()
    elif kind == "ruled out":
        logits.fill_(-torch.inf)
    elif kind == "one left":
        logits[:, :-1] = -torch.inf
    top, second, best = best_two(logits)
    assert torch.equal(best, logits.argmax(-1))
    assert torch.equal(top, logits.amax(-1))
    assert torch.equal(second, logits.scatter(1, best[:, None], -torch.inf).amax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_any_size_give_the_same_numbers(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = (torch.randn(3, 7, 300, generator=torch.Generator().manual_seed(0)) * 8).to(dtype)
    flat, targets = [20, 3, 3, 0, 11, 7, 12, 19, 5], [5, 1, 2, 7, 299, 0, 8, 9, 10]
    whole = numbers_in(logits, flat, targets)
    assert len(set(whole)) == len(whole)
    for rows in (1, 2, 3):
        monkeypatch.setattr(logits_module, "_CPU_BLOCK", rows * 300)
        before = logits.clone()
        assert numbers_in(logits, flat, targets) == whole
        assert torch.equal(logits, before), "what is compared later must still be there"
