"""Find the format of a run's completions from the training data, so that one line is enough."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase, Trainer

from reasoning_guard.format_inference import EXAMPLES, infer_format, solutions
from reasoning_guard.formats import TraceFormat


def format_of_trainer(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, problems: Any) -> TraceFormat:
    """Find the preset in which most training examples (or worked reference solutions) state an answer.

    Args:
        trainer: The trainer. The first 64 examples of its ``train_dataset`` are looked at, unless that is a PyTorch
            stream, since nobody can put back what was read from it.
        tokenizer: Decodes examples that are token ids.
        problems: Held-out problems. Their worked solutions are looked at if the training data say nothing.

    Returns:
        The preset; "plain", with a warning, if none fits most examples.
    """
    return infer_format(
        {"training examples": _texts(trainer.train_dataset, tokenizer), "held-out solutions": solutions(problems)}
    )


def _texts(dataset: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    begins_anew = type(dataset).__module__.startswith("datasets.")  # the streams of `datasets` do
    if dataset is None or (isinstance(dataset, IterableDataset) and not begins_anew):
        return
    try:
        with _random_states_kept(dataset):
            rows = list(islice(iter(dataset), EXAMPLES))
    except TypeError:  # a data set of another kind: nothing can be read off it
        return
    for row in rows:
        text = _text(row, tokenizer) if isinstance(row, Mapping) else None
        if text:
            yield text


@contextmanager
def _random_states_kept(dataset: Any) -> Iterator[None]:
    """Data may draw random numbers as they are read; training must find the generators where they were.

    The global ones, and those that the data set has of its own.
    """
    python, numpy = random.getstate(), np.random.get_state()
    own = [_state_kept(value) for value in getattr(dataset, "__dict__", {}).values()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for put_back in own:
                put_back()


def _state_kept(generator: Any) -> Callable[[], object]:
    """What gives a generator the state back that it has now; for anything else nothing."""
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, np.random.Generator):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return lambda: None


def _text(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str | None:
    for column in ("completion", "messages", "text"):
        value = row.get(column)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and isinstance(value[-1], Mapping):
            return str(value[-1].get("content", ""))
    ids = row.get("input_ids")
    return str(tokenizer.decode(ids, skip_special_tokens=False)) if ids is not None else None
