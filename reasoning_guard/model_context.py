"""Read a model in the middle of its training, and leave it exactly as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch
from torch import nn

from reasoning_guard.model_parts import is_sharded, one_walk, walk_of

_MASKED = (None, "eager", "sdpa")
"""Attention implementations that take a dense 4D mask; all others read it wrongly or crash."""
_SAME_WITHOUT = ("flash", "flex", "paged")
"""Parts of the names of those that compute the same as these. A user's own attention may compute something else."""


_one_at_a_time = RLock()


@contextmanager
def reading(model: nn.Module, *, dense_masks: bool = False) -> Iterator[nn.Module]:
    """Put ``model`` into evaluation mode for the duration of the block, and put everything back afterwards.

    Restored: the train/eval flag of *every* module (a frozen submodule may be in eval while the rest trains), the
    global random state of the CPU and of the model's CUDA devices, the attention implementation of every part, the
    lengths that rotary embeddings have seen, and whether a mixture's router logits are asked for. Gradients are off, in
    a way that leaves usable for training whatever a model makes for itself meanwhile (:func:`_without_autograd`).
    Compiled models run uncompiled, and cuDNN's attention is off, because each new length would be compiled or planned
    anew.

    Threads read one after the other, whatever their models: what is put back later was changed for the whole process,
    and hooks on a head take what any thread sends through it.

    Eval flags matter beyond dropout. With gradient checkpointing, a model in training mode silently drops its cache,
    and greedy generation is wrong from the second token on.

    Args:
        model: The live model.
        dense_masks: Replace flash or flex attention, which cannot take a 4D mask, by scaled-dot-product attention,
            which computes the same. :func:`takes_dense_masks` then says whether that worked.

    Yields:
        The same model.
    """
    with _one_at_a_time, one_walk(model) as walk:
        flags = [(module, module.training) for module in walk.modules]
        attention = _attention(model) if dense_masks else []
        ropes = [_RopeState(module) for module in walk.having("rope_type") if _follows_lengths(module)]
        with torch.random.fork_rng(devices=_cuda_devices(model)), torch.compiler.set_stance("force_eager"), unplanned():
            try:
                if any(training for _, training in flags):
                    model.eval()
                if others := {name for _, name in attention if name not in _MASKED}:
                    _take_dense_masks(model, others)
                with _without_router_logits(model), _without_autograd(model):
                    yield model
            finally:
                with ExitStack() as back:  # the last named first, and each whatever becomes of the others
                    back.callback(_attend_again, attention)
                    for rope in ropes:
                        back.callback(rope.put_back)
                    if any([module.training != training for module, training in flags]):
                        back.callback(_flag_again, flags)
                        back.callback(_train_again, flags)


def _train_again(flags: Sequence[tuple[nn.Module, bool]]) -> None:
    """Call ``train`` of modules where it does more than set a flag, from the outside in, since it reaches parts."""
    for module, training in flags:
        if module.training != training and type(module).train is not nn.Module.train:
            module.train(training)


