"""Numbers of distributions that are never made, against the plain formulas in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from numbers_of import numbers_at
from reasoning_guard import hidden
from reasoning_guard.hidden import Hidden
from reasoning_guard.logits import Logits

PLACES = [(1, 1), (0, 0), (1, 1), (1, 2), (0, 2)]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def made(vocabulary: int, kind: str = "usual", dtype: torch.dtype = torch.float32) -> Hidden:
    """Hidden states ``[2, 3, 16]`` and a head, seeded by the size."""
    generator = torch.Generator().manual_seed(vocabulary)
    head = nn.Linear(16, vocabulary, bias=kind in ("impossible", "far"), dtype=dtype)
    head.weight.copy_(torch.randn(vocabulary, 16, generator=generator) * 2)
    if kind == "impossible":
        head.bias.zero_()[::3] = -torch.inf
    if kind == "far":
        head.bias.fill_(3e4)
    return Hidden(torch.randn(2, 3, 16, generator=generator, dtype=torch.float32).to(dtype), head, dtype)


def exact(asked: Hidden, row: int, column: int) -> torch.Tensor:
    """``[V]`` log-probabilities in double precision, of logits as the head makes them."""
    return asked.head(asked.states[row, column]).double().log_softmax(-1)


@pytest.mark.parametrize("width", [1, 7, 512])
@pytest.mark.parametrize("vocabulary", [2, 5, 511, 512, 513, 3000])
@pytest.mark.parametrize("kind", ["usual", "impossible", "far"])
def test_numbers_equal_the_formulas(kind: str, vocabulary: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "_CPU_SLICE", (1, width, width))
    asked = made(vocabulary, kind)
    tolerance = 1e-5 if kind != "far" else 1e-2  # float32 has steps of .002 there
    targets = [1, vocabulary - 1, 0, int(exact(asked, 1, 2).argmax()), vocabulary // 2]
    for (logprob, greedy, entropy, margin), (row, column), target in zip(
        numbers_at(asked, PLACES, targets), PLACES, targets, strict=True
    ):
        logprobs = exact(asked, row, column)
        two = logprobs.topk(2).values
        assert logprob == pytest.approx(logprobs[target].item(), abs=tolerance)
        assert greedy == (int(logprobs.argmax()) == target)
        assert entropy == pytest.approx(
            -(logprobs.exp() * logprobs).nan_to_num(0).sum().item(), abs=max(1e-4, tolerance)
        )
        assert margin == pytest.approx((two[0] - two[1]).item(), abs=tolerance)
    assert numbers_at(asked, [(1, 2)], targets[3:4])[0][1], "the best token is greedy"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_rounded_as_the_head_rounds_them(dtype: torch.dtype) -> None:
    asked = made(700, dtype=dtype)
    [(logprob, _, _, _)] = numbers_at(asked, [(1, 0)], [7])
    assert logprob == pytest.approx(exact(asked, 1, 0)[7].item(), abs=1e-5)


def test_under_autocast_weights_are_rounded_too() -> None:
    asked = made(700)
    coarse = Hidden(asked.states, asked.head, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = asked.head(asked.states[1, 0]).double().log_softmax(-1)
    assert numbers_at(coarse, [(1, 0)], [7])[0][0] == pytest.approx(expected[7].item(), abs=1e-5)
    assert numbers_at(asked, [(1, 0)], [7])[0][0] != pytest.approx(expected[7].item(), abs=1e-5)


def test_two_best_that_are_equal_leave_no_margin() -> None:
    asked = made(40)
    asked.head.weight[30] = asked.head.weight[3]
    asked.states[0, 0] = asked.head.weight[3] * 5
    [(first, one, _, margin), (second, other, _, _)] = numbers_at(asked, [(0, 0), (0, 0)], [3, 30])
    assert first == second == pytest.approx(-0.6931, abs=1e-3)
    assert margin == 0.0
    assert one != other, "one of them is chosen"


def test_the_same_numbers_as_of_logits_that_were_made() -> None:
    asked = made(900)
    logits = Logits(asked.head(asked.states), range(3))
    targets = [5, 600, 899, 0, 77]
    for ours, theirs in zip(numbers_at(asked, PLACES, targets), numbers_at(logits, PLACES, targets), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert torch.allclose(asked.logits([(1, 2), (0, 0)]), logits.logits([(1, 2), (0, 0)]), atol=1e-5)


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out._base is None:
            self.elements = max(self.elements, out.numel())
        return out


def test_no_logits_over_the_whole_vocabulary_exist() -> None:
    asked = Hidden(torch.randn(1, 300, 16), made(50_000).head, torch.float32)
    with Largest() as seen:
        numbers_at(asked, [(0, i) for i in range(300)], [0] * 300)
    assert 300 * 512 <= seen.elements <= 2**20 < 300 * 50_000


def test_numbers_that_are_broken_stay_broken() -> None:
    asked = made(600)
    asked.states[0, 0] = torch.nan
    (broken, _, entropy, _), (sound, _, _, _) = numbers_at(asked, [(0, 0), (0, 1)], [1, 1])
    assert broken != broken
    assert entropy != entropy
    assert sound == sound


@pytest.mark.parametrize("target", [-1, 600, 601, 5000])
def test_tokens_that_the_head_does_not_know_are_refused(target: int) -> None:
    with pytest.raises(IndexError, match=f"0 to 599; got .*{target}"):
        numbers_at(made(600), [(0, 0), (0, 1)], [5, target])
