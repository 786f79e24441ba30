"""A model is read in the middle of its training, and training finds it as it was."""

from __future__ import annotations

from contextlib import suppress
from threading import Thread
from time import sleep
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from reasoning_guard.model_context import reading
from reasoning_guard.model_parts import device_of, walk_of
from tiny_models import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def passed_by() -> bool:
    """Whether operations go past autograd's layers."""
    layers = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView)
    return all(map(torch._C._dispatch_tls_is_dispatch_key_excluded, layers))


@pytest.mark.parametrize("inference", [False, True])
def test_autograd_is_passed_by_while_a_model_is_read(inference: bool) -> None:
    model = tiny_model("llama")
    with torch.inference_mode(inference):
        with torch.no_grad():
            expected = model(input_ids=IDS).logits
        with suppress(KeyError), reading(model):
            with reading(model):
                pass
            assert passed_by()
            assert not torch.is_grad_enabled()
            assert torch.equal(model(input_ids=IDS).logits, expected)
            raise KeyError
        assert torch.is_grad_enabled() is not inference
    assert not passed_by()
    model(input_ids=IDS).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class _Scaled(nn.Module):
    """Keeps what it made at the first reading, as rotary embeddings of growing lengths do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.kept = inner, None

    def forward(self, *args: Any, **settings: Any) -> torch.Tensor:
        found = self.inner(*args, **settings)
        if self.kept is None:
            self.kept = torch.linspace(0.5, 1.5, found.shape[-1]) * 1.0
            self.register_buffer("grown", self.kept.view(1, -1)[:, :], persistent=False)
        return found * self.kept * self.grown


def test_what_a_model_makes_while_it_is_read_training_can_use() -> None:
    """Under `inference_mode` the backward pass would fail on it."""
    model = tiny_model("llama")
    layer = model.model.layers[0]
    layer.mlp = _Scaled(layer.mlp)
    with reading(model):
        model(input_ids=IDS)
    assert layer.mlp.kept is not None
    layer.mlp.kept.requires_grad_()
    model(input_ids=IDS).logits.sum().backward()
    assert layer.mlp.kept.grad is not None
    layer.mlp.grown.mul_(2)
    assert torch.equal(layer.mlp.grown[0], layer.mlp.kept), "a view of it is one still"


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(context: Any, *grads: torch.Tensor) -> torch.Tensor:
        return 2 * grads[0]


def test_kernels_with_gradients_of_their_own_and_inputs_that_ask_for_some_are_read_alike() -> None:
    """Fused kernels are functions with a backward; with adapters and checkpointing, embeddings ask for gradients."""
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules="all-linear"))
    model.enable_input_require_grads()
    norm = model.base_model.model.model.norm
    norm.register_forward_hook(lambda *arguments: _Doubled.apply(arguments[-1]))
    with torch.no_grad():
        expected = model.eval()(input_ids=IDS).logits
    with reading(model.train()):
        found = model(input_ids=IDS).logits
    assert torch.equal(found, expected)
    assert not found.requires_grad
    model(input_ids=IDS).logits.sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


class _Merging(nn.Linear):
    """Merges an update into its weight to be read, and takes it out again to be trained, as adapters may."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.update = nn.Parameter(torch.zeros(size, size))
        self.merged = False

    def train(self, mode: bool = True) -> _Merging:
        self.merged = not mode
        return super().train(mode)


def test_what_a_module_does_to_be_read_it_undoes_to_be_trained() -> None:
    model = tiny_model("llama").train()
    layers = model.model.layers
    layers[0].merging, layers[1].merging = _Merging(4), _Merging(4).eval()
    layers[0].merging.frozen = nn.Linear(2, 2).eval()
    with reading(model):
        assert layers[0].merging.merged
    assert (layers[0].merging.merged, layers[1].merging.merged) == (False, True)
    assert (layers[0].merging.training, layers[1].merging.training) == (True, False)


