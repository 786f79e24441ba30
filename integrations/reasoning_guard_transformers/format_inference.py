"""Which format do this run's completions have? Read off the training data, so that one line is enough."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Trainer

from reasoning_guard.format_inference import EXAMPLES, infer_format, solutions
from reasoning_guard.formats import TraceFormat


def format_of_trainer(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, problems: Any) -> TraceFormat:
    """The preset in which most of the training examples (or worked reference solutions) state an answer.

    Args:
        trainer: Its ``train_dataset`` is looked at, the first 64 examples of it.
        tokenizer: Decodes examples that are token ids.
        problems: Held-out problems; their worked solutions are looked at where the training data say nothing.

    Returns:
        The preset; "plain", with a warning, when none fits most examples.
    """
    return infer_format(
        {"training examples": _texts(trainer.train_dataset, tokenizer), "held-out solutions": solutions(problems)}
    )


def _texts(dataset: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    try:
        with _random_states_kept():
            rows = list(islice(iter(dataset), EXAMPLES)) if dataset is not None else []
    except TypeError:  # a data set of another kind: nothing can be read off it
        return
    for row in rows:
        text = _text(row, tokenizer) if isinstance(row, Mapping) else None
        if text:
            yield text


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Data may draw random numbers as they are read; training must find the generators where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _text(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str | None:
    for column in ("completion", "messages", "text"):
        value = row.get(column)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and isinstance(value[-1], Mapping):
            return str(value[-1].get("content", ""))
    ids = row.get("input_ids")
    return str(tokenizer.decode(ids, skip_special_tokens=False)) if ids is not None else None
