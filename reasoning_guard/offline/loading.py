"""Load a model and its tokenizer from a folder or the hub, adapters included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import find_adapter_config_file

from reasoning_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    name: str, *, device: str | None = None, dtype: str = "auto"
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a causal language model for reading.

    Args:
        name: A local folder or a name on the hub: a model, or a PEFT adapter (its base is loaded with it).
        device: Where to put it, e.g. "cpu" or "cuda:1". The default is this process's accelerator, if there is one.
        dtype: One of :data:`DTYPES`; "auto" takes what the weights were saved in.

    Returns:
        The model, in evaluation mode and without gradients, and its tokenizer.

    Raises:
        ConfigurationError: There is no such model or tokenizer, or it can't be loaded; the message says why.
    """
    if dtype not in DTYPES:
        raise ConfigurationError(f"`dtype` must be one of {', '.join(DTYPES)}; got {dtype!r}")
    where = _device(device)
    kind: Any = "auto" if dtype == "auto" else getattr(torch, dtype)
    try:
        model: Any = (
            _adapted(name, kind) if _is_adapter(name) else AutoModelForCausalLM.from_pretrained(name, dtype=kind)
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigurationError(_why_not(name, error)) from error
    try:
        tokenizer = _tokenizer(name, model)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ConfigurationError(
            f"the model of {name} was loaded, its tokenizer could not be: is one beside the weights? Put it there with "
            f"tokenizer.save_pretrained({name!r}) ({_first_line(error)})"
        ) from error
    return model.to(where).eval().requires_grad_(False), tokenizer


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device(PartialState().device or "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"device {device!r} can't be used: {_first_line(error)}") from error


def _is_adapter(name: str) -> bool:
    return find_adapter_config_file(name) is not None


def _adapted(name: str, dtype: Any) -> nn.Module:
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError as error:
        raise ConfigurationError(
            f"{name} is a PEFT adapter, which needs: pip install 'reasoning-guard[peft]'"
        ) from error
    return AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype)


def _tokenizer(name: str, model: Any) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights; an adapter saved without one has its base's."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        configs = getattr(model, "peft_config", None)
        if not configs:
            raise
        return AutoTokenizer.from_pretrained(next(iter(configs.values())).base_model_name_or_path)


def _why_not(name: str, error: Exception) -> str:
    path = Path(name)
    if path.is_dir():
        missing = (
            "" if any(path.glob("*config.json")) else "; there is no config.json in it: is it the checkpoint itself?"
        )
        return f"no causal language model could be loaded from the folder {name}{missing} ({_first_line(error)})"
    return (
        f"there is no folder {name!r}, and no model of this name could be fetched from the hub ({_first_line(error)}). "
        "Give the folder of a saved model (with config.json, weights and tokenizer), a PEFT adapter's, or a hub name"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
