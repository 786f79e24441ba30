"""One cell of the benchmark's tables: what is measured, how, and the record that is kept of it.

Ways are timed in interleaved rounds: each runs every way once, in turns, so that a busy machine disturbs all alike, and
ratios are taken within a round. Every cell compares the scorer's log-probabilities with a forward a branch and stops
the benchmark if they are out of bounds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from benchmarks.ways import TRACE_BY_TRACE, WAYS, Size, Way, authors_loop, build_model, cache_mib, run_of
from reasoning_guard.selftest import noise
from reasoning_guard.tree import TraceTree

MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        kind: "time" (interleaved rounds), "memory" (peak of ``ways[0]``) or "evaluation" (see ``held_out.py``).
        device: "cpu" or "cuda".
        shape: Name of the model's shape.
        vocabulary: Tokens that it knows.
        size: The traces.
        ways: What is run.
        rounds: How often.
    """

    kind: str
    device: str
    shape: str
    vocabulary: int
    size: Size
    ways: tuple[str, ...] = ("plain", "limit", "shared")
    rounds: int = 1

    @property
    def key(self) -> str:
        """Names the cell in the records."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass
class Record:
    """What was measured.

    Attributes:
        cell: The cell.
        seconds: Of each way, or each part of an evaluation, by round; for all traces, where some stood for all too.
        worst: Largest difference from a forward a branch, in nats.
        mib: Peak memory over the weights.
        cache_mib: Keys and values of one trace with its branches.
        load: Load average of the machine when the cell began.
    """

    cell: Cell
    seconds: dict[str, list[float]] = field(default_factory=dict)
    worst: float = 0.0
    mib: float = float("nan")
    cache_mib: float = float("nan")
    load: float = field(default_factory=lambda: os.getloadavg()[0])


class Records:
    """Records on disk, a line each: an interrupted run goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = {record.cell.key: record for record in self._read()}

    def _read(self) -> Iterator[Record]:
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            kept = json.loads(line)
            cell = kept.pop("cell")
            cell |= {"size": Size(**cell["size"]), "ways": tuple(cell["ways"])}
            yield Record(Cell(**cell), **kept)

    def add(self, record: Record) -> None:
        """Keep a record at once."""
        self.found[record.cell.key] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def clock(device: str) -> float:
    """CPU seconds, or wall seconds once the GPU is done."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def keep_freed_memory() -> None:
    """Bring a fresh process's allocator to where that of a process which has trained is.

    The C library of Linux gives freed memory back to the system, to be faulted in again by the next layer, as long as
    it has not seen a large block come and go: freeing one of up to 32 MiB raises what it keeps to twice as much
    (``M_MMAP_THRESHOLD`` in mallopt(3)). A training step frees many. Without it up to 9 % of the seconds are page
    faults, now of one way and now of another.
    """
    torch.ones(31 * MIB, dtype=torch.uint8)


@torch.no_grad()
def timed(cell: Cell, model: LlamaForCausalLM) -> Record:
    """Time a cell's ways in interleaved rounds, and compare what they found."""
    if cell.device == "cpu":
        keep_freed_memory()
    trees = cell.size.trees(cell.vocabulary)
    ways = {name: WAYS[name](model) for name in cell.ways}
    record = Record(cell, {name: [] for name in ways})
    for name in ways.keys() - set(TRACE_BY_TRACE):
        ways[name](model, trees[:2])
    found: dict[str, list[float]] = {}
    names = tuple(ways)
    for i in range(cell.rounds):
        for name in (*names[i % len(names) :], *names[: i % len(names)]):  # nobody always comes after the same one
            gc.collect()
            own = run_of(name, trees)
            started = clock(cell.device)
            found[name] = ways[name](model, own) or []
            record.seconds[name].append((clock(cell.device) - started) * len(trees) / len(own))
    record.worst = _compared(cell, model, trees, found)
    scorer, dtype = next((name for name in ("shared", "group") if name in found), None), model.dtype
    if scorer and dtype != torch.float32:  # in 16 bits, rounding would hide a wrong mask
        model.float()
        found = {scorer: WAYS[scorer](model)(model, trees[:2]) or []}
        record.worst = _compared(cell, model, trees[:2], found)
        model.to(dtype=dtype)
    return record


