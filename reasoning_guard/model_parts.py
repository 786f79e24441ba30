"""What a model is made of, and what its configuration says about it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from reasoning_guard.errors import ConfigurationError


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, data-parallel wrappers and running averages of weights.

    Calling such a wrapper on one process alone may hang, and it cannot generate.

    >>> linear = nn.Linear(1, 1)
    >>> unwrapped(torch.compile(nn.DataParallel(linear))) is linear
    True
    """
    while True:
        if isinstance(model, (DistributedDataParallel, nn.DataParallel, AveragedModel)):
            model = model.module
        else:
            compiled_from = dict(model.named_children()).get("_orig_mod")  # torch.compile forwards all other names
            if compiled_from is None:
                return model
            model = compiled_from


def readable(model: nn.Module) -> nn.Module:
    """Return the model to read: as it came, compiled or not, unless another wrapper hides it.

    Raises:
        ConfigurationError: What wraps it is unknown, or it is no language model of Transformers.

    >>> readable(nn.DataParallel(nn.Linear(1, 1)))
    Traceback (most recent call last):
    reasoning_guard.errors.ConfigurationError: Linear has no `config`: pass a Transformers model, not what wraps it
    """
    inner = unwrapped(model)
    if not hasattr(inner, "config"):
        raise ConfigurationError(
            f"{type(inner).__name__} has no `config`: pass a Transformers model, not what wraps it"
        )
    return model if getattr(model, "_orig_mod", model) is inner else inner


def inner_model(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``'s and PEFT's wrappers; its forward has the signature that counts."""
    whole: Any = getattr(model, "_orig_mod", model)
    whole = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    return getattr(whole, "_orig_mod", whole)


def device_of(model: nn.Module) -> torch.device:
    """Return the device where inputs belong: the first parameter's, or where accelerate lets it compute."""
    walk = _walked.get(model)
    device = (walk.parameters[0] if walk else next(model.parameters())).device
    if device.type == "meta":
        hooks = (getattr(module, "_hf_hook", None) for module in modules_with(model, "_hf_hook"))
        placed = (getattr(hook, "execution_device", None) for hook in hooks)
        device = next((torch.device(place) for place in placed if place is not None), device)
    return device


def text_config(model: nn.Module) -> Any:
    """Return the configuration of the language model inside ``model``."""
    return walk_of(model).text_config


def settings_of(model: nn.Module) -> str:
    """Return all settings of the language model inside ``model``, as a text that changes when one of them does.

    How the model attends (:func:`attention_name`) is left out.
    """
    return walk_of(model).settings


def context_length(model: nn.Module) -> int | None:
    """Return the longest sequence that the model can read, in tokens, or None if it has no limit."""
    config = text_config(model)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def attention_name(model: nn.Module) -> str:
    """Return the attention implementation of the language model inside ``model``."""
    return str(getattr(text_config(model), "_attn_implementation", None) or "eager")


def is_sharded(model: nn.Module) -> bool:
    """Say whether processes hold parts of each parameter, so that each forward needs all of them (FSDP, ZeRO-3)."""
    return walk_of(model).sharded


def is_tensor_parallel(model: nn.Module) -> bool:
    """Say whether processes compute parts of one forward pass, so that all of them must read the same tokens."""
    return any("tp" in (p.device_mesh.mesh_dim_names or ()) for p in model.parameters() if isinstance(p, DTensor))


def here(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter, got without talking to the others."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def forward_identity(model: nn.Module) -> tuple[object, object]:
    """Return a value that changes when a host patches the forward of the model or of its class."""
    own = vars(model).get("forward")
    return weakly(type(model).forward), weakly(getattr(own, "__func__", own))


def weakly(function: object) -> object:
    """Return a key that is equal as long as it is the same function.

    By ``id`` alone, a later function in the place of a freed one would pass for it. The function itself is no key,
    since it may hold the model, and what is known about a model must not keep it alive.
    """
    try:
        return weakref.ref(function)
    except TypeError:  # None, and the few callables that take no weak references
        return function


def modules_with(model: nn.Module, name: str) -> list[nn.Module]:
    """Return the modules that have an attribute of their own or of their class."""
    return walk_of(model).having(name)


class Walk:
    """All that a model is made of, each once. It is shared, since looking it up each time slows down short passes."""

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
        """All that the configuration says, except how the model attends."""
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
        """Return the modules that have an attribute of their own or of their class.

        Not each module is asked: ``nn.Module`` takes as long to search for what it lacks as launching a kernel takes.
        """
        if name not in self._having:
            kinds = {kind for kind in self.kinds if hasattr(kind, name)}
            each_own = zip(self.modules, self._own, strict=True)
            self._having[name] = [each for each, own in each_own if name in own or type(each) in kinds]
        return self._having[name]


_walked: WeakKeyDictionary[nn.Module, Walk] = WeakKeyDictionary()


@contextmanager
def one_walk(model: nn.Module) -> Iterator[Walk]:
    """Within the block no module comes or goes, so one walk serves all callers."""
    walk = before = _walked.get(model)
    if walk is None:
        walk = _walked[model] = Walk(model)
    try:
        yield walk
    finally:
        if before is None:
            _walked.pop(model, None)


def walk_of(model: nn.Module) -> Walk:
    """Return the walk of the current block (:func:`one_walk`), else a new one."""
    return _walked.get(model) or Walk(model)


def _all_of(model: nn.Module) -> tuple[tuple[nn.Module, ...], tuple[nn.Parameter, ...]]:
    """Return what ``model.modules()`` and ``model.parameters()`` yield, model first, in a fraction of their time.

    Those make a name for each, which is not needed here. Parameters are told apart by ``id``, since hashing a tensor is
    a Python call.
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
