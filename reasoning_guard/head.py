"""What a model's forward lets us choose about its logits, and forward passes that make use of it.

The best choice is to make no logits at all. The head's input is taken off before it gets there, and read by
:class:`~reasoning_guard.hidden.Hidden`. That is right only if a model's logits are its head's output and nothing else:
no soft cap, no scale, no adapter. The next best choice is to make the logits of the wanted positions only
(``logits_to_keep``), so that no ``[tokens, vocabulary]`` tensor of a whole trunk exists. Hosts patch forwards, so
neither a signature nor a class proves anything. All of this is tried, on a few tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from reasoning_guard.device_memory import out_of_memory
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.hidden import Hidden
from reasoning_guard.logits import Distributions, Logits
from reasoning_guard.model_parts import device_of, forward_identity, inner_model, is_sharded, settings_of, text_config
from reasoning_guard.packing import on_device

_TRIAL, _PICKED = ((1, 2, 1, 2), (2, 1, 1, 2)), (0, 2)


@dataclass(frozen=True, slots=True)
class Head:
    """What a model's forward lets us choose about logits.

    Attributes:
        splits: Whether its logits are its head's output, so that the head may be left to
            :class:`~reasoning_guard.hidden.Hidden`.
        picks: Whether it takes the positions whose logits are wanted, as a tensor.
        skips: Whether it accepts no positions at all, which saves reading a large head for nothing.
    """

    splits: bool = False
    picks: bool = False
    skips: bool = False

    def keep(self, places: Sequence[int], device: torch.device) -> dict[str, Any]:
        """Return the arguments of a forward that wants logits at ``places``; if it can't pick, it makes them all."""
        some = places or (() if self.skips else (0,))
        return {"logits_to_keep": _sent(some, device)} if self.picks else {}


def _sent(places: Sequence[int], device: torch.device) -> torch.Tensor:
    return on_device(torch.tensor(places, dtype=torch.long, device="cpu"), device)  # whatever the default device is


_heads: WeakKeyDictionary[nn.Module, tuple[object, Head]] = WeakKeyDictionary()
_in_use: WeakKeyDictionary[nn.Module, Head | None] = WeakKeyDictionary()
"""For models that are being read: what was found, or None before anybody asked."""


def read(model: nn.Module, places: Sequence[int], *, split: bool = True, **inputs: Any) -> Distributions:
    """Run one forward pass. The caller has put the model in evaluation mode.

    Args:
        model: A causal language model.
        places: The tokens in every row whose next-token distributions are wanted; none is fine.
        split: False: the model makes its logits in any case.
        inputs: What the forward takes.

    Returns:
        The distributions, one column for each place.

    Raises:
        ConfigurationError: The forward returned hidden states in place of logits.
        RuntimeError: The head got other tokens than the model.
    """
    head = head_of(model)
    if not (split and head.splits):
        keep = head.keep(places, device_of(model))
        logits = model(**inputs, **keep).logits
        _refuse_hidden_states(model, logits)
        return Logits(logits, range(len(places)) if keep else places)
    linear = _plain_head(model)
    assert linear is not None
    with _withheld(linear) as given:
        logits = model(**inputs).logits
    if not given.states:  # a head that was passed by made all logits
        _refuse_hidden_states(model, logits)
        return Logits(logits, places)
    if not places:
        return Logits(logits, places)
    states = given.states[0] if len(given.states) == 1 else torch.cat(given.states, dim=1)
    if states.shape[:2] != inputs["input_ids"].shape:
        got, fed = tuple(states.shape[:2]), tuple(inputs["input_ids"].shape)
        raise RuntimeError(f"the head was given {got} tokens, the model {fed}")
    if isinstance(places, range) and places.step == 1:  # neighbours need no places sent to the device
        return Hidden(states[:, places.start : places.stop], linear, given.dtype)
    return Hidden(states[:, _sent(places, states.device)], linear, given.dtype)


@contextmanager
def settled_head(model: nn.Module) -> Iterator[None]:
    """Look up once what the head allows: within the block, nobody patches, hooks or configures the model.

    Looking it up takes a walk over all modules, which would slow a pass over few tokens.
    """
    _in_use[model] = None
    try:
        yield
    finally:
        _in_use.pop(model, None)


def head_of(model: nn.Module) -> Head:
    """Find what ``model`` lets us choose, tried once for each of its states, in evaluation mode.

    Raises:
        ConfigurationError: The forward returns hidden states in place of logits, or logits of other tokens.
    """
    found = _in_use.get(model) or _head_now(model)
    if model in _in_use:
        _in_use[model] = found
    return found


def _head_now(model: nn.Module) -> Head:
    known, state = _heads.get(model), _state(model)
    if known is None or known[0] != state:
        known = state, _try_head(model)
        _heads[model] = known
    return known[1] if not known[1].splits or _may_split(model) else replace(known[1], splits=False)


def make_logits(model: nn.Module) -> bool:
    """Have a model make its logits from now on. Returns whether that is new."""
    head = head_of(model)
    made = replace(head, splits=False)
    _heads[model] = _state(model), made
    if model in _in_use:
        _in_use[model] = made
    return head.splits


