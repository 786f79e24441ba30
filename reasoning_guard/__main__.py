"""Run ``reasoning-guard`` as ``python -m reasoning_guard``, for when scripts are not on the path."""

from __future__ import annotations

from reasoning_guard.cli.app import main

if __name__ == "__main__":
    main()