def _flag_again(flags: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, training in flags:
        if module.training != training:
            module.training = training


def _attend_again(attention: Sequence[tuple[Any, str | None]]) -> None:
    for config, name in attention:
        if config._attn_implementation != name:
            config._attn_implementation = name


def _follows_lengths(module: nn.Module) -> bool:
    """Say whether a rotary embedding takes its frequencies from the longest or latest text that it was given."""
    kinds: Any = module.rope_type
    names = kinds.values() if isinstance(kinds, dict) else [kinds]
    return any(name == "longrope" or "dynamic" in str(name) for name in names)


class _RopeState:
    """All that a rotary embedding holds; some of it is set anew and some changed in place as it reads."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._attributes = dict(vars(module))
        self._buffers = dict(module.named_buffers(recurse=False))
        self._values = {name: buffer.clone() for name, buffer in self._buffers.items()}

    def put_back(self) -> None:
        """Give the module all of it back."""
        vars(self._module).clear()
        vars(self._module).update(self._attributes)
        buffers = vars(self._module)["_buffers"]
        with torch.no_grad():
            for name, buffer in self._buffers.items():
                buffers[name] = buffer.copy_(self._values[name])


@contextmanager
def _without_autograd(model: nn.Module) -> Iterator[None]:
    """Compute no gradients, and bypass PyTorch's autograd, as ``inference_mode`` does.

    Under ``no_grad`` alone, every operation still goes through autograd's layers. That is a sixth of the time that
    Python takes to launch a forward pass of a thin model, and 6 to 10 % of one trace in 0.5 B on an H200. But what a
    model makes and keeps under ``inference_mode``, such as a buffer that grows with the longest text, training can't
    use. Here such tensors are like any others.

    Those layers note what was changed in place, for a backward pass that is still to come. No host reads a model
    between a forward and its backward pass, and reading changes no weights.

    For sharded or quantised parameters, these layers take operations apart, so there they stay.

    Autocast caches what it makes of the weights, here without gradients. Within a host's autocast, training would take
    that for its own, and learn nothing from it.
    """
    plain = set(map(type, walk_of(model).parameters)) <= {nn.Parameter} and not is_sharded(model)
    # Private, and the only name for it.
    below = getattr(torch._C, "_AutoDispatchBelowADInplaceOrView", nullcontext)  # pyright: ignore[reportPrivateUsage]
    try:
        with torch.no_grad(), below() if plain else nullcontext():
            yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def _without_router_logits(model: nn.Module) -> Iterator[None]:
    """Have mixtures of experts leave out the loss that balances their experts, which only training needs.

    It counts tokens by a padding mask, and fails under a mask of four dimensions.
    """
    asked = [config for config in walk_of(model).attending if getattr(config, "output_router_logits", False) is True]
    try:
        for config in asked:
            config.output_router_logits = False
        yield
    finally:
        for config in asked:
            config.output_router_logits = True


def takes_dense_masks(model: nn.Module) -> bool:
    """Say whether every part of the model now attends in a way that a dense 4D mask can steer."""
    return all(name in _MASKED for _, name in _attention(model))


@contextmanager
def attending_by(model: nn.Module, name: str) -> Iterator[None]:
    """Within the block, let parts that attend by ``sdpa`` attend by another function, known to Transformers by name."""
    before = _attention(model)
    try:
        for config, own in before:  # each, since a whole sets its parts, and comes before them
            config._attn_implementation = name if own == "sdpa" else own
        yield
    finally:
        for config, own in before:
            config._attn_implementation = own


@contextmanager
def unplanned() -> Iterator[None]:
    """Keep scaled-dot-product attention from using cuDNN's kernels if there are others.

    cuDNN makes a plan for every shape that it has not met. A plan takes 60 ms on an H200, several times what a forward
    takes. Traces have all lengths, and each generated token makes them longer. PyTorch's own kernels plan nothing.
    """
    sdp = torch.backends.cuda
    if not (sdp.cudnn_sdp_enabled() and sdp.flash_sdp_enabled() and sdp.mem_efficient_sdp_enabled()):
        yield
        return
    sdp.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        sdp.enable_cudnn_sdp(True)


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {p.device for p in walk_of(model).parameters}
    return sorted(device.index or 0 for device in devices if device.type == "cuda")


def _attention(model: nn.Module) -> list[tuple[Any, str | None]]:
    """Every configuration that decides how a part of the model attends, with what it says."""
    return [(config, config._attn_implementation) for config in walk_of(model).attending]


def _take_dense_masks(model: Any, others: Iterable[str | None]) -> None:
    """Scaled-dot-product attention, or eager for architectures that have no other (Gemma 2, gpt-oss)."""
    if not all(any(same in str(name) for same in _SAME_WITHOUT) for name in others):
        return
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:
        model.set_attn_implementation("eager")
