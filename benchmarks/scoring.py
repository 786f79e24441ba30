"""What scoring every cut of a trace costs, side by side with what one would otherwise do.

    python -m benchmarks.scoring [--quick] [--device cuda] [--out benchmarks/RESULTS.md] [--resume] [--only PART ...]
                                 [--records FILE]

On a CPU: one thread, float32, CPU seconds. On a GPU: Llamas of 0.5, 1.5 and 7 B parameters with random weights in
bfloat16, wall seconds after a synchronisation. Peak memory is what a GPU's allocator counts; on a CPU it is measured in
a process of its own for each way, where the two slow ones are timed too. A difference from a forward a branch that
rounding cannot explain ends the run.

Every cell's numbers are kept as soon as it is measured, and ``--resume`` goes on from there. Cells come in the order of
their worth. So the whole may be done in slices, on a machine that is lent for minutes too; each writes the tables of
what there is by then::

    timeout 540 python -m benchmarks.scoring --device cuda --resume --records kept.jsonl --out RESULTS.md
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.cells import Cell, Record, Records, in_own_process, timed
from benchmarks.held_out import one_evaluation
from benchmarks.tables import report
from benchmarks.ways import LARGE, SAMPLED, SMALL, TRACE_BY_TRACE, Size, build_model, work_of

STEPS, ANSWERS, VOCABULARIES = (8, 16, 32, 64), (1, 5, 8), (SMALL, LARGE)
PARTS = ("single", "long", "control", "groups", "forward", "hybrid", "loop", "many", "evaluation", "padded", "memory")
REASONING = Size(200, ANSWERS[-1], prompt=384, step=80)
"""16,384 tokens in 200 steps."""
SLOW = 4e12
"""Floating-point operations: about a minute of one CPU core."""


def grid(device: str, part: str, quick: bool) -> Iterator[Cell]:
    """The cells of one part of the benchmark."""
    shapes = ("34M",) if device == "cpu" else ("0.5B", "1.5B", "7B")
    for shape in shapes[:1] if quick else shapes:
        for vocabulary in VOCABULARIES[:1] if quick else VOCABULARIES:
            yield from PART_CELLS[part](device, shape, vocabulary, quick)


def _single(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """On a GPU the slow ways and (e) too: minutes of one are dear, and building models and comparing takes seconds."""
    ways, once = ("plain", "limit", "shared"), ()
    if device == "cuda":
        ways, once = ("plain", "all logits", "limit", "loop", "padded", "shared"), TRACE_BY_TRACE
    for steps in STEPS[:3] if quick else STEPS:
        for answer in ANSWERS[-1:] if quick else ANSWERS:
            yield Cell("time", device, shape, vocabulary, Size(steps, answer), ways, _rounds(device, steps), once)


def _rounds(device: str, steps: int) -> int:
    """On a CPU whose neighbours are busy, a median of a few rounds is off by a tenth (see the control)."""
    return 5 if device == "cuda" else {8: 41, 16: 21, 32: 15, 64: 9}[steps]


def _long(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """Beside one forward: longer traces, and a large vocabulary in a model that is as large as it needs."""
    ways, size, rounds = ("plain", "all logits", "limit", "shared"), Size(32, ANSWERS[-1], prompt=180, step=50), 11
    if device == "cpu" and vocabulary == LARGE:
        shape, size, rounds = "0.5B", Size(32, ANSWERS[-1]), 7
    if not quick:
        yield Cell("time", device, shape, vocabulary, size, ways, rounds=rounds)


def _control(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """The limit beside itself: what the machine can tell apart."""
    for steps in () if vocabulary != SMALL else STEPS[:1] if quick else STEPS[:3]:
        ways = ("limit", "limit again")
        yield Cell("time", device, shape, vocabulary, Size(steps, ANSWERS[-1]), ways, rounds=_rounds(device, steps))


def _loop(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """Once where it is many times dearer than its goal; three times where noise could decide."""
    if device == "cuda":  # see `_single`
        return
    for model, size in _every_size(device, shape, quick):
        close = vocabulary == SMALL and 8 < size.steps < 64
        yield Cell("memory", device, model, vocabulary, size, ("shared", "loop"), rounds=3 if close else 1)


def _forward(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """Beside a forward as a training step makes it: with the logits of every token."""
    if device == "cuda":  # see `_single`
        return
    for steps in STEPS[:3] if quick else STEPS:
        yield Cell("time", device, shape, vocabulary, Size(steps, ANSWERS[-1]), ("all logits", "shared"), rounds=3)


def _hybrid(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    """A model that no mask can steer: its branches go on from copies of its cache."""
    if shape in ("34M", "1.5B") and vocabulary == SMALL:
        for steps in STEPS[:2] if quick else STEPS[:3]:
            ways = ("plain", "limit", "loop", "padded", "shared")
            size = Size(steps, ANSWERS[-1])
            yield Cell("time", device, f"{shape} hybrid", vocabulary, size, ways, rounds=3 if steps <= 16 else 1)


def _padded(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    if device == "cuda":  # see `_single`
        return
    for model, size in _every_size(device, shape, quick):
        yield Cell("memory", device, model, vocabulary, size, ("shared", "padded"))


def _every_size(device: str, shape: str, quick: bool) -> Iterator[tuple[str, Size]]:
    """One trace and thirty-two, longest answers first: those are what the tables need most."""
    sizes = [(answer, steps) for answer in reversed(ANSWERS) for steps in STEPS]
    if quick:
        sizes = [(ANSWERS[-1], steps) for steps in STEPS[:2]]
    yield from ((shape, Size(steps, answer)) for answer, steps in sizes)
    if not quick:
        yield from (_many_size(device, shape, steps, answer) for answer, steps in sizes)


def _groups(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    for prompt in (200, 1000):
        size = Size(8, 5, traces=8, prompt=prompt, group=True)
        ways = ("plain" if device == "cpu" else "plain each", "group")
        yield Cell("time", device, shape, vocabulary, size, ways, rounds=3 if device == "cpu" else 7)


def _many_size(device: str, shape: str, steps: int, answer: int) -> tuple[str, Size]:
    """Thirty-two traces; on a CPU, shorter ones and a model of two layers, else they take hours."""
    if device == "cuda":
        return shape, Size(steps, answer, traces=32)
    return "9M", Size(steps, answer, traces=32, prompt=50, step=10)


def _memory(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    sizes = [] if device == "cuda" else list(_every_size(device, shape, quick))  # there, the other cells tell
    if vocabulary == (SMALL if device == "cpu" else LARGE) and not quick:
        sizes.append((shape, REASONING))
    for model, size in sizes:
        for way in ("plain", "limit", "shared"):
            yield Cell("memory", device, model, vocabulary, size, (way,))


def _many(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    for steps in STEPS[:1] if quick else STEPS:
        for answer in ANSWERS[-1:] if quick else ANSWERS:
            model, size = _many_size(device, shape, steps, answer)
            rounds = (5 if steps == 64 else 7) if device == "cpu" and vocabulary == SMALL else 3
            if model == "7B" and answer != ANSWERS[-1]:
                rounds = 1  # seconds of a GPU that has no time to be idle: rounds are alike
            yield Cell("time", device, model, vocabulary, size, rounds=rounds)


def _evaluation(device: str, shape: str, vocabulary: int, quick: bool) -> Iterator[Cell]:
    if vocabulary == (LARGE if device == "cuda" else SMALL):
        model = shape if device == "cuda" else "9M"
        yield Cell("evaluation", device, model, vocabulary, Size(8, 1, traces=16 if quick else 128), ())


PART_CELLS = {
    "single": _single, "long": _long, "control": _control, "groups": _groups, "forward": _forward, "hybrid": _hybrid,
    "loop": _loop, "many": _many, "evaluation": _evaluation, "padded": _padded, "memory": _memory,
}  # fmt: skip


def work(cell: Cell) -> float:
    """Floating-point operations of a cell's ways, roughly; none are counted for an evaluation."""
    size = cell.size
    few = replace(size, traces=min(size.traces, SAMPLED))
    return sum(
        work_of(way, cell.shape, cell.vocabulary, few if way in TRACE_BY_TRACE else size)
        * (1 if way in cell.once else cell.rounds)
        for way in cell.ways
    )


