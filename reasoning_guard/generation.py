"""The one place that generates: completions of the live model, in batches, without disturbing it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from reasoning_guard.device_memory import empty_cache, out_of_memory
from reasoning_guard.embeddings import embeddings_of, refuse_unknown_tokens
from reasoning_guard.model_context import reading
from reasoning_guard.model_parts import context_length, device_of, is_sharded
from reasoning_guard.processes import Team, broke_off, in_step
from reasoning_guard.stopping import Complete, IsComplete

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_CPU_BUDGET, _GPU_BUDGET = 16_384, 131_072


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote after a prompt.

    Attributes:
        ids: Token ids, without padding and without the final EOS.
        finished: Whether the model ended by itself (EOS or a stop string), and not at the length limit.
        entropies: Entropy of the next-token distribution at each token of ``ids``, in nats.
    """

    ids: tuple[int, ...]
    finished: bool
    entropies: tuple[float, ...] = ()


class _EntropyRecorder(LogitsProcessor):
    """Records the entropy of every next-token distribution as it passes; changes nothing."""

    def __init__(self) -> None:
        self.columns: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = scores.float().softmax(-1)
        self.columns.append(torch.special.entr(probabilities).sum(-1))
        return scores

    def table(self) -> list[list[float]]:
        """Entropies ``[rows, generated tokens]``."""
        return torch.stack(self.columns, dim=1).tolist()


@contextmanager
def _own_settings(model: nn.Module) -> Iterator[None]:
    """Hide the model's generation configuration, from which ``generate`` fills in whatever a call leaves open."""
    found = [(m, vars(m)["generation_config"]) for m in model.modules() if "generation_config" in vars(m)]
    for module, _ in found:
        vars(module)["generation_config"] = GenerationConfig()
    try:
        yield
    finally:
        for module, config in found:
            vars(module)["generation_config"] = config


@dataclass(slots=True)
class _Budget:
    """Most tokens in one batch; less once memory ran out."""

    tokens: int


_budgets: WeakKeyDictionary[nn.Module, dict[str, _Budget]] = WeakKeyDictionary()


def _budget_of(model: nn.Module) -> _Budget:
    """What was learnt about a model on the kind of device where it is now, remembered as long as it lives.

    A run has a generator for each evaluation, and memory runs out late, when the cache has grown. So this is learnt
    once.
    """
    device = device_of(model).type
    untried = _Budget(_CPU_BUDGET if device == "cpu" else _GPU_BUDGET)
    return _budgets.setdefault(model, {}).setdefault(device, untried)


