"""The guard as a callback for the Hugging Face ``Trainer`` and every trainer built on it, including TRL's."""

from __future__ import annotations

from importlib.util import find_spec

for _framework in ("transformers", "accelerate"):
    if find_spec(_framework) is None:
        raise ImportError(
            f"reasoning_guard_transformers needs {_framework}, which is not installed: "
            "pip install 'reasoning-guard[transformers]'"
        )

from reasoning_guard_transformers.callback import ReasoningGuardCallback, numbers_in  # noqa: E402

__all__ = ["ReasoningGuardCallback", "numbers_in"]