def turn(cell: Cell) -> int:
    """Lower ones are measured first: on a CPU what is quick, on a GPU what differs most from what a CPU has told."""
    if cell.device == "cpu":
        return int(work(cell) > SLOW)
    told = cell.size.traces == 1 or cell.size.group or cell.size.answer == ANSWERS[-1]
    if cell.kind == "evaluation" or (cell.vocabulary == LARGE and told):
        return 0
    if cell.size.traces == 32 and cell.shape == "7B":  # a third of the grid's time
        return 3
    return 1 if cell.size.answer == ANSWERS[-1] else 2


latest_model = lru_cache(maxsize=3)(build_model)  # all shapes of a vocabulary


def run(cell: Cell) -> Record | None:
    """Measure a cell of any kind; None where it could not be."""
    if cell.kind == "memory" and cell.device == "cpu":
        latest_model.cache_clear()  # the process that measures needs the room
        return in_own_process(cell)
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
                way = f", {cell.ways[0]}" if part == "memory" else ""
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
    parser.add_argument("--records", type=Path, help="where to keep them; default build/bench-<device>.jsonl")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.records or Path("build") / f"bench-{arguments.device}.jsonl"
    if not arguments.resume:
        path.unlink(missing_ok=True)
    records = Records(path)
    cells = [cell for part in arguments.only for cell in grid(arguments.device, part, arguments.quick)]
    cells = sorted(cells, key=turn)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which is what `timeout` sends
    with suppress(KeyboardInterrupt):
        for i, cell in enumerate(cells, 1):
            if cell.key not in records.found:
                print(f"{i}/{len(cells)} {cell}", flush=True)
                record = run(cell)
                if record is not None:
                    records.add(record)
    missing = left_out(records, arguments.device, arguments.quick)
    keys = [cell.key for part in PARTS for cell in grid(arguments.device, part, arguments.quick)]
    found = [records.found[key] for key in keys if key in records.found]  # and none of a grid of long ago
    text = report(found, arguments.device, list(missing))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
