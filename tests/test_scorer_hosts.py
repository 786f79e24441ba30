"""Models as their hosts leave them: compiled, patched, quantised, wrapped in autocast, with attention of their own."""

from __future__ import annotations

import gc
import logging
import random
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator, cpu_offload
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AttentionInterface, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from benchmarks.architectures import plain_loop
from reasoning_guard import selftest, selftest_twin
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.exactness import largest_difference
from reasoning_guard.head import head_of
from reasoning_guard.model_context import reading
from reasoning_guard.rounding import working_dtype
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model


def trees(seed: int = 0) -> list[TraceTree]:
    """Three trunks of 20 to 60 tokens with two questions of 5 tokens at each of six cuts."""
    rng = random.Random(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 60) for _ in range(n))

    cue, answers = ids(2), (ids(3), ids(3))
    return [
        TraceTree(ids(n), tuple(Branch(n * k // 6, cue + answer, (2, 5)) for k in range(1, 7) for answer in answers))
        for n in (20, 60, 34)
    ]


TREES = trees()


def assert_exact(model: Any, scorer: BranchScorer, tolerance: float = 1e-4) -> None:
    found = scorer.score_trees(TREES)
    model.eval()
    for tree, scores in zip(TREES, found, strict=True):
        own = [p for score in scores for p in score.logprobs]
        assert own == pytest.approx(plain_loop(model, tree), abs=tolerance)


def is_shared(scorer: BranchScorer) -> bool:
    assert scorer.verdict is not None
    return scorer.verdict.plan is not None


def logit_rows(model: Any) -> list[int]:
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0] * args[0].shape[1]))
    return seen


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_read_as_it_was_written(in_place: bool) -> None:
    """Traces of every length would compile it anew each time; and its wrapper's signature says nothing."""
    graphs: list[object] = []

    def backend(graph: Any, _inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    raw = tiny_model("llama").eval()
    seen = logit_rows(raw)
    model: Any = raw
    if in_place:
        raw.compile(backend=backend)
    else:
        model = torch.compile(raw, backend=backend)
    scorer = BranchScorer(model)
    scorer.score_trees(TREES)
    seen.clear()
    scorer.score_trees(TREES)
    assert is_shared(scorer)
    assert not graphs
    assert sum(seen) <= 3 * 12 * 3, "logits for scored positions only"
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert graphs, "afterwards it compiles as before"


def test_under_trls_patched_forward() -> None:
    model = tiny_model("llama")
    add_fused_lm_head(model)
    assert "forward" in vars(model)
    seen = logit_rows(model)
    scorer = BranchScorer(model)
    scorer.score_trees(TREES)
    seen.clear()
    assert_exact(model, scorer)
    assert is_shared(scorer)
    assert sum(seen[:2]) <= 3 * 12 * 3
    with reading(model):
        assert working_dtype(model) is torch.float32, "a wrapped forward is no reason for a loose bound"


@pytest.fixture
def bf16_accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_autocast_is_seen_wherever_it_comes_from(bf16_accelerator: Accelerator) -> None:
    wrapped = bf16_accelerator.prepare(tiny_model("llama"))
    with reading(wrapped):
        assert working_dtype(wrapped) is torch.bfloat16
    scorer = BranchScorer(wrapped)
    assert_no_noisier(scorer, wrapped, tiny_model("llama").eval())
    assert is_shared(scorer)


class OlderForward(LlamaForCausalLM):
    """A patched forward that knows numbers of logits only, as Unsloth's, which compares ``logits_to_keep`` with 0."""

    def forward(self, input_ids: Any = None, num_logits_to_keep: int = 0, logits_to_keep: int = 0, **rest: Any) -> Any:  # type: ignore[override]
        last = max(num_logits_to_keep, logits_to_keep)
        return super().forward(input_ids=input_ids, logits_to_keep=int(last), **rest)


class DecodingForward(OlderForward):
    """Whatever comes with a cache is taken for decoding, and its mask is not looked at, as in Unsloth's fast path."""

    def forward(
        self, input_ids: Any = None, past_key_values: Any = None, attention_mask: Any = None, **rest: Any
    ) -> Any:  # type: ignore[override]
        if past_key_values is not None and past_key_values.get_seq_length():
            attention_mask = None
        return super().forward(
            input_ids=input_ids, past_key_values=past_key_values, attention_mask=attention_mask, **rest
        )


class HiddenForward(OlderForward):
    """Hidden states where logits belong, as Unsloth's returns them while UNSLOTH_RETURN_HIDDEN_STATES is set."""

    def forward(self, input_ids: Any = None, **rest: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids=input_ids, **rest)
        output.logits = output.logits[..., : self.config.hidden_size]
        return output


def test_a_forward_that_cannot_pick_logits_makes_them_all() -> None:
    model = tiny_model("llama")
    model.__class__ = OlderForward
    scorer = BranchScorer(model)
    assert_exact(model, scorer)
    assert is_shared(scorer)
    assert not head_of(model).picks


def test_a_forward_that_forgets_the_mask_is_found_out() -> None:
    model = tiny_model("llama")
    model.__class__ = DecodingForward
    scorer = BranchScorer(model)
    assert_exact(model, scorer)
    assert not is_shared(scorer)


@pytest.mark.parametrize("at", [60, 1])
def test_it_is_found_out_by_a_first_question_at_which_no_mask_matters(at: int) -> None:
    model = tiny_model("llama")
    model.__class__ = DecodingForward
    scorer = BranchScorer(model)
    scorer.score_trees([TraceTree(TREES[1].trunk, (Branch(at, (5, 6, 7), (1, 3)),))])
    assert not is_shared(scorer)


def test_it_is_found_out_beside_a_token_that_cannot_come() -> None:
    model = tiny_model("llama", tie_word_embeddings=False)
    model.lm_head.bias = nn.Parameter(torch.zeros(model.config.vocab_size).index_fill(0, torch.tensor(62), -torch.inf))
    model.__class__ = DecodingForward
    scorer = BranchScorer(model)
    scorer.score_trees([TraceTree(TREES[1].trunk, tuple(Branch(at, (5, at, 62), (1, 3)) for at in (5, 20, 33, 60)))])
    assert not is_shared(scorer)


def test_hidden_states_in_place_of_logits_are_refused() -> None:
    model = tiny_model("llama")
    model.__class__ = HiddenForward
    with pytest.raises(ConfigurationError, match="UNSLOTH_RETURN_HIDDEN_STATES"):
        BranchScorer(model).score_trees(TREES)


def test_a_forward_that_is_patched_later_is_tested_again(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = tiny_model("llama")
    with caplog.at_level(logging.INFO, logger="reasoning_guard"):
        for _ in range(2):  # once a model, not once a scorer
            scorer = BranchScorer(model)
            scorer.score_trees(TREES)
        assert caplog.text.count("scoring LlamaForCausalLM by one shared pass") == 1
        assert "(tested in " in caplog.text
        model.forward = types.MethodType(DecodingForward.forward, model.__class__ and _as(model, DecodingForward))
        assert_exact(model, scorer)
    assert not is_shared(scorer)
    assert caplog.text.count("a pass of its own for every branch") == 1


def _as(model: Any, kind: type) -> Any:
    model.__class__ = kind
    return model


def test_an_adapter_that_goes_off_and_on_is_tested_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """Two curves from one set of weights, at every evaluation."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model: Any = get_peft_model(tiny_model("llama"), config)
    scorer = BranchScorer(model)
    with caplog.at_level(logging.INFO, logger="reasoning_guard"):
        for _ in range(3):
            adapted = scorer.score_trees(TREES)
            with model.disable_adapter():
                frozen = scorer.score_trees(TREES)
    assert caplog.text.count("by one shared pass") == 2
    assert largest_difference(frozen, BranchScorer(tiny_model("llama")).score_trees(TREES)) < 1e-4
    assert largest_difference(frozen, adapted) > 0.1


class Int8Linear(nn.Module):
    """Weights in int8 with a scale a row, dequantised as they are used: how bitsandbytes and torchao store them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = nn.Parameter(linear.weight.detach().abs().amax(1, keepdim=True) / 127, requires_grad=False)
        self.weight = nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_int8_are_shared_over(dtype: torch.dtype) -> None:
    model: Any = tiny_model("llama").to(dtype)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, child in list(block.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(block, name, Int8Linear(child))
    scorer = BranchScorer(model)
    assert_exact(model, scorer, 1e-4 if dtype is torch.float32 else 0.5)
    assert is_shared(scorer)


@pytest.mark.filterwarnings("ignore")
def test_activations_in_int8_score_within_their_own_noise() -> None:
    """Dynamic quantisation takes one scale for all tokens of a pass, so whatever else is read moves every score."""
    gone = "this torch no longer has dynamic quantisation"
    quantise = pytest.importorskip("torch.ao.quantization", reason=gone).quantize_dynamic
    precise = tiny_model("llama").eval()
    model: Any = quantise(tiny_model("llama").eval(), {nn.Linear}, dtype=torch.qint8)
    assert_no_noisier(BranchScorer(model), model, precise)


def assert_no_noisier(scorer: BranchScorer, model: Any, precise: Any) -> None:
    """Against float32, the scorer must not be noisier than a plain loop over the same coarse model."""
    found = scorer.score_trees(TREES)
    model.eval()
    ours, loops = 0.0, 0.0
    for tree, scores in zip(TREES, found, strict=True):
        truth = plain_loop(precise, tree)
        ours += sum(abs(a - b) for a, b in zip((p for s in scores for p in s.logprobs), truth, strict=True))
        loops += sum(abs(a - b) for a, b in zip(plain_loop(model, tree), truth, strict=True))
    assert 0 < ours < 1.5 * loops


def causal_only(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    """Causal whatever the mask says, as flash and flex attention are that get no mask they know."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("causal_flex", causal_only)


class Fixed(LlamaForCausalLM):
    """A model whose code does not let its attention be changed."""

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False


def test_attention_that_takes_no_mask_is_switched_and_put_back() -> None:
    model = tiny_model("llama", attn_implementation="causal_flex")
    model.config._attn_implementation = "causal_flex"
    scorer = BranchScorer(model)
    found = scorer.score_trees(TREES)
    assert is_shared(scorer)
    assert model.config._attn_implementation == "causal_flex"
    plain = BranchScorer(tiny_model("llama")).score_trees(TREES)
    assert largest_difference(found, plain) < 1e-4


@pytest.mark.parametrize("shared", [None, False])
def test_weights_that_come_when_they_are_needed(shared: bool | None) -> None:
    """All of a model offloaded: none of its parameters is on a device by itself."""
    model = tiny_model("llama")
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    found = BranchScorer(model, shared=shared).score_trees(TREES)
    assert largest_difference(found, BranchScorer(tiny_model("llama")).score_trees(TREES)) < 1e-4


def half_as_sharp(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    return causal_only(module, query / 2, key, value, attention_mask)


AttentionInterface.register("half_as_sharp", half_as_sharp)


@pytest.mark.parametrize("shared", [None, False])
def test_attention_of_a_users_own_is_no_other(shared: bool | None) -> None:
    model = tiny_model("llama", attn_implementation="half_as_sharp")
    assert_exact(model, BranchScorer(model, shared=shared))
    assert model.config._attn_implementation == "half_as_sharp"
    other = BranchScorer(tiny_model("llama")).score_trees(TREES)
    assert largest_difference(BranchScorer(model).score_trees(TREES), other) > 0.1


def test_attention_that_takes_no_mask_and_cannot_be_switched_is_read_branch_by_branch() -> None:
    model = tiny_model("llama")
    model.__class__ = Fixed
    model.config._attn_implementation = "causal_flex"
    scorer = BranchScorer(model)
    assert_exact(model, scorer)
    assert not is_shared(scorer)
    assert scorer.verdict is not None
    assert "takes no dense masks" in scorer.verdict.reason


def test_the_self_test_takes_less_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest_twin, "_twins", {})
    model = tiny_model("qwen3")
    with reading(model, dense_masks=True):
        started = time.process_time()
        selftest.verdict_of(model, TREES)
        assert time.process_time() - started < 1


def test_nothing_is_kept_in_memory() -> None:
    """With the collector off: tensors that only a cycle held would stay until it runs, gigabytes on a GPU."""
    model = tiny_model("llama")
    scorer = BranchScorer(model)
    scorer.score_trees(TREES)

    def alive() -> int:
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        scorer.score_tree_groups([TREES])
        scorer.score_trees(TREES)
        assert alive() <= before
    finally:
        gc.enable()
