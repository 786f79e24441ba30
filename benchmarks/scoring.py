"""What scoring every cut of a trace costs, side by side with what one would otherwise do.

    python -m benchmarks.scoring [--quick] [--device cuda] [--out benchmarks/RESULTS.md] [--resume] [--only PART ...]

On a CPU: one thread, float32, CPU seconds. On a GPU: Llamas of 0.5, 1.5 and 7 B parameters with random weights in
bfloat16, wall seconds after a synchronisation. Peak memory is measured in a process of its own for each way. Every
cell's numbers are kept in ``build/bench-<device>.jsonl`` as soon as it is measured; ``--resume`` goes on from there. A
difference from a forward a branch that rounding cannot explain ends the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.cells import Cell, Record, Records, memory_in_own_process, timed
from benchmarks.held_out import one_evaluation
from benchmarks.tables import report
from benchmarks.ways import LARGE, SMALL, Size, build_model

STEPS, ANSWERS, VOCABULARIES = (8, 16, 32, 64), (1, 5, 8), (SMALL, LARGE)
PARTS = ("single", "loop", "groups", "memory", "many", "padded", "evaluation")


def grid(device: str, part: str, quick: bool) -> Iterator[Cell]:
    """The cells of one part of the benchmark, cheap ones first."""
    shapes = ("34M",) if device == "cpu" else ("0.5B", "1.5B", "7B")
    for shape in shapes[:1] if quick else shapes:
        for vocabulary in VOCABULARIES[:1] if quick else VOCABULARIES:
            yield from PART_CELLS[part](device, shape, vocabulary, quick)


def _single(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    for steps in STEPS[:3] if quick else STEPS:
        for answer in ANSWERS[-1:] if quick else ANSWERS:
            rounds = 7 if device == "cuda" else 5 if steps <= 16 else 3
            yield Cell("time", device, shape, vocabulary, Size(steps, answer), rounds=rounds)


def _loop(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """The loop takes minutes: 8-token answers, where sharing gains least, and all lengths only where it is quick."""
    for steps in STEPS[:2] if quick else STEPS:
        for answer in ANSWERS if device == "cuda" else ANSWERS[-1:]:
            yield Cell("time", device, shape, vocabulary, Size(steps, answer), ("shared", "loop"))


def _padded(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    for steps in STEPS[:2] if quick else STEPS:
        for answer in ANSWERS if device == "cuda" else ANSWERS[-1:]:
            yield Cell("time", device, shape, vocabulary, Size(steps, answer), ("shared", "padded"))


def _groups(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    for prompt in (200, 1000):
        size = Size(8, 5, traces=8, prompt=prompt, group=True)
        yield Cell("time", device, shape, vocabulary, size, ("plain", "group"), rounds=3)


def _memory(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    traces = (1,) if quick else (1, 32)
    for size in (Size(steps, 8, traces=n) for n in traces for steps in (STEPS[:2] if quick else STEPS)):
        every = ("plain", "limit", "shared") if size.traces > 1 else ("plain", "limit", "shared", "loop", "padded")
        for way in every:
            yield Cell("memory", device, shape, vocabulary, size, (way,))


def _many(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """Thirty-two traces; on a CPU, shorter ones and a model of two layers, else they take an hour."""
    for steps in STEPS[:1] if quick else STEPS:
        for answer in ANSWERS[-1:] if quick else ANSWERS:
            if device == "cuda":
                yield Cell("time", device, shape, vocabulary, Size(steps, answer, traces=32), rounds=3)
            else:
                size = Size(steps, answer, traces=32, prompt=50, step=10)
                yield Cell("time", device, "9M", vocabulary, size, rounds=3 if steps <= 16 else 1)


def _evaluation(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    if vocabulary == (LARGE if device == "cuda" else SMALL):
        yield Cell("evaluation", device, shape, vocabulary, Size(8, 1, traces=16 if quick else 128), ())


PART_CELLS = {
    "single": _single, "loop": _loop, "groups": _groups, "memory": _memory, "many": _many, "padded": _padded,
    "evaluation": _evaluation,
}  # fmt: skip


latest_model = lru_cache(maxsize=1)(build_model)


def run(cell: Cell) -> Record:
    """Measure a cell of any kind."""
    if cell.kind == "memory":
        latest_model.cache_clear()  # the process that measures needs the room
        return memory_in_own_process(cell)
    model = latest_model(cell.shape, cell.vocabulary, cell.device)
    if cell.kind == "evaluation":
        return Record(cell, seconds=one_evaluation(model, cell))
    return timed(cell, model)


def left_out(records: Records, device: str, quick: bool) -> Iterator[str]:
    """The cells of the grid without a record, in a line for each part, model and way."""
    missing: dict[str, list[str]] = {}
    for part in PARTS:
        for cell in grid(device, part, quick):
            if cell.key not in records.found:
                way = f", {cell.ways[0]}" if cell.kind == "memory" else ""
                name = f"{part}{way}, {cell.shape}, vocabulary {cell.vocabulary:,}"
                size = f"{cell.size.steps}/{cell.size.answer}"
                missing.setdefault(name, []).append(size if cell.size.traces == 1 else f"{size} x {cell.size.traces}")
    for name, sizes in missing.items():
        yield f"{name}: n/answer {', '.join(sizes)}"


def main() -> None:
    """Measure what is asked for; print and write the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model, small sizes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; default all")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run has measured on this machine")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = Path("build") / f"bench-{arguments.device}.jsonl"
    if not arguments.resume:
        path.unlink(missing_ok=True)
    records = Records(path)
    for cell in (cell for part in arguments.only for cell in grid(arguments.device, part, arguments.quick)):
        if cell.key not in records.found:
            print(cell, flush=True)
            records.add(run(cell))
    missing = left_out(records, arguments.device, arguments.quick)
    text = report(list(records.found.values()), arguments.device, list(missing))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
