"""What scoring every cut of a trace costs, side by side with what one would otherwise do.

    python -m benchmarks.scoring [--quick] [--device cuda] [--out benchmarks/RESULTS.md]

Everything is timed in interleaved rounds: each round runs every way once, ratios are taken within the round, and the
median over rounds is reported with the smallest and the largest. The per-prefix loop and the padded batch take minutes
and are timed once. Every way's log-probabilities are compared with the loop's in the same run, which fails if they are
out of bounds. Peak memory is measured in a process of its own for each way.

On a CPU: a 34 M Llama in float32 on one thread, CPU seconds. On a GPU: Llamas of 0.5, 1.5 and 7 B parameters
with random weights in bfloat16, wall seconds after a synchronisation.
"""

from __future__ import annotations

import argparse
import gc
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.forward import score_independent
from reasoning_guard.packing import anchored, pack
from reasoning_guard.selftest import noise
from reasoning_guard.tree import Branch, TraceTree

CUE = 4
SMALL, LARGE = 8_192, 151_936
MIB = 2**20

# name: (hidden, intermediate, layers, heads, key heads)
SHAPES = {
    "34M": (512, 1408, 8, 8, 8),
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "7B": (3584, 18944, 28, 28, 4),
}


@dataclass(frozen=True)
class Size:
    """``traces`` traces: ``prompt`` tokens, ``steps`` steps of ``step`` tokens, ``answer`` tokens at each cut."""

    steps: int
    answer: int
    traces: int = 1
    prompt: int = 150
    step: int = 30
    group: bool = False

    def trees(self, vocabulary: int) -> list[TraceTree]:
        """Random trees; those of a group share their prompt, and all share the question."""
        generator = torch.Generator().manual_seed(0)

        def ids(n: int) -> tuple[int, ...]:
            return tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist())

        asked, shared = ids(CUE + self.answer), ids(self.prompt)
        cuts = [self.prompt + k * self.step for k in range(self.steps + 1)]
        branches = tuple(Branch(cut, asked, (CUE, CUE + self.answer)) for cut in cuts)
        return [
            TraceTree((shared if self.group else ids(self.prompt)) + ids(self.steps * self.step), branches)
            for _ in range(self.traces)
        ]

    def __str__(self) -> str:
        """For the first columns of a table."""
        return f"{self.steps} | {self.answer} | {self.traces}"


def build_model(shape: str, vocabulary: int, device: str) -> LlamaForCausalLM:
    """A Llama with random weights, float32 on a CPU and bfloat16 elsewhere."""
    hidden, intermediate, layers, heads, key_heads = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=32_768,
        tie_word_embeddings=False, dtype="float32" if device == "cpu" else "bfloat16",
    )  # fmt: skip
    with torch.device(device):
        return LlamaForCausalLM._from_config(config).eval()


def authors_loop(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float]:
    """(a) One forward a prefix with logits for every token: how the InfoGain authors' code does it."""
    totals = []
    for tree in trees:
        for b in tree.branches:
            ids = torch.tensor([tree.trunk[: b.at] + b.ids], device=model.device)
            logprobs = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
            places = torch.arange(b.at + b.scored[0], b.at + b.scored[1], device=model.device)
            totals.append(logprobs[0, places - 1, ids[0, places]].sum().item())
    return totals


def padded_batch(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float]:
    """(b) All prefixes of a trace as one padded batch, answer logits only."""
    return [s.total for tree in trees for s in score_independent(model, [tree], sys.maxsize)[0]]