def test_a_module_that_cannot_go_back_keeps_no_other_from_it() -> None:
    model = tiny_model("llama").train()
    model.model.layers[0].merging = stuck = _Merging(4)

    def fail(self: nn.Module, mode: bool = True) -> nn.Module:
        if mode:
            raise KeyError
        return nn.Module.train(self, mode)

    type(stuck).train, whole = fail, type(stuck).train  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyError), reading(model):
            pass
    finally:
        type(stuck).train = whole  # type: ignore[method-assign]
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_embeddings_that_follow_the_longest_text_follow_the_training_s(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    if kind == "longrope":
        half = tiny_model("llama").config.head_dim // 2
        rope |= {"short_factor": [1.0] * half, "long_factor": [2.0] * half, "original_max_position_embeddings": 32}
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=32).train()
    long = torch.randint(3, 60, (1, 50))
    rotary = model.model.rotary_emb
    for _ in range(2):
        model(input_ids=long)
        kept = {name: value for name, value in vars(rotary).items() if not name.startswith("_")}
        buffers = {name: value.clone() for name, value in rotary.named_buffers()}
        with reading(model):
            model(input_ids=IDS)
        assert {name: value for name, value in vars(rotary).items() if not name.startswith("_")} == kept
        assert {name for name, _ in rotary.named_buffers()} == buffers.keys()
        assert all(torch.equal(buffers[name], value) for name, value in rotary.named_buffers())
        model(input_ids=IDS)  # now training itself goes back to short texts
    model(input_ids=long).logits.sum().backward()


class _Packed(nn.Parameter):
    """Stands for weights that are stored in another form: quantised, or a part on each device."""


def test_weights_in_other_forms_keep_the_layers_that_take_operations_apart() -> None:
    model = tiny_model("llama")
    head = model.lm_head
    head.weight = _Packed(head.weight.detach())
    assert type(head.weight) is _Packed
    with reading(model):
        assert not passed_by()
        assert not torch.is_grad_enabled()


def test_training_under_the_same_autocast_learns_as_if_nothing_had_been_read() -> None:
    """Autocast keeps the weights in sixteen bits, for all who come under it later."""
    model = tiny_model("llama").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with reading(model):
            model(input_ids=IDS)
        model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "qwen3_5"])
def test_one_walk_finds_what_torch_finds(name: str) -> None:
    model = get_peft_model(tiny_model(name), LoraConfig(target_modules="all-linear"))
    model.shared = model.get_input_embeddings()  # a module and a parameter that two places have
    with reading(model):
        walk = walk_of(model)
        assert walk.modules == tuple(model.modules())
        assert list(map(id, walk.parameters)) == list(map(id, model.parameters()))
        assert device_of(model) == next(model.parameters()).device


def test_attention_that_plans_for_every_shape_rests_while_a_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's, which is on by default; unless nothing else is left."""
    sdp, model = torch.backends.cuda, tiny_model("llama")
    assert sdp.cudnn_sdp_enabled()
    with suppress(KeyError), reading(model):
        assert not sdp.cudnn_sdp_enabled()
        with reading(model):
            pass
        assert not sdp.cudnn_sdp_enabled()
        raise KeyError
    assert sdp.cudnn_sdp_enabled()
    monkeypatch.setattr(sdp, "flash_sdp_enabled", lambda: False)
    with reading(model):
        assert sdp.cudnn_sdp_enabled()
    sdp.enable_cudnn_sdp(False)
    try:
        with reading(model):
            pass
        assert not sdp.cudnn_sdp_enabled(), "who turned it off wants it off"
    finally:
        sdp.enable_cudnn_sdp(True)


def test_a_walk_ends_with_the_reading() -> None:
    model = tiny_model("llama")
    with reading(model), reading(model):
        before = walk_of(model)
    model.more = nn.Linear(2, 2)
    assert model.more in walk_of(model).modules
    assert model.more not in before.modules


def test_threads_read_one_after_the_other() -> None:
    """Whatever models: what is put back is the whole process's, and two that overlap would put back each other's."""
    models = [tiny_model("llama"), tiny_model("gpt2")]
    inside: list[nn.Module] = []
    together: list[int] = []

    def read(model: nn.Module) -> None:
        with reading(model):
            inside.append(model)
            sleep(0.05)
            together.append(len(inside))
            inside.remove(model)

    state = torch.get_rng_state()
    threads = [Thread(target=read, args=(model,)) for model in (*models, models[0])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]
    assert all(module.training for model in models for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
