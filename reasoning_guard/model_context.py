"""Reading a model in the middle of its training without leaving a trace."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

_MASKED = (None, "eager", "sdpa")
"""Attention implementations that take a dense 4D mask; all others read it wrongly or crash."""


@contextmanager
def reading(model: nn.Module, *, dense_masks: bool = False) -> Iterator[nn.Module]:
    """Put ``model`` into evaluation for the duration of the block, and everything back as it was afterwards.

    Restored: the train/eval flag of *every* module (a frozen submodule may be in eval while the rest trains), the
    global random state of the CPU and of the model's CUDA devices, the attention implementation of every part, and
    the lengths that rotary embeddings have seen.
    Gradients are off, in a way that leaves training all that a model makes for itself meanwhile
    (:func:`_without_autograd`). What was compiled runs as it was written, and cuDNN does not attend: each new length
    would be compiled or planned anew.

    Eval flags matter beyond dropout: with gradient checkpointing, a model in training mode silently drops its cache,
    and greedy generation is wrong from the second token on.

    Args:
        model: The live model.
        dense_masks: Switch to scaled-dot-product attention when the model's own implementation cannot take a 4D mask;
            :func:`takes_dense_masks` then says whether that went through.

    Yields:
        The same model.
    """
    with _one_walk(model) as walk:
        flags = [(module, module.training) for module in walk.modules]
        attention = _attention(model) if dense_masks else []
        ropes = [_RopeState(module) for module in walk.having("rope_type") if _follows_lengths(module)]
        with torch.random.fork_rng(devices=_cuda_devices(model)), _uncompiled(), unplanned():
            try:
                if any(training for _, training in flags):
                    model.eval()
                if any(name not in _MASKED for _, name in attention):
                    _take_dense_masks(model)
                with _without_autograd(model):
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
    """Tell modules whose ``train`` does more than to set a flag, from the outside in: a whole's reaches its parts."""
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
    """Whether a rotary embedding takes its frequencies from the longest text that it was given, or the latest."""
    kinds: Any = module.rope_type
    names = kinds.values() if isinstance(kinds, dict) else [kinds]
    return any(name == "longrope" or "dynamic" in str(name) for name in names)


class _RopeState:
    """All that a rotary embedding holds, some of it set anew and some changed in place as it reads."""

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
    """Compute no gradients, and pass PyTorch's autograd by, as ``inference_mode`` does.

    Under ``no_grad`` alone every operation still goes through autograd's layers: a sixth of what Python takes to launch
    a forward pass of a thin model, 6 to 10 % of one trace in 0.5 B on an H200. But what a model makes under
    ``inference_mode`` and keeps, a buffer that grows with the longest text, training can't use. Here such tensors are
    as any others.

    What those layers note is what was changed in place, for a backward pass that is still to come. No host reads a
    model between a forward and its backward pass, and reading changes no weights.

    Parameters of other kinds, sharded or quantised ones, have operations taken apart in these layers; there they stay.
    """
    plain = set(map(type, _walk_of(model).parameters)) <= {nn.Parameter} and not is_sharded(model)
    # Private, and the only name for it.
    below = getattr(torch._C, "_AutoDispatchBelowADInplaceOrView", nullcontext)  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad(), below() if plain else nullcontext():
        yield