def plain_forward(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> None:
    """(c) One forward of each trace, last logit only: what reading it once costs."""
    for tree in trees:
        model(input_ids=torch.tensor([tree.trunk], device=model.device), use_cache=False, logits_to_keep=1)


def limit(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> None:
    """(d) One causal forward over as many tokens as each tree has unique ones, logits for scored positions only."""
    for tree in trees:
        row = pack(anchored(tree).branches)
        n = len(tree.trunk) + len(row.ids)
        ids = torch.arange(n, device=model.device)[None] % 97 + 3
        model(input_ids=ids, use_cache=False, logits_to_keep=torch.arange(n - row.n_wanted, n, device=model.device))


class Shared:
    """The scorer as users call it; its self-test ran in the warm-up."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.scorer = BranchScorer(model)

    def trees(self, _: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float]:
        return [s.total for scores in self.scorer.score_trees(trees) for s in scores]

    def group(self, _: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float]:
        return [s.total for scores in self.scorer.score_tree_groups([trees])[0] for s in scores]


Way = Callable[[LlamaForCausalLM, Sequence[TraceTree]], "list[float] | None"]
SLOW: dict[str, Way] = {"loop": authors_loop, "padded": padded_batch}


def fast_ways(model: LlamaForCausalLM, size: Size) -> dict[str, Way]:
    """The ways that are timed in every round."""
    scorer = Shared(model)
    return {"plain": plain_forward, "limit": limit, "shared": scorer.group if size.group else scorer.trees}


def clock(model: LlamaForCausalLM) -> float:
    """CPU seconds, or wall seconds once the GPU is done."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(way: Way, model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> tuple[float, list[float] | None]:
    """Seconds of one run and what it found."""
    gc.collect()
    started = clock(model)
    found = way(model, trees)
    return clock(model) - started, found


@dataclass
class Measured:
    """Seconds of each way by round, and the largest difference from the loop in nats (NaN where it did not run)."""

    seconds: dict[str, list[float]]
    worst: float = float("nan")

    def ratio(self, one: str, other: str) -> str:
        """Median over rounds of ``one / other``, with the range; a way that ran once is set against a median."""
        a, b = self.seconds.get(one), self.seconds.get(other)
        if not a or not b:
            return "–"
        if len(a) != len(b):
            return f"{statistics.median(a) / statistics.median(b):.1f}"
        ratios = [x / y for x, y in zip(a, b, strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


@torch.no_grad()
def measure(model: LlamaForCausalLM, size: Size, rounds: int, slow: bool) -> Measured:
    """Time every way; compare what they find; exit if a difference is out of bounds."""
    trees = size.trees(model.config.vocab_size)
    ways = fast_ways(model, size)
    for way in ways.values():
        way(model, trees[:2])
    result = Measured({name: [] for name in (*ways, *SLOW)})
    found: list[float] = []
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, scores = timed(way, model, trees)
            result.seconds[name].append(seconds)
            found = scores or found
    # Without the loop's timing, two traces of it are still run: exactness is checked at every size.
    checked = trees if slow else trees[:1]
    for name, way in SLOW.items() if slow else [("loop", authors_loop)]:
        seconds, truth = timed(way, model, checked)
        if slow:
            result.seconds[name].append(seconds)
        differences = [(abs(a - b), b) for a, b in zip(found, truth or [], strict=False)]
        bound = noise(model.dtype)
        if any(difference > bound * (1 + abs(total)) for difference, total in differences):
            raise SystemExit(f"{size}: {max(differences)[0]:.2g} nats off the {name}")
        result.worst = max(max(differences)[0], result.worst if result.worst == result.worst else 0.0)
    return result


def peak_memory(shape: str, vocabulary: int, device: str, way: str, size: Size) -> float:
    """Run one way in this process; peak memory beyond the weights, in MiB."""
    torch.set_num_threads(1)
    model = build_model(shape, vocabulary, device)
    ways: dict[str, Way] = {**SLOW, **fast_ways(model, size)}
    with torch.no_grad():
        ways[way](model, Size(2, 1, prompt=8, step=2).trees(vocabulary))  # lazily made buffers and the self-test
        gc.collect()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            ways[way](model, size.trees(vocabulary))
            return (torch.cuda.max_memory_allocated() - before) / MIB
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of resident memory
        before = _resident()
        ways[way](model, size.trees(vocabulary))
        return _high_water() - before


def _status(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def _resident() -> float:
    return _status("VmRSS:")


def _high_water() -> float:
    return _status("VmHWM:") if sys.platform == "linux" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def memory_in_own_process(shape: str, vocabulary: int, device: str, way: str, size: Size) -> str:
    """:func:`peak_memory` in a fresh process, as text."""
    call = (
        f"from benchmarks.scoring import *; print(peak_memory({shape!r}, {vocabulary}, {device!r}, {way!r}, {size!r}))"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    return f"{float(done.stdout.split()[-1]):.0f}" if done.returncode == 0 else "failed"


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    shapes: tuple[str, ...]
    steps: tuple[int, ...]
    answers: tuple[int, ...]
    rounds: int
    slow_up_to: int
    traces: int
    vocabularies: tuple[int, ...] = (SMALL, LARGE)

    @classmethod
    def of(cls, device: str, quick: bool) -> Plan:
        shapes = ("34M",) if device == "cpu" else ("0.5B", "1.5B", "7B")
        if quick:
            return cls(shapes[:1], (8, 16, 32), (8,), 3, 16, 8, (SMALL,))
        return cls(shapes, (8, 16, 32, 64), (1, 5, 8), 3 if device == "cpu" else 7, 32, 32)


HEAD = (
    "| model, vocabulary | n | answer tokens | traces | loop (a) / shared | padded (b) / shared | shared / plain (c) | "
    "shared / limit (d) | shared, s | largest difference, nats |\n|---|---|---|---|---|---|---|---|---|---|"
)


def line(name: str, size: Size, result: Measured) -> str:
    """A row of the tables."""
    ratios = [
        result.ratio(*pair)
        for pair in (("loop", "shared"), ("padded", "shared"), ("shared", "plain"), ("shared", "limit"))
    ]
    seconds = statistics.median(result.seconds["shared"])
    return f"| {name} | {size} | {' | '.join(ratios)} | {seconds:.3f} | {result.worst:.1e} |"


def slope(points: Sequence[tuple[int, float]]) -> str:
    """Least-squares line through (n, seconds), and how far the worst point lies from it."""
    n = [p[0] for p in points]
    fit = statistics.linear_regression(n, [p[1] for p in points])
    off = max(abs(fit.intercept + fit.slope * x - y) / y for x, y in points)
    return f"{fit.intercept:.3f} s + {fit.slope * 1000:.1f} ms a step, every point within {off:.0%} of the line"


def tables(plan: Plan, device: str) -> Iterator[str]:
    """The report, line by line as it is measured."""
    yield f"## One trace, and many\n\n{HEAD}"
    for shape in plan.shapes:
        model, points = build_model(shape, SMALL, device), list[tuple[int, float]]()
        for steps in plan.steps:
            for answer in plan.answers:
                size = Size(steps, answer)
                result = measure(model, size, plan.rounds, slow=steps <= plan.slow_up_to and answer == plan.answers[-1])
                yield line(f"{shape}, {SMALL:,}", size, result)
                if answer == plan.answers[-1]:
                    points.append((steps, statistics.median(result.seconds["shared"])))
        many = Size(8, 5, traces=plan.traces)
        yield line(f"{shape}, {SMALL:,}", many, measure(model, many, 1 if device == "cpu" else plan.rounds, slow=False))
        yield f"\nCost of n steps of {Size(1, 1).step} tokens, {shape}: {slope(points)}.\n\n{HEAD}"
        del model
        large = build_model(shape, LARGE, device)
        for steps in plan.steps[: len(plan.vocabularies)]:
            size = Size(steps, 5)
            yield line(f"{shape}, {LARGE:,}", size, measure(large, size, plan.rounds, slow=steps <= 8))
        del large
        yield from groups(shape, plan, device)
        yield from memory(shape, plan, device)


def groups(shape: str, plan: Plan, device: str) -> Iterator[str]:
    """Eight completions of one prompt, over the plain forwards of the eight."""
    yield f"\n## Groups of 8 completions of one prompt, {shape}\n\n| prompt tokens | n | group / 8 plain | difference |"
    yield "|---|---|---|---|"
    model = build_model(shape, SMALL, device)
    for prompt in (200, 1000):
        size = Size(8, 5, traces=8, prompt=prompt, group=True)
        result = measure(model, size, 1 if device == "cpu" else plan.rounds, slow=False)
        yield f"| {prompt:,} | {size.steps} | {result.ratio('shared', 'plain')} | {result.worst:.1e} |"


def memory(shape: str, plan: Plan, device: str) -> Iterator[str]:
    """Peak memory of every way, each in a process of its own."""
    yield f"\n## Peak memory over the weights, MiB, {shape}\n"
    yield "| vocabulary | n | loop | padded | plain | limit | shared |"
    yield "|---|---|---|---|---|---|---|"
    size = Size(plan.steps[min(1, len(plan.steps) - 1)], 5)
    for vocabulary in plan.vocabularies:
        ways = ("loop", "padded", "plain", "limit", "shared")
        cells = [memory_in_own_process(shape, vocabulary, device, way, size) for way in ways]
        yield f"| {vocabulary:,} | {size.steps} | {' | '.join(cells)} |"


def machine(device: str, rounds: int, quick: bool) -> str:
    """What was measured on what."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"one CPU thread ({platform.machine()})"
    dtype = "float32" if device == "cpu" else "bfloat16"
    command = f"python -m benchmarks.scoring --device {device}{' --quick' if quick else ''}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return (
        f"`{command}` on {where}: {versions}; Llamas, random {dtype} weights; prompts of {Size(1, 1).prompt} tokens "
        f"unless said, steps of {Size(1, 1).step}. Medians of {rounds} interleaved rounds, with the range; (a) and (b) "
        "ran once."
    )


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan.of(arguments.device, arguments.quick)
    lines = ["# What scoring costs", "", machine(arguments.device, plan.rounds, arguments.quick), ""]
    print("\n".join(lines))
    for each in tables(plan, arguments.device):
        print(each, flush=True)
        lines.append(each)
        if arguments.out:
            arguments.out.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
