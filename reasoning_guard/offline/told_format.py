"""Find a format that nobody named: from worked solutions, else from what the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.format_inference import likeliest_format
from reasoning_guard.formats import PRESETS, TraceFormat, get_format
from reasoning_guard.generation import Generator
from reasoning_guard.problems import Problem, load_problems
from reasoning_guard.reader import TraceReader
from reasoning_guard.tokens import TokenText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SOLUTIONS, _WRITTEN = 64, 8


def format_of_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Any,
    *,
    max_new_tokens: int = 512,
    progress: bool = False,
) -> tuple[TraceFormat, str]:
    """Find the preset in which most worked solutions, else most of the model's own traces, state an answer.

    Args:
        model: Writes eight traces if the problems hold no worked solutions.
        tokenizer: Its tokenizer.
        problems: Anything :func:`~reasoning_guard.problems.load_problems` takes.
        max_new_tokens: Longest of these traces, in tokens.
        progress: Whether a bar shows how many are written.

    Returns:
        The preset, and in words what it was read off.

    Raises:
        ConfigurationError: No preset reads an answer in most of them.
    """
    loaded = load_problems(problems)
    solutions = [problem.answer for problem in loaded if problem.answer is not None][:_SOLUTIONS]
    if name := likeliest_format(solutions):
        return get_format(name), "the worked solutions"
    generator = Generator(model, tokenizer, max_new_tokens=max_new_tokens, progress=progress)
    written = _written(generator, tokenizer, loaded[:_WRITTEN])
    if name := likeliest_format(written):
        return get_format(name), f"{len(written)} traces of the model"
    raise ConfigurationError(
        f"no preset format ({', '.join(PRESETS)}) reads an answer in most of what the model writes; it wrote "
        f"{written[0][-200:]!r}. Name a format (--format, `format=`), or allow longer traces (--max-new-tokens)"
    )


def _written(generator: Generator, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[str]:
    reader = TraceReader(tokenizer, get_format("choice"))  # any format that needs no EOS: only its prompts are used
    completions = generator.complete([reader.prompt_ids(problem) for problem in problems])
    return [TokenText.of(tokenizer, done.ids).text for done in completions]
