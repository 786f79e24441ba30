"""The guard as a Lightning callback, for both ``lightning.pytorch`` and ``pytorch_lightning``."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("lightning") is None and find_spec("pytorch_lightning") is None:
    raise ImportError(
        "reasoning_guard_lightning needs lightning (or pytorch_lightning), which is not installed: "
        "pip install 'reasoning-guard[lightning]'"
    )

from reasoning_guard_lightning.callback import ReasoningGuardCallback

__all__ = ["ReasoningGuardCallback"]
