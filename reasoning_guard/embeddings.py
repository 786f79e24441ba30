"""Which tokens a model has embeddings for. All others are refused before they are fed.

On a GPU, a token without an embedding trips an assertion on the device, after which the process can't use the device
any more, and the training would end. Tokens that were added to the tokenizer but not to the model are of this kind, and
training may never feed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.model_parts import inner_model


def embeddings_of(model: nn.Module) -> int | None:
    """Return how many tokens the model has embeddings for, or None if it does not say.

    The weight does not tell, since it may be sharded, and adapters wrap the module that knows.

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
    """Refuse sequences with tokens that the model does not know.

    Raises:
        ConfigurationError: The model has no embedding for one of the tokens.
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
