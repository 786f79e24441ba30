"""What PEFT's adapters leave of the model below them. PEFT itself is needed only where there are adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from reasoning_guard.model_parts import here, modules_with

_REWRITING = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Beginnings of the names of initialisations that take out of the base weights what they put into the adapter."""

_PROMPTS_IN_LAYERS = (".adaption_prompt", ".adaption_gate")
"""What LLaMA-Adapter trains (Zhang et al., arXiv 2303.16199); its layers don't name it as others do."""

_FIRST = re.compile(r"(?<=\.)(lora_(?:embedding_)?)A(?=\.)")
"""How the first of LoRA's two matrices is named, of a layer or of an embedding."""


def has_adapter(model: nn.Module) -> bool:
    """Whether a model has PEFT's adapters and can be read without them."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def base_differs(model: nn.Module) -> str:
    """Say why the model below its adapters is not, or will not stay, the one that training starts from.

    An initialisation such as PiSSA's (Meng et al., arXiv 2404.02948) moves the largest directions of each weight into
    the adapter. Without the adapter, what is left is ruined. And what is trained beside the adapters stays changed when
    they are switched off.

    Args:
        model: A PEFT model (:func:`has_adapter`), in which whatever will be trained requires gradients.

    Returns:
        The reason in words, for a log; empty if the base stays what it is.
    """
    configs: dict[str, Any] = model.peft_config  # type: ignore[assignment]
    for config in configs.values():
        name = str(getattr(config, "init_lora_weights", "")).casefold()
        if name.startswith(_REWRITING):
            return f"its adapter was initialised by {name!r}, which changes the weights below"
    own = adapter_parameters(model)
    beside = [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in own]
    return f"{beside[0]} is trained beside its adapter" if beside else ""


def adapter_parameters(model: nn.Module) -> frozenset[int]:
    """``id`` of all parameters that are gone when the adapters are off."""
    return frozenset(id(parameter) for held in _held(model) for parameter in _parameters(held))


def idle_parameters(model: nn.Module) -> frozenset[int]:
    """``id`` of LoRA's matrices that change nothing yet: of two, one is drawn at random and the other is zero."""
    named = dict(model.named_parameters())
    pairs = ((name, _FIRST.sub(r"\1B", name)) for name in named)
    idle = (pair for pair in pairs if pair[1] in named and pair[0] != pair[1] and any(_is_zero(named[n]) for n in pair))
    return frozenset(id(named[name]) for pair in idle for name in pair)


def is_merged(model: nn.Module) -> bool:
    """Whether an adapter is part of the weights below at the moment."""
    return any(getattr(module, "merged_adapters", None) for module in modules_with(model, "merged_adapters"))


def _is_zero(parameter: nn.Parameter) -> bool:
    """By what this process holds of it."""
    own = here(parameter)
    return not own.is_meta and not bool(own.any())


def _held(model: nn.Module) -> Iterator[object]:
    """Return whatever adapter layers hold beside the layers that they wrap."""
    yield getattr(model, "prompt_encoder", None)
    yield from (each for name, each in model.named_parameters() if name.endswith(_PROMPTS_IN_LAYERS))
    for module in modules_with(model, "adapter_layer_names"):
        for name in ("modules_to_save", "token_adapter", *module.adapter_layer_names):  # type: ignore[misc]
            yield getattr(module, str(name), None)


def _parameters(held: object) -> Iterator[nn.Parameter]:
    if isinstance(held, nn.Parameter):
        yield held
    elif isinstance(held, nn.Module):
        yield from held.parameters()
