"""One self-contained HTML file that tells what fine-tuning did to a model's reasoning."""

from __future__ import annotations

from reasoning_guard.report.page import write_report
from reasoning_guard.report.run import Run, load_run

__all__ = ["Run", "load_run", "write_report"]
