"""Sinks: trackers, handed in by the host, that get alerts, traces, pictures and layouts beside the numbers.

The numbers themselves travel in the host's own log record, so every tracker that the host knows shows them. A sink adds
what a record cannot carry. No tracker is imported here; the host passes in its writer or run.
"""

from __future__ import annotations

from reasoning_guard.sinks.base import Sink, worst_rows
from reasoning_guard.sinks.layout import Layout, layout
from reasoning_guard.sinks.line import one_line
from reasoning_guard.sinks.tensorboard import TensorBoardSink
from reasoning_guard.sinks.wandb import WandbSink

__all__ = ["Layout", "Sink", "TensorBoardSink", "WandbSink", "layout", "one_line", "worst_rows"]
