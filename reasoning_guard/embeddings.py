"""Which tokens a model has embeddings of; all others are refused before they are fed.

On a GPU, a token without an embedding trips an assertion on the device, after which the process can't use it any more:
the training would end for it. Tokens that were added to a tokenizer alone are such, and training may never feed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.model_parts import inner_model


def embeddings_of(model: nn.Module) -> int | None:
    """How many tokens the model has embeddings of, or None where it does not say.

    Not by the weight, which may be sharded; and adapters wrap the module that knows.

    >>> embeddings_of(nn.Linear(1, 1)) is None
    True
    """
    try:
        whole: Any = inner_model(model)
        parts = whole.get_input_embeddings().modules()
    except (AttributeError, NotImplementedError):
        return None
    numbers = (getattr(part, "num_embeddings", None) for part in parts)
    return next((number for number in numbers if isinstance(number, int)), None)


def refuse_unknown_tokens(model: nn.Module, sequences: Iterable[Sequence[int]]) -> None:
    """Make sure that a model knows all tokens of some sequences.

    Raises:
        ConfigurationError: It has no embedding of one of them.
    """
    known = embeddings_of(model)
    if known is None:
        return
    for ids in sequences:
        least, greatest = min(ids, default=0), max(ids, default=0)
        if least < 0 or greatest >= known:
            raise ConfigurationError(
                f"expected token ids from 0 to below {known}, as many as {type(model).__name__} has embeddings; a "
                f"sequence has {least if least < 0 else greatest}. Tokens that were added to the tokenizer need "
                "`model.resize_token_embeddings(len(tokenizer))`"
            )
