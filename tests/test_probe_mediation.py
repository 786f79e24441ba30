"""Mediation and backward against plain masked forwards, and the divergences against their formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from memorised import TOKENIZER, encode
from probing import CHAINS, EOS, rows_of, stranger, trace_of
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.divergences import divergences
from reasoning_guard.probes import BackwardProbe, MediationProbe
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


@torch.no_grad()
def distributions(model: Any, ids: Sequence[int], hidden: range, from_: int, at: Sequence[int]) -> torch.Tensor:
    """Next-token log-probabilities at ``at``; tokens from ``from_`` on do not see the ``hidden`` ones."""
    n = len(ids)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    seen[from_:, hidden.start : hidden.stop] = False
    seen |= torch.eye(n, dtype=torch.bool)
    mask = torch.zeros(1, 1, n, n).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits = model.eval()(input_ids=torch.tensor([list(ids)]), attention_mask=mask, use_cache=False).logits[0]
    return logits[list(at)].double().log_softmax(-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return (p.exp() * (p - q)).sum(-1).mean().item()


def js(p: torch.Tensor, q: torch.Tensor) -> float:
    middle = ((p.exp() + q.exp()) / 2).log()
    return (kl(p, middle) + kl(q, middle)) / 2 / math.log(2)


@pytest.mark.parametrize("trace", CHAINS[:2], ids=["two steps", "four steps"])
def test_effects_equal_plain_masked_forwards(trace: Any) -> None:
    model = stranger()
    begin, end = trace.cuts[0], trace.cuts[-1]
    ids = [*trace.ids[:end], *encode("#"), *encode(str(trace.answer)), EOS]
    at = range(end, end + 2)
    full = distributions(model, ids, range(0), 0, at)
    via = distributions(model, ids, range(begin), end, at)
    without = distributions(model, ids, range(begin, end), end, at)
    alone = distributions(model, ids, range(begin), begin, at)
    truth = {
        "direct_effect": kl(full, via),
        "direct_effect_js": js(full, via),
        "necessity": kl(full, without),
        "necessity_js": js(full, without),
        "leakage": kl(via, alone),
        "leakage_js": js(via, alone),
    }
    [row] = rows_of(model, [trace], MediationProbe())
    assert row.values == pytest.approx(truth, abs=1e-4)
    assert min(truth.values()) > 1e-3


def test_what_a_question_recovers_equals_plain_masked_forwards() -> None:
    model, trace = stranger(), CHAINS[1]
    begin = trace.cuts[0]
    question, answer = list(trace.prompt_ids), [*encode("#"), *encode(str(trace.answer)), EOS]
    numbers = [i for i, token in enumerate(question) if TOKENIZER.decode([token]).isdigit()]
    totals = []
    for text in ([*trace.reasoning_ids, *answer], answer):
        ids = [*trace.ids[:begin], *text, *question]
        places = [begin + len(text) + i - 1 for i in numbers]
        found = distributions(model, ids, range(begin), begin, places)
        totals.append(sum(found[j, question[i]].item() for j, i in enumerate(numbers)))
    [row] = rows_of(model, [trace], BackwardProbe())
    assert row.values["backward_gain"] == pytest.approx((totals[0] - totals[1]) / len(numbers), abs=1e-4)


def test_without_steps_there_is_nothing_to_go_through() -> None:
    for probe in (MediationProbe(), BackwardProbe()):
        bare, silent = rows_of(stranger(), [trace_of("# 9"), trace_of("b = 1 ;")], probe)
        assert all(math.isnan(value) for value in bare.values.values())
        assert all("no steps" in reason for reason in bare.reasons.values())
        assert all("no answer" in reason for reason in silent.reasons.values())


def test_a_model_that_takes_no_masks_is_unscored() -> None:
    model = tiny_model("mamba", vocab_size=len(TOKENIZER), eos_token_id=EOS)
    [row] = rows_of(model, CHAINS[:1], MediationProbe(), BackwardProbe())
    assert all(math.isnan(value) for value in row.values.values())
    assert all("masks" in reason for reason in row.reasons.values())


def test_divergences_equal_their_formulas_and_stay_within_their_bounds() -> None:
    p, q = (3 * torch.randn(9, 30) for _ in range(2))
    p[0] = q[0]
    p[1, :29] = -torch.inf  # a distribution on one token
    found = divergences(p, q)
    for i in range(9):
        one, other = p[i].softmax(-1).tolist(), q[i].softmax(-1).tolist()
        plain = sum(a * math.log(a / b) for a, b in zip(one, other, strict=True) if a > 0)
        mixed = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
        halves = sum(a * math.log(a / m) for x in (one, other) for a, m in zip(x, mixed, strict=True) if a > 0)
        assert found[:, i].tolist() == pytest.approx([plain, halves / 2 / math.log(2)], abs=1e-5)
    assert found[1].max() <= 1
    assert (found >= 0).all()
    assert found[:, 0].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_branches_are_compared_wherever_they_attach() -> None:
    """Branches compared across batches, halves and cuts give what their own distributions give."""
    model, trunk = stranger(), tuple(encode("5 : a = 3 ; ? b = 3 + 4 = 7 ; c ="))
    vocabulary = len(TOKENIZER)
    one, other = Branch(6, (7, 8, 9), (1, 3)), Branch(12, (5, 8, 9, 4), (1, 3))
    [scores] = BranchScorer(model).score_trees([TraceTree(trunk, (Branch(6, (7, 8, 9), (1, 3), (0, 0), other), one))])
    tables = [distributions(model, [*trunk[: b.at], *b.ids], range(0), 0, [b.at, b.at + 1]) for b in (one, other)]
    assert sum(scores[0].kl) / 2 == pytest.approx(kl(tables[1], tables[0]), abs=1e-4)
    assert sum(scores[0].js) / 2 == pytest.approx(js(*tables), abs=1e-4)
    assert scores[1].kl == ()
    assert scores[0].logprobs == scores[1].logprobs
    assert vocabulary == len(TOKENIZER)


def test_a_comparison_of_unlike_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="must ask for 2 tokens too"):
        Branch(3, (7, 8, 9), (1, 3), against=Branch(3, (7, 8), (1, 2)))
    with pytest.raises(ValueError, match="attaches at 9"):
        TraceTree((1, 2, 3), (Branch(3, (7, 8), (1, 2), against=Branch(9, (7, 8), (1, 2))),))
