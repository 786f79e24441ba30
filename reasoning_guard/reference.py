"""The frozen reference: an independent reader that does not change while the model is trained.

The model in training must not be asked whether a text is *informative*, since it co-adapts. The reference is the model
as it was before the first step: with the adapter switched off (PEFT), as a copy (full fine-tuning, if memory allows),
or a model that the user names. An adapter that was trained before is switched off too. The reference is then the base
below it, not the model from which training starts. If that base is no model that anybody trained, or is trained itself,
a copy is made.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn

from reasoning_guard.adapters import adapter_parameters, base_differs, has_adapter, idle_parameters, is_merged
from reasoning_guard.embeddings import embeddings_of
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.formats import TraceFormat
from reasoning_guard.forward import Scores
from reasoning_guard.model_parts import device_of, here, readable
from reasoning_guard.scorer import AnswerScorer
from reasoning_guard.tree import TraceTree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SHARE_OF_FREE_MEMORY = 0.4
"""A copy is made only if it takes less than this share of the memory that training will leave free."""


_TRAINING = 3
"""What training will still allocate, as a multiple of the trained weights: gradients and two optimizer states."""


class Reference:
    """A frozen reader.

    Args:
        model: The model that reads: a copy, a named model, or the trained model itself with its adapter off.
        tokenizer: The tokenizer of the trained model; the reference must share its vocabulary.
        format: How an answer is asked for.
        description: Who reads, in words.
        adapter_off: Whether ``model`` is a PEFT model to be read with its adapter disabled.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        format: str | TraceFormat,
        description: str,
        *,
        adapter_off: bool = False,
    ) -> None:
        self.description = description
        self._scorer = AnswerScorer(model, tokenizer, format)
        self._adapter_off = adapter_off

    def score_trees(self, trees: Sequence[TraceTree]) -> Scores:
        """Score trees as :meth:`AnswerScorer.score_trees` does, read by the reference."""
        with self._frozen():
            return self._scorer.score_trees(trees)

    def score_tree_groups(self, groups: Sequence[Sequence[TraceTree]]) -> list[Scores]:
        """Score groups as :meth:`AnswerScorer.score_tree_groups` does, read by the reference."""
        with self._frozen():
            return self._scorer.score_tree_groups(groups)

    def show_progress(self, shown: bool) -> None:
        """Whether a bar shows how much of a reading is done."""
        self._scorer.progress = shown

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        if not self._adapter_off:
            yield
            return
        model: Any = self._scorer.model
        if is_merged(model):  # switched off, it would be taken out of the weights again, which rounding changes
            raise ConfigurationError(
                "the frozen reference is the base model, and its adapter is merged into it: call `unmerge_adapter()` "
                "before the guard reads, or pass `reference=` a model"
            )
        wanted = [(p, p.requires_grad) for p in model.parameters()]
        try:
            with model.disable_adapter():
                yield
        finally:
            for p, flag in wanted:
                p.requires_grad_(flag)

    def fingerprint(self) -> str:
        """A digest of a sample of every parameter that is used, which changes when the reference's weights do."""
        model = self._scorer.model
        without = adapter_parameters(model) if self._adapter_off else idle_parameters(model)
        left_out = {name for name, parameter in model.named_parameters() if id(parameter) in without}
        samples = {name: _sample(parameter) for name, parameter in model.named_parameters() if not parameter.is_meta}
        for path, module in model.named_modules():
            if has_offloaded_params(module):
                with align_module_device(module):
                    samples |= {name: _sample(each) for name, each in module.named_parameters(path, recurse=False)}
        return hashlib.sha256(b"".join(samples[name] for name in sorted(samples.keys() - left_out))).hexdigest()[:16]


