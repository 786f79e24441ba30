"""Find the language model inside a LightningModule, and read it as it is trained: sharded, in mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import PreTrainedModel

from reasoning_guard.errors import ConfigurationError

_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def language_models(module: nn.Module) -> list[nn.Module]:
    """Find the outermost Transformers or PEFT models inside ``module`` that can generate.

    Args:
        module: A LightningModule.

    Returns:
        The models, in the order in which they are registered; a PEFT model and not the base model within it.
    """
    found: list[nn.Module] = []
    for candidate in module.modules():
        inside = any(candidate is part for model in found for part in model.modules())
        if _generates(candidate) and not inside:
            found.append(candidate)
    return found


def trained_model(module: nn.Module) -> nn.Module | None:
    """Find the one language model that ``module`` trains.

    Args:
        module: A LightningModule. Frozen models in it (a teacher, a judge) do not count beside one that is trained.

    Returns:
        The model; None if there is none yet (``configure_model`` may build it later).

    Raises:
        ConfigurationError: The module trains several models.
    """
    models = language_models(module)
    trained = [model for model in models if any(p.requires_grad for p in model.parameters())] or models
    if len(trained) > 1:
        raise ConfigurationError(
            f"{type(module).__name__} trains {len(trained)} language models "
            f"({', '.join(type(model).__name__ for model in trained)}); say which one to guard: "
            "ReasoningGuardCallback(..., get_model=lambda module: module.policy)"
        )
    return trained[0] if trained else None


@contextmanager
def as_trained(trainer: Any) -> Iterator[None]:
    """Read models as training runs them, for the duration of the block.

    * Under a "-mixed" precision, Lightning trains in autocast, but calls callbacks outside of it.
    * FSDP shards what no inner unit holds (embeddings, head) into its root, which the language model alone never
      gathers. Those parameters are made whole for the block. Inner units gather their own as they run.

    Args:
        trainer: A Lightning trainer that is fitting.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        for unit in _outer_units(trainer.strategy.model):
            stack.enter_context(FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=False))
        if trainer.precision in _AUTOCAST:
            device = trainer.strategy.root_device.type
            stack.enter_context(torch.autocast(device, dtype=_AUTOCAST[trainer.precision]))
        yield


def _outer_units(module: nn.Module | None) -> list[FullyShardedDataParallel]:
    """FSDP units at or around a language model: calling the model itself does not run them."""
    if not isinstance(module, FullyShardedDataParallel):
        return []
    units = [unit for unit in module.modules() if isinstance(unit, FullyShardedDataParallel)]
    models = language_models(module)
    return [unit for unit in units if unit is module or any(unit.module is model for model in models)]


def _generates(module: nn.Module) -> bool:
    """Told by type: wrappers (FSDP, torch.compile) forward every attribute of what they wrap."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    return ("PeftModel" in kinds or isinstance(module, PreTrainedModel)) and hasattr(module, "generate")