class _Walk:
    """All that a model is made of, each once. A pass over few tokens would notice if everybody looked for himself."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._having: dict[str, list[nn.Module]] = {}

    @cached_property
    def _parts(self) -> tuple[tuple[nn.Module, ...], tuple[nn.Parameter, ...]]:
        return _all_of(self._model)

    @cached_property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules, the model itself first."""
        return self._parts[0]

    @cached_property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All parameters, each once."""
        return self._parts[1]

    @cached_property
    def _own(self) -> list[dict[str, Any]]:
        """What each module has of its own."""
        return [*map(vars, self.modules)]

    @cached_property
    def kinds(self) -> frozenset[type[nn.Module]]:
        """Their classes."""
        return frozenset(map(type, self.modules))

    @cached_property
    def sharded(self) -> bool:
        """Whether processes hold parts of each parameter."""
        if any(issubclass(kind, (FSDPModule, FullyShardedDataParallel)) for kind in self.kinds):
            return True
        return any("ds_id" in vars(parameter) for parameter in self.parameters)

    @cached_property
    def text_config(self) -> Any:
        """The configuration of the language model inside."""
        config: Any = self._model.config
        return config.get_text_config(decoder=True)

    @cached_property
    def settings(self) -> str:
        """All that the configuration says, but how the model attends."""
        settings = vars(self.text_config).items()
        return repr([(name, value) for name, value in settings if not name.startswith("_attn_implementation")])

    @cached_property
    def attending(self) -> list[Any]:
        """Every configuration that decides how a part of the model attends."""
        found: list[Any] = [getattr(module, "config", None) for module in self.having("config")]
        found += [self.text_config] if hasattr(self._model, "config") else []
        configs = {id(config): config for config in found}.values()  # every layer has the same one, and asking is slow
        return [config for config in configs if hasattr(config, "_attn_implementation")]

    def having(self, name: str) -> list[nn.Module]:
        """Those that have an attribute of their own or of their class.

        Not by asking each: ``nn.Module`` searches long for what it lacks, as long as launching a kernel takes.
        """
        if name not in self._having:
            kinds = {kind for kind in self.kinds if hasattr(kind, name)}
            each_own = zip(self.modules, self._own, strict=True)
            self._having[name] = [each for each, own in each_own if name in own or type(each) in kinds]
        return self._having[name]


_walked: WeakKeyDictionary[nn.Module, _Walk] = WeakKeyDictionary()


@contextmanager
def _one_walk(model: nn.Module) -> Iterator[_Walk]:
    """Within the block nothing comes or goes, so that one walk serves all who ask."""
    walk = before = _walked.get(model)
    if walk is None:
        walk = _walked[model] = _Walk(model)
    try:
        yield walk
    finally:
        if before is None:
            _walked.pop(model, None)


def _walk_of(model: nn.Module) -> _Walk:
    return _walked.get(model) or _Walk(model)


def _all_of(model: nn.Module) -> tuple[tuple[nn.Module, ...], tuple[nn.Parameter, ...]]:
    """What ``model.modules()`` and ``model.parameters()`` yield, the model itself first, in a fraction of their time.

    Those make up a name for each, to no purpose here. Parameters are told apart by ``id``, since hashing a tensor is a
    call of Python's.
    """
    modules: dict[nn.Module, None] = {}
    parameters: dict[int, nn.Parameter] = {}
    pending: list[nn.Module | None] = [model]
    while pending:
        module = pending.pop()
        if module is None or module in modules:
            continue
        modules[module] = None
        own = vars(module)
        children: dict[str, nn.Module | None] | None = own.get("_modules")
        if children is None:
            children = dict(module.named_children())
        if children:
            pending += reversed(children.values())
        kept: dict[str, nn.Parameter | None] | None = own.get("_parameters")
        if kept is None:
            kept = dict(module.named_parameters(recurse=False))
        if kept:
            for each in kept.values():
                if each is not None:
                    parameters[id(each)] = each
    return tuple(modules), tuple(parameters.values())


def modules_with(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules that have an attribute of their own or of their class."""
    return _walk_of(model).having(name)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile`` and data-parallel wrappers.

    Calling such a wrapper on one process alone may hang it, and it cannot generate.

    >>> linear = nn.Linear(1, 1)
    >>> unwrapped(torch.compile(nn.DataParallel(linear))) is linear
    True
    """
    while True:
        if isinstance(model, (DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            compiled_from = dict(model.named_children()).get("_orig_mod")  # torch.compile forwards all other names
            if compiled_from is None:
                return model
            model = compiled_from


def takes_dense_masks(model: nn.Module) -> bool:
    """Whether every part of the model now attends in a way that a dense 4D mask can steer."""
    return all(name in _MASKED for _, name in _attention(model))


def attention_name(model: nn.Module) -> str:
    """The attention implementation of the language model inside ``model``."""
    return str(getattr(text_config(model), "_attn_implementation", None) or "eager")


@contextmanager
def attending_by(model: nn.Module, name: str) -> Iterator[None]:
    """Within the block, what attends by ``sdpa`` attends by another function that Transformers knows by its name."""
    before = _attention(model)
    try:
        for config, own in before:  # each, since a whole sets its parts, and comes before them
            config._attn_implementation = name if own == "sdpa" else own
        yield
    finally:
        for config, own in before:
            config._attn_implementation = own


def _uncompiled() -> AbstractContextManager[object]:
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


@contextmanager
def unplanned() -> Iterator[None]:
    """Keep scaled-dot-product attention from cuDNN's kernels where there are others.

    cuDNN plans for every shape that it has not met: 60 ms each on an H200, several times what a forward takes. Traces
    are of all lengths, and each token that is generated makes them longer. PyTorch's own kernels plan nothing.
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


