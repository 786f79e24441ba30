"""Decide when a completion that is being written is complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STOP_TOKENS = 48
"""Last tokens of a completion that are looked at: an answer and what ends it."""

IsComplete = Callable[[str], bool]
"""Whether a completion that ends in this text is complete."""


class Complete(StoppingCriteria):
    """Ends a row where its text is complete, for any tokenizer, and remembers where, so padding needs no guessing.

    It is asked after every token. So one transfer brings the ends of all rows, and only open rows are decoded.

    Args:
        tokenizer: Decodes what was written.
        is_complete: Judges by the text of a row's last 48 tokens.
        prompts: ``[rows, tokens]`` ids from which completions go on.
        eos: Ids that end a row by themselves.

    Attributes:
        ends: For each complete row, how many tokens had been written when it was complete.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, is_complete: IsComplete, prompts: torch.Tensor, eos: frozenset[int]
    ) -> None:
        self.tokenizer, self.is_complete, self.eos = tokenizer, is_complete, eos
        self.ends: dict[int, int] = {}
        rows, self._start = prompts.shape
        self._open = list(range(rows))

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Which rows are complete, ``[rows]`` bool."""
        written = input_ids[:, self._start :]
        tails = written[:, -_STOP_TOKENS:].cpu()
        newest = tails[:, -1].tolist()
        self._open = [row for row in self._open if newest[row] not in self.eos]
        for row, text in zip(self._open, self._texts(tails), strict=True):
            if self.is_complete(text):
                self.ends[row] = written.shape[1]
        self._open = [row for row in self._open if row not in self.ends]
        return torch.tensor([row in self.ends for row in range(len(tails))], device=input_ids.device)

    def _texts(self, tails: torch.Tensor) -> list[str]:
        """How the open rows end. As a tensor: in a list, each id would be looked at before any is decoded."""
        return self.tokenizer.batch_decode(tails[self._open], skip_special_tokens=False) if self._open else []
