"""A guard's settings: refused if they cannot work, and kept beside the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any, Literal

from torch import nn

from reasoning_guard.alerts import Alert
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.history import digest
from reasoning_guard.model_parts import context_length
from reasoning_guard.probes import Probe
from reasoning_guard.problems import Problem
from reasoning_guard.reader import TraceReader
from reasoning_guard.rules import EFFECTS, Rule
from reasoning_guard.statistics import Effect

Action = Literal["warn", "stop", "rollback"] | Callable[[Alert], None]
OnError = Literal["record", "raise"]

_VIRTUAL_KEYS = ("PREFIX_TUNING", "CARTRIDGE")
"""PEFT's virtual tokens that stand in the cache alone: a prompt has as many tokens as without them."""


def check_settings(
    action: Any, alpha: float, patience: int, max_new_tokens: int, max_overhead: float | None, on_error: str
) -> None:
    """Refuse settings that cannot work.

    Raises:
        ConfigurationError: A setting cannot work; the message says which, what was expected and what came.
    """
    if action not in ("warn", "stop", "rollback") and not callable(action):
        raise ConfigurationError(f"`action` must be 'warn', 'stop', 'rollback' or a callable; got {action!r}")
    if not 0 < alpha < 1:
        raise ConfigurationError(f"`alpha` must lie between 0 and 1, e.g. 0.05; got {alpha}")
    for name, value in (("patience", patience), ("max_new_tokens", max_new_tokens)):
        if not isinstance(value, Integral) or isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"`{name}` must be a whole number; got {value!r}")
    if patience < 1:
        raise ConfigurationError(f"`patience` counts evaluations in a row, at least 1; got {patience}")
    if max_new_tokens < 1:
        raise ConfigurationError(f"`max_new_tokens` must be at least 1; got {max_new_tokens}")
    if max_overhead is not None and not 0 < max_overhead < 1:
        raise ConfigurationError(
            f"`max_overhead` is a share of the time between 0 and 1, e.g. 0.05, or None; got {max_overhead}"
        )
    if on_error not in ("record", "raise"):
        raise ConfigurationError(f"`on_error` must be 'record' or 'raise'; got {on_error!r}")


def check_effects(effects: Mapping[str, Any], rules: Sequence[Rule], probes: Sequence[Probe]) -> None:
    """Refuse what is no effect, and effects of values that nothing reports or reads, such as misspelt names.

    Raises:
        ConfigurationError: A name is unknown; the message says which, and which known name it resembles.
    """
    known = {name for rule in rules for name in (*rule.falls, *rule.rises, *rule.needs)} | {*EFFECTS}
    known |= {name for probe in probes for name in probe.names}
    plain = {name.partition("@")[0] for name in known}
    plain |= {f"reference/{name}" for name in plain}
    for name, effect in effects.items():
        if name.partition("@")[0] not in plain:
            near = get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"`effects`: nothing reads a value {name!r}{f'; did you mean {near[0]!r}?' if near else ''}"
            )
        if not isinstance(effect, Effect):
            raise ConfigurationError(f"`effects`: {name} must be an Effect(relative=..., absolute=...); got {effect!r}")


def check_model(model: nn.Module, problems: Sequence[Problem], reader: TraceReader) -> None:
    """Refuse a model that writes nothing or can't be scored, and prompts that leave its context no room for a trace.

    Args:
        model: The model to guard.
        problems: Held-out problems.
        reader: Makes the prompts.

    Raises:
        ConfigurationError: The model lacks something, or a problem is too long; the message says what, or which comes
            first.
    """
    if not hasattr(model, "generate"):
        raise ConfigurationError(
            f"{type(model).__name__} cannot generate, so it writes no reasoning to guard; the guard needs a causal "
            "language model"
        )
    _check_scorable(model)
    limit = context_length(model)
    for problem in problems:
        length = len(reader.prompt_ids(problem))
        if limit is not None and length >= limit:
            raise ConfigurationError(
                f"problem {problem.id!r}: its prompt has {length} tokens, the model's context {limit}, which "
                "leaves no room for a trace; drop or shorten it"
            )


def _check_scorable(model: nn.Module) -> None:
    """Refuse what the scorer would refuse at every evaluation: the tokens that go in are not those that come out."""
    whole: Any = model
    if getattr(getattr(whole, "config", None), "is_encoder_decoder", False):
        raise ConfigurationError(
            f"{type(model).__name__} is an encoder-decoder model, whose prompts and traces are no one text that could "
            "be cut; the guard needs a causal language model"
        )
    adapter: Any = getattr(whole, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False) and adapter.peft_type not in _VIRTUAL_KEYS:
        raise ConfigurationError(
            f"the model adds {adapter.num_virtual_tokens} tokens of its own to each prompt, as prompt tuning and "
            f"p-tuning do (it is trained with {type(adapter).__name__}), so answers can't be scored; train LoRA or "
            "another adapter that leaves the tokens alone, prefix tuning too"
        )


def fingerprint_of(problems: Sequence[Problem], reader: TraceReader, max_new_tokens: int) -> dict[str, str]:
    """Return what must not change if the numbers of two evaluations are to be comparable, by name."""
    asked = [(p.id, p.set, p.answer, p.options, p.prompt) for p in problems]
    found = {
        "problems": digest(asked),
        "format": digest(reader.format.to_dict()),
        "max_new_tokens": str(max_new_tokens),
    }
    if not all(isinstance(problem.prompt, str) for problem in problems):
        # As it is written, not what it renders: some templates write today's date.
        own = _with_plain_lines(getattr(reader.tokenizer, "chat_template", None))
        found["template"] = digest({"chat_template": own, **reader.template})
    return found


def _with_plain_lines(template: Any) -> Any:
    """A template, or several by name, with the line ends that one has which was saved; they render the same."""
    if isinstance(template, dict):
        return {name: _with_plain_lines(each) for name, each in template.items()}
    return template.replace("\r\n", "\n") if isinstance(template, str) else template
