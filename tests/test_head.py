"""What is left to be done without the model's own head, and for which models that is right."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from benchmarks.architectures import plain_loop
from numbers_of import numbers_at
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.head import Head, head_of, read
from reasoning_guard.hidden import Hidden
from reasoning_guard.logits import Logits
from reasoning_guard.model_context import reading
from reasoning_guard.tree import Branch, TraceTree
from tiny_models import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 5, 4, 3, 3]])


def kind_of(model: Any) -> type:
    """How the distributions of a pass come, and that they are right."""
    with reading(model):
        found = read(model, [1, 3], input_ids=IDS, use_cache=False)
        whole = model(input_ids=IDS, use_cache=False).logits[[1, 0], [1, 3]]
    assert torch.allclose(found.logits([(1, 0), (0, 1)]).float(), whole.float(), atol=1e-4, rtol=1e-3)
    logprobs = whole.double().log_softmax(-1)
    numbers = numbers_at(found, [(0, 1), (1, 0)], [2, 3])
    assert [each[0] for each in numbers] == pytest.approx([logprobs[1, 2].item(), logprobs[0, 3].item()], abs=1e-4)
    return type(found)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "mixtral", "gemma3", "qwen3_5", "bloom"])
def test_most_models_logits_are_their_heads_output(name: str) -> None:
    assert kind_of(tiny_model(name)) is Hidden


def quiet(name: str, **changes: Any) -> Any:
    """A model whose logits are so small that nobody sees a cap on them."""
    model = tiny_model(name, **changes)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)
    return model


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": 30.0}),
        ("granite", {"logits_scaling": 1.0 + 1e-4}),
        ("cohere", {"logit_scale": 0.25}),
    ],
)
def test_caps_and_scales_are_found_even_where_they_do_nothing_yet(name: str, changes: dict[str, Any]) -> None:
    model = quiet(name, **changes)
    assert kind_of(model) is Logits
    assert not head_of(model).splits


def test_a_head_that_somebody_watches_or_changes_makes_its_logits() -> None:
    model = tiny_model("llama")
    assert kind_of(model) is Hidden
    handle = model.lm_head.register_forward_hook(lambda _m, _a, logits: logits + 3 * torch.arange(64.0))
    assert kind_of(model) is Logits
    handle.remove()
    assert kind_of(model) is Hidden


def double(_module: object, _args: object, output: Any) -> Any:
    output.logits = output.logits * 2
    return output


def test_a_hook_on_what_wraps_a_model_or_on_the_model_makes_its_logits() -> None:
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    assert kind_of(model) is Hidden
    for each in (model, model.get_base_model()):
        handle = each.register_forward_hook(double)
        assert kind_of(model) is Logits
        handle.remove()
    assert kind_of(model) is Hidden


def test_a_forward_that_is_patched_inside_a_wrapper_is_seen() -> None:
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    assert kind_of(model) is Hidden
    inner: Any = model.get_base_model()
    whole = inner.forward
    inner.forward = lambda *args, **inputs: double(None, None, whole(*args, **inputs))
    assert kind_of(model) is Logits


class Capped(torch.nn.Linear):
    """A head that caps what it makes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 30 * torch.tanh(super().forward(input) / 30)


def test_a_head_that_is_more_than_a_matrix_makes_its_logits() -> None:
    model = quiet("llama")
    model.lm_head.__class__ = Capped
    assert kind_of(model) is Logits