def _compared(
    cell: Cell, model: LlamaForCausalLM, trees: Sequence[TraceTree], found: Mapping[str, list[float]]
) -> float:
    """Largest difference of the scorer's numbers from the loop's, in nats; 0 where it did not run.

    Raises:
        SystemExit: If rounding cannot explain how far the numbers of any way are off.
    """
    scored = {name: own for name, own in found.items() if own and name != "loop"}
    if not scored:
        return 0.0
    for name, own in scored.items():
        if len(own) != (asked := sum(len(tree.branches) for tree in run_of(name, trees))):
            raise SystemExit(f"{cell}: {name} has {len(own)} numbers for {asked} branches")
    truth = found["loop"] if "loop" in found else _truth(model, trees)
    off = {name: _off(cell, model, own, truth) for name, own in scored.items()}
    return max((off[name] for name in ("shared", "group") if name in off), default=0.0)


def _truth(model: LlamaForCausalLM, trees: Sequence[TraceTree]) -> list[float | None]:
    """The loop's numbers for four cuts of the first trace, first and last among them, and one of each other trace."""
    numbers: list[float | None] = []
    for i, tree in enumerate(trees):
        last = len(tree.branches) - 1
        chosen = {k * last // 3 for k in range(4)} if i == 0 else {i * 5 % (last + 1)}
        numbers += [
            authors_loop(model, [TraceTree(tree.trunk, (branch,))])[0] if k in chosen else None
            for k, branch in enumerate(tree.branches)
        ]
    return numbers


def _off(cell: Cell, model: LlamaForCausalLM, found: Sequence[float], truth: Sequence[float | None]) -> float:
    """Largest difference in nats; a way that stands for all of many traces has numbers for the first of them only."""
    pairs = [(a, b) for a, b in zip(found, truth, strict=False) if b is not None]
    worst = max(abs(a - b) for a, b in pairs)
    each = noise(model.dtype)
    if not all(abs(a - b) <= (each if model.dtype == torch.float32 else each * (1 + abs(b))) for a, b in pairs):
        raise SystemExit(f"{cell}: {worst:.2g} nats off a forward a branch")
    return worst


def memory_in_own_process(cell: Cell) -> Record | None:
    """Measure the peak memory of a cell's way in a fresh process; None where it failed, for want of memory say."""
    call = f"import json; from benchmarks.cells import *; print(json.dumps(peak_memory({cell!r})))"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        print(f"{cell}: {why}", file=sys.stderr)
        return None
    mib, cache = json.loads(done.stdout.splitlines()[-1])
    return Record(cell, mib=mib, cache_mib=cache)


@torch.no_grad()
def peak_memory(cell: Cell) -> tuple[float, float]:
    """Run one way in this process; peak memory beyond the weights, and one trace's cache, in MiB."""
    torch.set_num_threads(1)
    model = build_model(cell.shape, cell.vocabulary, cell.device)
    way: Way = WAYS[cell.ways[0]](model)
    way(model, Size(2, 1, prompt=8, step=2).trees(cell.vocabulary))  # lazily made buffers and the self-test
    trees = cell.size.trees(cell.vocabulary)
    if cell.ways[0] in TRACE_BY_TRACE:
        trees = trees[:1]
    if cell.ways == ("loop",):  # its peak is that of its longest prefix
        trees = [TraceTree(tree.trunk, tree.branches[-1:]) for tree in trees]
    cache = cache_mib(model, cell.size.cached_tokens)
    gc.collect()
    _give_back_freed_memory()
    if cell.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(model, trees)
        return (torch.cuda.max_memory_allocated() - before) / MIB, cache
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of resident memory
    before = _status("VmRSS:")
    way(model, trees)
    return _status("VmHWM:") - before, cache


def _give_back_freed_memory() -> None:
    """Else what the warm-up has left on the heap would count as there before, and be used again for nothing."""
    with suppress(AttributeError, OSError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024
