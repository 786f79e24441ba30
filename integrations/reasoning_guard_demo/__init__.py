"""The accuracy trap in miniature: a task, a tiny model and recipes that break or keep its reasoning."""

from __future__ import annotations
