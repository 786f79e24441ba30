"""Finding a guard's records in a checkpoint whose run kept them in a folder of another name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reasoning_guard.settings import fingerprint_of

if TYPE_CHECKING:
    from reasoning_guard_lightning.callback import ReasoningGuardCallback

KEY = "ReasoningGuardCallback"
"""How the keys begin under which checkpoints hold the records of guards."""


def records_of_another_name(
    callback: ReasoningGuardCallback, callbacks: Sequence[Any], states: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The records that this guard goes on from although the checkpoint has them under another ``state_key``.

    Args:
        callback: The guard's callback.
        callbacks: All callbacks of the trainer.
        states: Those that the checkpoint holds, by their keys.

    Returns:
        The records; None where this guard finds its own by itself, or nothing says which are its: another guard misses
        its own too, or not just one is left of the same problems, format and length of traces.
    """
    guards = [each for each in callbacks if isinstance(each, type(callback))]
    if [each for each in guards if each.state_key not in states] != [callback]:
        return None
    claimed = {each.state_key for each in guards}
    left = [state for key, state in states.items() if key.startswith(KEY) and key not in claimed]
    guard = callback.guard
    own = fingerprint_of(guard.problems, guard.reader, guard.max_new_tokens)
    same = [state for state in left if state["run"]["fingerprint"] == own]
    return same[0] if len(same) == 1 else None
