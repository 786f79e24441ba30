"""How a model is scored, and why: what the self-test comes to."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning_guard.masks import MaskPlan


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model is scored, and why.

    Attributes:
        plan: Mask plan of the shared path, or None if no mask is exact.
        reason: The reason in words, for the log.
        difference: Largest difference in log-probability that the test saw between the two ways, in nats.
        pads: Whether branches that are scored on their own, or from copies of a cache, may be padded to a batch.
        forks: Without a plan: whether branches may go on from copies of the cache, instead of reading everything before
            them anew.
        at_once: With a plan: whether trunks and branches may also be read in one pass, without a cache. Not asked of
            models on a CPU, where that gains nothing.
    """

    plan: MaskPlan | None
    reason: str
    difference: float = 0.0
    pads: bool = True
    forks: bool = False
    at_once: bool = False

    @property
    def path(self) -> str:
        """How the model is scored, in words."""
        if self.plan:
            return "one shared pass"
        return "copies of its cache" if self.forks else "a pass of its own for every branch (slower, always right)"