def _state(model: nn.Module) -> object:
    """Return what decides about logits: what makes them, and how they are capped or scaled."""
    return forward_identity(model), forward_identity(inner_model(model)), settings_of(model)


def _try_head(model: nn.Module) -> Head:
    names = inspect.signature(inner_model(model).forward).parameters
    named = "logits_to_keep" in names or any(p.kind is p.VAR_KEYWORD for p in names.values())
    ids = torch.tensor(_TRIAL, device=device_of(model))
    whole = model(input_ids=ids, use_cache=False).logits
    _refuse_hidden_states(model, whole)
    if whole.shape[:2] != ids.shape:
        raise ConfigurationError(
            f"{type(model).__name__} was given {ids.shape[1]} tokens and returned logits of {whole.shape[1]}: expected "
            "logits of each token. Where a model adds tokens by itself, as prompt tuning does, answers can't be scored"
        )
    picks = named and _keeps(model, ids, whole, _PICKED)
    return Head(_splits(model, ids, whole), picks, skips=picks and _keeps(model, ids, whole, ()))


def _keeps(model: nn.Module, ids: torch.Tensor, whole: torch.Tensor, places: Sequence[int]) -> bool:
    try:
        kept = model(input_ids=ids, use_cache=False, **Head(picks=True, skips=True).keep(places, ids.device)).logits
    except Exception as error:  # a patched forward may refuse a tensor in its own way: then all logits are made
        if out_of_memory(error):
            raise
        return False
    return _close(kept, whole[:, list(places)])


def _splits(model: nn.Module, ids: torch.Tensor, whole: torch.Tensor) -> bool:
    linear = _plain_head(model)
    if linear is None or not _may_split(model):
        return False
    try:
        with _withheld(linear) as given:
            model(input_ids=ids, use_cache=False)
        if len(given.states) != 1 or given.states[0].shape != (*ids.shape, linear.in_features):
            return False
        every = [(row, place) for row in range(ids.shape[0]) for place in range(ids.shape[1])]
        own = Hidden(given.states[0], linear, given.dtype).logits(every).unflatten(0, ids.shape)
        return _close(own, whole) and _passes_on(model, linear, ids)
    except Exception as error:  # a patched forward may do something with its logits that needs them to be there
        if out_of_memory(error):
            raise
        return False


def _passes_on(model: nn.Module, linear: nn.Linear, ids: torch.Tensor) -> bool:
    """Say whether logits leave the model as its head makes them: a cap or a scale would show on large ones."""
    generator = torch.Generator("cpu").manual_seed(0)
    made: list[torch.Tensor] = []

    def replace(_module: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        large = torch.randn(output.shape, generator=generator, device="cpu") * 1000
        made.append(large.to(output))
        return made[-1].clone()  # some forwards change their logits in place

    handle = linear.register_forward_hook(replace)
    try:
        found = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return len(made) == 1 and found.shape == made[0].shape and torch.equal(found.float(), made[0].float())


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found.float(), expected.float(), rtol=0.05, atol=0.05)


@dataclass(slots=True)
class _Given:
    """What a head was given, and the dtype of what it would have made of it."""

    states: list[torch.Tensor] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    withholding: bool = False


@contextmanager
def _withheld(linear: nn.Linear) -> Iterator[_Given]:
    """While the block runs, the head gets none of the tokens."""
    given = _Given()

    def take(_module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        if not given.withholding:
            return None
        given.states.append(args[0])
        return (args[0][:, :0],)

    def note(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
        given.dtype = output.dtype

    with ExitStack() as hooks:
        hooks.callback(linear.register_forward_pre_hook(take).remove)
        hooks.callback(linear.register_forward_hook(note).remove)
        try:
            given.withholding = True
            yield given
        finally:  # first of all: a hook that an interrupt leaves behind must do nothing
            given.withholding = False


def _may_split(model: nn.Module) -> bool:
    """Say whether nothing watches or changes what leaves the head now, and whether all of the head is here."""
    linear = _plain_head(model)
    watched = any(vars(each)["_forward_hooks"] for each in (model, inner_model(model), linear) if each is not None)
    return linear is not None and not watched and not is_sharded(model)


def _plain_head(model: nn.Module) -> nn.Linear | None:
    """The model's head, if it is a matrix and nothing but a matrix."""
    try:
        head = inner_model(model).get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    if type(head) is not nn.Linear or "forward" in vars(head) or vars(head)["_forward_pre_hooks"]:
        return None
    weight = head.weight
    whole = type(weight) is nn.Parameter and weight.shape == (head.out_features, head.in_features)
    return head if whole and weight.is_floating_point() and not weight.is_meta else None


def _refuse_hidden_states(model: nn.Module, logits: torch.Tensor) -> None:
    config = text_config(model)
    width, hidden = logits.shape[-1], getattr(config, "hidden_size", None)
    if width == hidden and width != config.vocab_size:
        raise ConfigurationError(
            f"{type(model).__name__}'s forward returned {width} numbers a token, as many as its hidden states have; "
            f"expected logits over {config.vocab_size} tokens. Turn off what makes it return hidden states (with "
            "Unsloth: the environment variable UNSLOTH_RETURN_HIDDEN_STATES)"
        )