@pytest.mark.parametrize("settings", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_a_head_with_an_adapter_makes_its_logits(settings: dict[str, Any]) -> None:
    model = get_peft_model(tiny_model("llama"), LoraConfig(**{"target_modules": ["q_proj"], **settings}))
    assert kind_of(model) is Logits
    with model.disable_adapter():
        assert kind_of(model) is Logits


def test_an_adapter_elsewhere_leaves_the_head_alone() -> None:
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"]))
    assert kind_of(model) is Hidden


def test_a_head_of_another_size_is_taken_as_it_is_now() -> None:
    model = tiny_model("llama")
    assert kind_of(model) is Hidden
    model.resize_token_embeddings(80)
    assert kind_of(model) is Hidden
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert kind_of(model) is Hidden


class Chunked(LlamaForCausalLM):
    """A forward that runs its head over a few tokens at a time."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        hidden = self.model(input_ids=input_ids, **rest).last_hidden_state
        logits = torch.cat([self.lm_head(each) for each in hidden.split(4, dim=1)], dim=1)
        return type("Output", (), {"logits": logits})()


class Passing(Chunked):
    """A forward that multiplies with its head's weights without calling it."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        hidden = self.model(input_ids=input_ids, **rest).last_hidden_state
        return type("Output", (), {"logits": hidden @ self.lm_head.weight.T})()


class NeedsLogits(Chunked):
    """A forward that looks at its logits."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids=input_ids, **rest)
        output.best = output.logits[:, -1].argmax(-1)
        return output


class Masked(Chunked):
    """A forward that rules a token out."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids=input_ids, **rest)
        output.logits = output.logits.index_fill(-1, torch.tensor([63]), -1e9)
        return output


class InPlace(Chunked):
    """A forward that scales its logits where they lie, and so little that nobody sees it."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids=input_ids, **rest)
        output.logits = output.logits.mul_(1 + 1e-4)
        return output


class InPlaceCap(LlamaForCausalLM):
    """A forward that caps its logits where they lie."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        logits = self.lm_head(self.model(input_ids=input_ids, **rest).last_hidden_state)
        torch.tanh(logits.div_(1000), out=logits)
        return type("Output", (), {"logits": logits.mul_(1000)})()


class ByRow(Chunked):
    """A forward that runs its head row by row."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        hidden = self.model(input_ids=input_ids, **rest).last_hidden_state
        return type("Output", (), {"logits": torch.cat([self.lm_head(row) for row in hidden.split(1)])})()


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        *((Passing, Logits), (NeedsLogits, Logits), (Masked, Logits), (InPlace, Logits), (InPlaceCap, Logits)),
        *((Chunked, Hidden), (ByRow, Logits)),
    ],
)
def test_patched_forwards(forward: type, kind: type) -> None:
    model = tiny_model("llama")
    model.__class__ = forward
    assert kind_of(model) is kind


class NeverNone(Passing):
    """A forward that makes the logits that are asked for, and wants some to be."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids=input_ids, **rest)
        if isinstance(logits_to_keep, torch.Tensor):
            if not len(logits_to_keep):
                raise ValueError("no logits to make")
            output.logits = output.logits[:, logits_to_keep]
        return output


def test_a_forward_that_must_make_some_logits_is_asked_for_one_where_none_are_wanted() -> None:
    model = tiny_model("llama")
    model.__class__ = NeverNone
    with reading(model):
        assert head_of(model) == Head(picks=True)
        read(model, (), input_ids=IDS, use_cache=False)


def test_trls_patched_forward() -> None:
    model = tiny_model("llama")
    add_fused_lm_head(model)
    assert kind_of(model) is Hidden


class Sly(Chunked):
    """A forward that scales the logits of what is longer than any trial."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids=input_ids, **rest)
        output.logits = output.logits * (0.5 if input_ids.shape[1] > 8 else 1.0)
        return output


def test_what_the_trial_does_not_see_the_self_test_sees() -> None:
    model = tiny_model("llama")
    model.__class__ = Sly
    with reading(model):
        assert head_of(model).splits
    [found] = BranchScorer(model).score_trees([tree()])
    assert not head_of(model).splits
    assert [p for s in found for p in s.logprobs] == pytest.approx(plain_loop(model.eval(), tree()), abs=1e-4)


class LastOnly(Chunked):
    """A forward that makes the last logits of what is longer than any trial."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:  # type: ignore[override]
        hidden = self.model(input_ids=input_ids, **rest).last_hidden_state
        return type("Output", (), {"logits": self.lm_head(hidden[:, -4:])})()


def test_a_head_that_is_given_other_tokens_than_the_model_is_an_error() -> None:
    model = tiny_model("llama")
    model.__class__ = LastOnly
    with reading(model), pytest.raises(RuntimeError, match=r"the head was given \(2, 4\) tokens, the model \(2, 5\)"):
        read(model, [1, 3], input_ids=IDS, use_cache=False)


def test_tokens_that_a_model_puts_in_by_itself_are_refused() -> None:
    model = get_peft_model(tiny_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ConfigurationError, match="prompt tuning"):
        BranchScorer(model).score_trees([tree()])


def tree() -> TraceTree:
    rng = random.Random(0)
    ids = [rng.randrange(3, 60) for _ in range(40)]
    return TraceTree(tuple(ids[:30]), tuple(Branch(at, tuple(ids[30:35]), (2, 5)) for at in (10, 20, 30)))


def test_the_head_is_as_it_was_even_after_an_error() -> None:
    model = tiny_model("llama")
    scorer = BranchScorer(model)
    scorer.score_trees([tree()])
    handle = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scorer.score_trees([tree()])
    handle.remove()
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    assert model(input_ids=IDS).logits.shape == (2, 5, 64)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("compiled_first", [False, True])
def test_what_is_compiled_never_knows_of_it(in_place: bool, compiled_first: bool) -> None:
    raw = tiny_model("llama").eval()
    with torch.no_grad():
        expected = raw(input_ids=IDS).logits
    model: Any = raw
    if in_place:
        raw.compile(backend="eager")
    else:
        model = torch.compile(raw, backend="eager")
    if compiled_first:
        assert torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-5)
    [found] = BranchScorer(model).score_trees([tree()])
    assert head_of(model).splits
    assert [p for s in found for p in s.logprobs] == pytest.approx(plain_loop(raw, tree()), abs=1e-4)
    assert torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-5)


@pytest.mark.parametrize("how", ["around", "inside"])
def test_autocast_decides_how_the_head_would_have_computed(how: str) -> None:
    model = tiny_model("llama").eval()
    if how == "inside":
        AcceleratorState._reset_state(reset_partial_state=True)
        model = Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
        AcceleratorState._reset_state(reset_partial_state=True)
    with reading(model), torch.autocast("cpu", torch.bfloat16, enabled=how == "around"):
        found = read(model, [1, 3], input_ids=IDS, use_cache=False)
        whole = model(input_ids=IDS, use_cache=False).logits[0, [1, 3]].float()
    assert isinstance(found, Hidden)
    assert found.dtype is torch.bfloat16
    logprobs = whole.double().log_softmax(-1)
    [(logprob, _, _, _)] = numbers_at(found, [(0, 1)], [2])
    assert logprob == pytest.approx(logprobs[1, 2].item(), abs=1e-5)


def test_scores_with_and_without_are_the_same() -> None:
    model = tiny_model("llama")
    scorer = BranchScorer(model)
    [ours] = scorer.score_trees([tree()])
    assert head_of(model).splits
    model.lm_head.register_forward_hook(lambda *_: None)
    assert not head_of(model).splits
    [made] = scorer.score_trees([tree()])
    for a, b in zip(ours, made, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
        assert a.entropies == pytest.approx(b.entropies, abs=1e-5)
        assert a.margins == pytest.approx(b.margins, abs=1e-5)
        assert a.greedy == b.greedy
