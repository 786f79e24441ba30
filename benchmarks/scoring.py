"""What scoring every cut of a trace costs, side by side with what one would otherwise do.

    python -m benchmarks.scoring [--quick] [--out benchmarks/RESULTS.md]

Everything is measured in one interleaved run on one thread: each round times every way once, ratios are taken within
the round, and the median over rounds is reported with the smallest and the largest. Each way's log-probabilities are
compared with the per-prefix loop's in the same run.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from reasoning_guard.forward import score_independent, score_shared
from reasoning_guard.masks import MaskPlan
from reasoning_guard.packing import anchored, pack
from reasoning_guard.tree import Branch, TraceTree

CUE = 4
OUT_OF_BOUNDS = 1e-4


@dataclass(frozen=True)
class Size:
    """A trace: ``prompt`` tokens, ``steps`` steps of ``step`` tokens, an answer of ``answer`` tokens at each cut."""

    name: str
    prompt: int
    steps: int
    step: int
    answer: int

    def tree(self, vocabulary: int, seed: int = 0) -> TraceTree:
        generator = torch.Generator().manual_seed(seed)

        def ids(n: int) -> tuple[int, ...]:
            return tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist())

        trunk, asked = ids(self.prompt + self.steps * self.step), ids(CUE + self.answer)
        cuts = [self.prompt + k * self.step for k in range(self.steps + 1)]
        return TraceTree(trunk, tuple(Branch(cut, asked, (CUE, CUE + self.answer)) for cut in cuts))


SIZES = (Size("S", 107, 8, 30, 1), Size("M", 152, 16, 40, 5), Size("L", 180, 32, 50, 8))


def build_model(vocabulary: int) -> LlamaForCausalLM:
    """A 34 M parameter Llama (8 k vocabulary) with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=4096, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def authors_loop(model: LlamaForCausalLM, tree: TraceTree) -> list[float]:
    """One forward a prefix with logits for every token: how the InfoGain authors' code does it."""
    totals = []
    for b in tree.branches:
        ids = torch.tensor([tree.trunk[: b.at] + b.ids])
        logprobs = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        places = range(b.at + b.scored[0], b.at + b.scored[1])
        totals.append(sum(logprobs[0, p - 1, ids[0, p]].item() for p in places))
    return totals


@torch.no_grad()
def plain_forward(model: LlamaForCausalLM, tree: TraceTree) -> None:
    """One forward of the trace, last logit only: what reading it once costs."""
    model(input_ids=torch.tensor([tree.trunk]), use_cache=False, logits_to_keep=1)


@torch.no_grad()
def limit(model: LlamaForCausalLM, tree: TraceTree) -> None:
    """One causal forward over as many tokens as the tree has unique ones, logits for the scored positions only."""
    row = pack(anchored(tree).branches)
    n = len(tree.trunk) + len(row.ids)
    ids = torch.tensor([[3 + i % 97 for i in range(n)]])
    model(input_ids=ids, use_cache=False, logits_to_keep=torch.arange(n - row.n_wanted, n))


@torch.no_grad()
def independent(model: LlamaForCausalLM, tree: TraceTree) -> list[float]:
    """The always-right fallback: every prefix as a padded row, answer logits only."""
    return [score.total for score in score_independent(model, [tree], token_budget=2048)[0]]


@torch.no_grad()
def shared(model: LlamaForCausalLM, tree: TraceTree) -> list[float]:
    """The scorer's shared pass."""
    return [score.total for score in score_shared(model, [tree], MaskPlan())[0]]


WAYS: dict[str, Callable[[LlamaForCausalLM, TraceTree], list[float] | None]] = {
    "the authors' loop": authors_loop,
    "the fallback": independent,
    "one plain forward": plain_forward,
    "the limit": limit,
    "the shared pass": shared,
}


def measure(model: LlamaForCausalLM, tree: TraceTree, rounds: int) -> tuple[dict[str, list[float]], float]:
    """CPU seconds of every way in every round, and the largest difference from the loop in nats."""
    truth = authors_loop(model, tree)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    worst = 0.0
    for way in WAYS.values():
        way(model, tree)  # warm up
    for _ in range(rounds):
        for name, way in WAYS.items():
            gc.collect()
            started = time.process_time()
            found = way(model, tree)
            seconds[name].append(time.process_time() - started)
            if found is not None:
                worst = max(worst, *(abs(a - b) for a, b in zip(found, truth, strict=True)))
    return seconds, worst


def ratio(one: Sequence[float], other: Sequence[float]) -> str:
    """Median over rounds of ``one / other``, with the range."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, three rounds")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds, sizes = (3, SIZES[:1]) if arguments.quick else (7, SIZES)
    lines = [
        "| size | vocabulary | loop / shared | fallback / shared | shared / plain forward | shared / limit | "
        "largest difference, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for vocabulary in (8_192,) if arguments.quick else (8_192, 151_936):
        model = build_model(vocabulary)
        for size in sizes if vocabulary < 10_000 else sizes[:2]:
            tree = size.tree(vocabulary)
            seconds, worst = measure(model, tree, rounds)
            ours = seconds["the shared pass"]
            cells = [
                f"{size.name}: {len(tree.trunk)} tokens, n = {size.steps}, answer {size.answer}",
                f"{vocabulary:,}",
                ratio(seconds["the authors' loop"], ours),
                ratio(seconds["the fallback"], ours),
                ratio(ours, seconds["one plain forward"]),
                ratio(ours, seconds["the limit"]),
                f"{worst:.1e}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
            if worst > OUT_OF_BOUNDS:
                raise SystemExit(
                    f"the shared pass is {worst:.2g} nats off the loop; at most {OUT_OF_BOUNDS} is allowed"
                )
    machine = (
        f"Ratios of CPU time, one thread, medians of {rounds} interleaved rounds with the range; "
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}; a Llama of 8 layers, hidden size 512, random float32 weights."
    )
    report = "\n".join(["# What scoring costs", "", machine, "", *lines, ""])
    print(report)
    if arguments.out:
        arguments.out.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