def _sample(parameter: nn.Parameter) -> bytes:
    """Return sixteen numbers of a parameter, evenly spread."""
    own = here(parameter).detach()
    return own.flatten()[:: max(1, own.numel() // 16)][:16].double().cpu().numpy().tobytes()


def take_reference(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    format: str | TraceFormat,
    choice: str | nn.Module | None = "auto",
    device: torch.device | None = None,
) -> Reference | None:
    """Take the frozen reader for a model that is about to be trained.

    Args:
        model: The model before its first step.
        tokenizer: Its tokenizer.
        format: How an answer is asked for.
        choice: Which reader to take. "auto": the model with its adapter off, if there is one and training starts from
            the base below it and leaves that alone; else a copy, if it takes less than 40 % of the free memory; else
            none. "copy": the same, whatever memory it takes. None: no reference. Or a model.
        device: Where the model will be trained, if it is not there yet. A copy goes there now.

    Returns:
        The reference, or None. What was chosen is logged once.

    Raises:
        ConfigurationError: ``choice`` is none of these, or it is a model with a smaller vocabulary.
    """
    if choice is None:
        return None
    if isinstance(choice, nn.Module):
        chosen = _checked(readable(choice), tokenizer)
        return Reference(chosen, tokenizer, format, f"the given {type(chosen).__name__}")
    if choice not in ("auto", "copy"):
        raise ConfigurationError(f"`reference` must be 'auto', 'copy', None or a model; got {choice!r}")
    model = readable(model)
    if has_adapter(model):
        why = base_differs(model)
        if not why:
            return Reference(model, tokenizer, format, "the base model, adapter off", adapter_off=True)
        logger.warning("the frozen reference is not the model with its adapter off, but a copy: %s", why)
    copied = _copy_on(model, device or device_of(model), at_any_price=choice == "copy")
    return None if copied is None else Reference(copied, tokenizer, format, "a copy of the model before training")


def _copy_on(model: nn.Module, device: torch.device, *, at_any_price: bool) -> nn.Module | None:
    """Copy a model to where it will be trained; None, which is logged, where that takes too much or can't be done."""
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    to_come = _TRAINING * trained + (0 if device == device_of(model) else needed)
    free = max(0, free_memory(device) - to_come)
    if not at_any_price and (needed == 0 or needed > _SHARE_OF_FREE_MEMORY * free):
        logger.warning(
            "no frozen reference: a copy of the model takes %.1f GiB of the %.1f GiB that training leaves free, so "
            "whether the text stays informative to an independent reader is not measured. Pass `reference=` a smaller "
            "model of the same tokenizer, or 'copy' to make the copy all the same.",
            needed / 2**30,
            free / 2**30,
        )
        return None
    try:
        copied = frozen_copy(model).to(device)
    except Exception as error:  # what a model drags along may refuse to be copied; a run can do without a reference
        if at_any_price:
            raise
        logger.warning("no frozen reference: the model could not be copied (%s); pass `reference=` a model", error)
        return None
    logger.info("frozen reference: a copy of the model, %.2f GiB", needed / 2**30)
    return copied


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy a model so that later training of the original cannot reach the copy.

    Hosts wrap ``model.forward`` on the instance (autocast, fused losses). A deep copy would keep a wrapper that calls
    the *original*. So instance-level forwards are dropped from the copy.

    Args:
        model: The model to copy.

    Returns:
        The copy, in evaluation mode and without gradients.
    """
    wrapped = [(module, vars(module).pop("forward")) for module in model.modules() if "forward" in vars(module)]
    try:
        frozen = copy.deepcopy(model)
    finally:
        for module, forward in wrapped:
            vars(module)["forward"] = forward
    return frozen.eval().requires_grad_(False)


def free_memory(device: torch.device) -> int:
    """Return the free memory where ``device`` keeps its weights, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _checked(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    vocabulary = embeddings_of(model)
    if vocabulary is not None and vocabulary < len(tokenizer):
        raise ConfigurationError(
            f"the reference knows {vocabulary} tokens, the tokenizer has {len(tokenizer)}: "
            "a reference must share the trained model's tokenizer"
        )
    return model