def runs_as_written() -> bool:
    """Whether :func:`reading` keeps ``torch.compile`` out; compiled code may pass hooks by, or keep them."""
    return hasattr(torch.compiler, "set_stance")


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter, where inputs belong."""
    walk = _walked.get(model)
    return (walk.parameters[0] if walk else next(model.parameters())).device


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``'s wrapper and PEFT's, whose forward has the signature that counts."""
    whole: Any = getattr(model, "_orig_mod", model)
    whole = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    return getattr(whole, "_orig_mod", whole)


def forward_identity(model: nn.Module) -> tuple[object, object]:
    """Differs once a host has patched the forward of the model or of its class."""
    own = vars(model).get("forward")
    return weakly(type(model).forward), weakly(getattr(own, "__func__", own))


def weakly(function: object) -> object:
    """Equal as long as it is the same one; by ``id`` alone, a later function in a freed one's place would pass for it.

    Not the function itself: it may hold the model, and what is known of a model must not keep it alive.
    """
    try:
        return weakref.ref(function)
    except TypeError:  # None, and the few callables that take no weak references
        return function


def text_config(model: nn.Module) -> Any:
    """The configuration of the language model inside ``model``."""
    return _walk_of(model).text_config


def settings_of(model: nn.Module) -> str:
    """All settings of the language model inside ``model``, as text that differs once one of them was changed.

    But how it attends (:func:`attention_name`).
    """
    return _walk_of(model).settings


def context_length(model: nn.Module) -> int | None:
    """Longest sequence that the model can read, in tokens, or None when it has no limit."""
    config = text_config(model)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def is_sharded(model: nn.Module) -> bool:
    """Whether processes hold parts of each parameter, so that each forward needs all of them (FSDP, ZeRO-3)."""
    return _walk_of(model).sharded


def is_tensor_parallel(model: nn.Module) -> bool:
    """Whether processes compute parts of one forward pass, so that all of them must read the same tokens."""
    return any("tp" in (p.device_mesh.mesh_dim_names or ()) for p in model.parameters() if isinstance(p, DTensor))


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {p.device for p in _walk_of(model).parameters}
    return sorted(device.index or 0 for device in devices if device.type == "cuda")


def _attention(model: nn.Module) -> list[tuple[Any, str | None]]:
    """Every configuration that decides how a part of the model attends, with what it says."""
    return [(config, config._attn_implementation) for config in _walk_of(model).attending]


def _take_dense_masks(model: Any) -> None:
    """Scaled-dot-product attention, or eager for architectures that have no other (Gemma 2, gpt-oss)."""
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:
        model.set_attn_implementation("eager")
