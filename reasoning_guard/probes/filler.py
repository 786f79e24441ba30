"""Filler: tokens that say nothing replace the steps. Does the text matter, or only its length?"""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from reasoning_guard.errors import ConfigurationError
from reasoning_guard.probes.base import ProbeContext, rng_for
from reasoning_guard.probes.controls import ReplacementProbe
from reasoning_guard.traces import Trace

Filler = Literal["filler", "repeated", "shuffled"]


class FillerProbe(ReplacementProbe):
    """Replaces the steps by as many filler tokens (Lanham et al. 2023, arXiv 2307.13702; Lobo et al., 2411.15382).

    ``<kind>_gain`` is the posterior after the trace's own steps minus the posterior after the filler, in nats per
    token. ``<kind>_changed`` is 1 if the trace's own answer is no longer the greedy one. If the first steps stay, the
    names begin with ``<kind>_suffix_``.

    There are three kinds. "filler" is the format's filler (" ..."), "repeated" is the replaced piece's most common
    token over and over, and "shuffled" is its own tokens in another order. The last two are controls of the first. If
    shuffled tokens change as little as the steps themselves, the answer is read off single words. If any kind changes
    as much as a mistake does, "changed" means no more than "disturbed".

    What it cannot tell: use of the text from surprise at the filler. Filler is far from anything that a model has seen,
    so a sound model that has not met it gives way for that reason alone, and its gain says little about use. A model
    trained on filler can compute behind it (Pfau et al., arXiv 2404.15758). The values depend on length, so compare
    chains of like length.

    Args:
        kind: What the filler is made of.
        after: Share of the steps that stay in place, from the first on; 0 replaces the whole chain.

    Raises:
        ConfigurationError: There is no such kind, or the share is outside [0, 1).
    """

    def __init__(self, kind: Filler = "filler", *, after: float = 0.0) -> None:
        if kind not in get_args(Filler) or not 0 <= after < 1:
            raise ConfigurationError(
                f"`kind` must be one of {', '.join(get_args(Filler))} and `after` a share from 0 to below 1; got "
                f"{kind!r} and {after}"
            )
        self.kind, self.after = kind, after
        self.control = f"{kind}_suffix" if after else kind
        super().__init__()

    def replacement(self, trace: Trace, context: ProbeContext) -> tuple[int, ...] | None:
        """Return filler of exactly the length of what it replaces, in tokens."""
        piece = trace.ids[self.kept(trace) : trace.cuts[-1]]
        if self.kind == "filler":
            return context.reader.filler_ids(len(piece))
        if self.kind == "repeated":
            [(token, _)] = Counter(piece).most_common(1)
            return (token,) * len(piece)
        return tuple(rng_for(trace.problem).sample(piece, len(piece)))
