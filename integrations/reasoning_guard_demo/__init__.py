"""The accuracy trap in miniature: a task, a tiny model and recipes that break or keep its reasoning."""

from __future__ import annotations

from importlib.util import find_spec

for _framework in ("trl", "datasets", "rich"):
    if find_spec(_framework) is None:
        raise ImportError(
            f"reasoning_guard_demo needs {_framework}, which is not installed: pip install 'reasoning-guard[demo]'"
        )
