"""What the result page says above its tables: where it was measured, and what the columns mean."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cells import Record
from benchmarks.ways import TOGETHER

_KEPT = {
    "cpu": "Freed memory stays with the process, as in one that has trained.",
    "cuda": "(c), (d) and (e) may use cuDNN's attention, which has a plan for each length by then. The scorer, (a) and "
    "(b), for which each length would be new, run without it. The scorer and (d) bypass the layers of autograd; the "
    "others turn gradients off, as evaluation loops do.",
}


def machine(records: Sequence[Record], device: str) -> str:
    """What was measured on what, and what the columns mean."""
    where = "; ".join(dict.fromkeys(record.machine for record in records))
    dtype, time = ("bfloat16", "wall") if device == "cuda" else ("float32", "CPU")
    together, loads = f"several traces in batches of {TOGETHER[device]:,} tokens", [record.load for record in records]
    return f"""`python -m benchmarks.scoring --device {device}` on {where}. Llamas with random {dtype} weights, {time} \
seconds. Prompts have 150 tokens and steps 30, unless a table says otherwise. *n* is the number of steps, *answer* \
that of the answer's tokens.

What is compared, beside *shared*, the scorer itself:

- (a) one forward for each prefix with all logits, as the InfoGain authors do it;
- (b) one padded batch of all prefixes, with answer logits only;
- (c) one forward of the trace with its last token's logits{f"; {together}" if device == "cuda" else ""};
- (d) the limit: one causal forward over as many tokens as the tree has unique ones, with the scored logits and \
nothing done with them; {together};
- (e) one forward of the trace with all logits, as a training step makes it.

Ratios are taken within interleaved rounds: the median, with the smallest and the largest, or one number for one \
round. Differences are in nats, from one forward for each branch; the run fails where rounding cannot explain one. \
{_KEPT[device]} The load of the machine was {min(loads):.1f} to {max(loads):.1f} meanwhile, including this benchmark."""