class Generator:
    """Writes greedy completions with a live model.

    Prompts are padded on the left by hand, so that the tokenizer, which the training collator shares, is never changed.

    Args:
        model: The model that is being trained.
        tokenizer: Its tokenizer; never changed.
        max_new_tokens: Longest completion, in tokens.
        is_complete: Ends a completion early, judging by the text of its last 48 tokens (see
            :meth:`~reasoning_guard.formats.TraceFormat.is_complete`). None: only EOS ends one.
        token_budget: Most tokens, padding and room for the completion included, in one batch. It is halved when memory
            runs out. By default, generators of one model share what was learnt about it.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = 512,
        is_complete: IsComplete | None = None,
        token_budget: int | None = None,
        progress: bool = True,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.is_complete = is_complete
        self.progress = progress
        self._own_budget = _Budget(token_budget) if token_budget else None
        self._ends = _end_ids(model, tokenizer)
        self._pad = _pad_id(model, tokenizer, self._ends)
        self._synced = False

    @property
    def token_budget(self) -> int:
        """Most tokens, padding and room for the completion included, in one batch, as learnt so far."""
        return self._budget.tokens

    @property
    def _budget(self) -> _Budget:
        return self._own_budget or _budget_of(self.model)

    def complete(self, prompts: Sequence[Sequence[int]], label: str = "generating") -> list[Completion]:
        """Complete prompts.

        Args:
            prompts: Token ids of each prompt, without padding. A prompt that leaves the context no room for a single
                token gets an empty, unfinished completion.
            label: The label of the progress bar.

        Returns:
            One completion for each prompt, in order.

        Raises:
            ConfigurationError: The model has no embedding for a token of a prompt.
        """
        refuse_unknown_tokens(self.model, prompts)
        limit = context_length(self.model)
        found: dict[int, Completion] = {
            i: Completion((), finished=False) for i, p in enumerate(prompts) if limit is not None and len(p) >= limit
        }
        pending = sorted((i for i in range(len(prompts)) if i not in found), key=lambda i: len(prompts[i]))
        bar = tqdm(total=len(pending), desc=label, leave=False, disable=not self.progress)
        with reading(self.model), _own_settings(self.model), bar, self._in_step() as announce:
            while pending:
                batch = self._next_batch(prompts, pending, limit)
                announce()
                completions = self._complete_fitting([prompts[i] for i in batch], limit)
                if completions is None:
                    self._halve(len(batch) * (len(prompts[batch[-1]]) + self.max_new_tokens))
                    continue
                found.update(zip(batch, completions, strict=True))
                pending = pending[len(batch) :]
                bar.update(len(batch))
        return [found[i] for i in range(len(prompts))]

    def rounds(self, prompts: Sequence[Sequence[int]]) -> int:
        """Count the batches in which :meth:`complete` writes for ``prompts``.

        Args:
            prompts: Token ids of the prompts.

        Returns:
            The number of batches with the present token budget.
        """
        limit, made = context_length(self.model), 0
        pending = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        while pending:
            pending = pending[len(self._next_batch(prompts, pending, limit)) :]
            made += 1
        return made

    def _in_step(self) -> AbstractContextManager[Callable[[], None]]:
        """Let a sharded model generate on all processes at once; a companion's one-token result is dropped."""
        self._synced = is_sharded(self.model) and Team.of_run().size > 1
        return in_step(self._synced, lambda: self._complete_batch([(self._pad,)], None))

    def _next_batch(self, prompts: Sequence[Sequence[int]], pending: Sequence[int], limit: int | None) -> list[int]:
        """Return the longest run of prompts, sorted by length, that fits the token budget; at least one.

        Prompts near the end of the context are not batched with others, whose completions they would cut short.
        """
        size, budget = 1, self.token_budget
        while size < len(pending):
            longest = prompts[pending[size]]
            same_room = self._room(longest, limit) == self._room(prompts[pending[0]], limit)
            if not same_room or (size + 1) * (len(longest) + self.max_new_tokens) > budget:
                break
            size += 1
        return list(pending[:size])

    def _room(self, prompt: Sequence[int], limit: int | None) -> int:
        """Tokens that a completion of ``prompt`` may have."""
        return self.max_new_tokens if limit is None else min(self.max_new_tokens, limit - len(prompt))

    def _halve(self, tokens: int) -> None:
        budget = self._budget
        budget.tokens = min(budget.tokens, tokens) // 2
        empty_cache(device_of(self.model))
        logger.warning("out of memory while generating: token budget halved to %d", budget.tokens)

    def _complete_fitting(self, prompts: Sequence[Sequence[int]], limit: int | None) -> list[Completion] | None:
        """Completions of one batch, or None where memory is too small for it.

        The caller gives memory back, not the handler: its traceback would keep the failed pass's tensors alive.
        """
        try:
            return self._complete_batch(prompts, limit)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            broke_off()
            if len(prompts) > 1:
                return None
            raise torch.OutOfMemoryError(
                "out of memory while generating for a single prompt: nothing is left to halve; free memory on the "
                "device or lower `max_new_tokens`"
            ) from error

    def _complete_batch(self, prompts: Sequence[Sequence[int]], limit: int | None) -> list[Completion]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self._pad] * (longest - len(p)) + list(p) for p in prompts], device="cpu")
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device="cpu")
        recorder, stops = _EntropyRecorder(), self._stops(ids)
        device = device_of(self.model)
        model: Any = self.model
        written = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=self._config(self._room(max(prompts, key=len), limit)),
            logits_processor=LogitsProcessorList([recorder]),
            stopping_criteria=StoppingCriteriaList(stops),
            synced_gpus=self._synced,
        )[:, longest:]
        rows = zip(written.tolist(), recorder.table(), strict=True)
        ends = stops[0].ends if stops else {}
        return [self._trim(row, entropies, ends.get(i)) for i, (row, entropies) in enumerate(rows)]

    def _stops(self, prompts: torch.Tensor) -> list[Complete]:
        return [Complete(self.tokenizer, self.is_complete, prompts, self._ends)] if self.is_complete else []

    def _config(self, room: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=self._pad,
        )

    def _trim(self, row: list[int], entropies: list[float], stop: int | None) -> Completion:
        ends = [i for i, token in enumerate(row) if token in self._ends][:1] + ([] if stop is None else [stop])
        end = min(ends, default=len(row))
        return Completion(tuple(row[:end]), bool(ends), tuple(entropies[:end]))


def _end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a completion: the tokenizer's EOS and those of the model's generation configuration."""
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = declared if isinstance(declared, (list, tuple)) else [declared]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _pad_id(model: nn.Module, tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int]) -> int:
    """Return the id to pad with. It is masked, and may be any id that the model knows.

    The tokenizer's own pad token need not be known: it is often added to the tokenizer alone, and training never feeds
    it.
    """
    pad, known = tokenizer.pad_token_id, embeddings_of(model)
    pad = int(pad) if isinstance(pad, int) else min(end_ids, default=0)
    return pad if known is None or 0 <= pad < known else 0
