"""One cell of the benchmark's tables: what is measured, how, and the record that is kept of it.

Ways are timed in interleaved rounds: each runs every way once, in turns, so that a busy machine disturbs all alike, and
ratios are taken within a round. Every cell compares the scorer's log-probabilities with a forward a branch and stops
the benchmark if they are out of bounds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from transformers import LlamaForCausalLM

from benchmarks.ways import SCORERS, TRACE_BY_TRACE, WAYS, Size, authors_loop, build_model, cache_mib, run_of, together
from reasoning_guard.model_context import unplanned
from reasoning_guard.rounding import noise
from reasoning_guard.tree import TraceTree

MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        kind: "time" (interleaved rounds; on a GPU with the peaks of all ways), "memory" (on a CPU the same in a process
            of its own, with the peak of the last way) or "evaluation" (see ``held_out.py``).
        device: "cpu" or "cuda".
        shape: Name of the model's shape.
        vocabulary: Tokens that it knows.
        size: The traces.
        ways: What is run.
        rounds: How often; what ``once`` names, in the first round only.
        once: Ways that are many times slower than the others beside them.
    """

    kind: str
    device: str
    shape: str
    vocabulary: int
    size: Size
    ways: tuple[str, ...] = ("plain", "limit", "shared")
    rounds: int = 1
    once: tuple[str, ...] = ()

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
        peaks: Peak memory of each way that was watched, in MiB over what there was before.
        cache_mib: Keys and values of one trace with its branches; on a GPU, of as many as its plain forwards take.
        load: Load average of the machine when the cell began.
        machine: What it was measured on, with what.
    """

    cell: Cell
    seconds: dict[str, list[float]] = field(default_factory=dict)
    worst: float = 0.0
    peaks: dict[str, float] = field(default_factory=dict)
    cache_mib: float = float("nan")
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    machine: str = ""

    def __post_init__(self) -> None:
        """What is measured is measured here; what was read from disk says where."""
        self.machine = self.machine or _machine(self.cell.device)


@cache
def _machine(device: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"one of {os.cpu_count()} cores of {names[0] if names else platform.processor()}"
    name = torch.cuda.get_device_name() if device == "cuda" else processor
    packages = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name} ({platform.machine()}; {packages}, Python {platform.python_version()})"


class Records:
    """Records on disk, a line each: an interrupted run goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = {record.cell.key: record for record in self._read()}

    def _read(self) -> Iterator[Record]:
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            kept = json.loads(line)
            cell = kept.pop("cell")
            if "once" not in cell or "machine" not in kept:
                raise SystemExit(f"{self.path} has records of an earlier form: move it away, or go without --resume")
            cell |= {"size": Size(**cell["size"]), "ways": tuple(cell["ways"]), "once": tuple(cell["once"])}
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


class Peak:
    """Peak memory of what runs in the block beyond what there was before it, the largest of all blocks.

    Attributes:
        mib: The peak: what a GPU's allocator says, or how much more memory of this process was resident.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._before = self.mib = 0.0

    def __enter__(self) -> None:
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / MIB
            return
        gc.collect()
        _give_back_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of resident memory
        self._before = _status("VmRSS:")

    def __exit__(self, *_: object) -> None:
        now = torch.cuda.max_memory_allocated() / MIB if self._device == "cuda" else _status("VmHWM:")
        self.mib = max(self.mib, now - self._before)


@torch.no_grad()
def timed(cell: Cell, model: LlamaForCausalLM, *, watched: bool = False) -> Record:
    """Time a cell's ways in interleaved rounds, and compare what they found.

    A GPU's allocator counts what is live, to the byte and for nothing, so there all ways are watched. On a CPU that is
    asked for, and only the last way is, in the last round, after all others: giving freed memory back, as is done
    first, would make whatever comes next fault it in again.
    """
    if cell.device == "cpu":
        keep_freed_memory()
    trees = cell.size.trees(cell.vocabulary)
    ways = {name: WAYS[name](model) for name in cell.ways}
    record = Record(cell, {name: [] for name in ways})
    for name in ways.keys() - {*TRACE_BY_TRACE, *cell.once}:
        ways[name](model, trees[: _to_warm_up(cell.device, name, trees)])
    for name in cell.once:
        ways[name](model, [TraceTree(trees[0].trunk, trees[0].branches[:2])])
    found: dict[str, list[float]] = {}
    peaks = {name: Peak(cell.device) for name in (ways if cell.device == "cuda" else cell.ways[-1:] if watched else ())}
    for i in range(cell.rounds):
        names = [name for name in ways if i == 0 or name not in cell.once]
        last = i == cell.rounds - 1
        first = 0 if watched and last else i % len(names)  # nobody always comes after the same one
        for name in (*names[first:], *names[:first]):
            if cell.device == "cpu":
                gc.collect()  # for a GPU it would take longer than most ways do
            own = run_of(name, trees)
            watching = peaks[name] if name in peaks and (last or cell.device == "cuda") else nullcontext()
            # The slow ways run once: each of their lengths would be a new one to cuDNN's attention, which plans.
            with watching, unplanned() if name in TRACE_BY_TRACE else nullcontext():
                started = clock(cell.device)
                found[name] = ways[name](model, own) or []
                record.seconds[name].append((clock(cell.device) - started) * len(trees) / len(own))
    record.peaks = {name: peak.mib for name, peak in peaks.items()}
    record.cache_mib = cache_mib(model, cell.size.cached_tokens * together(cell.device, trees))
    record.worst = _compared(cell, model, trees, found)
    scorer = next((name for name in SCORERS if name in found), None)
    # In 16 bits, rounding would hide a wrong mask. Of many traces each is as long as the one that has its own cell.
    if scorer and model.dtype != torch.float32 and cell.kind == "time" and (len(trees) == 1 or cell.size.group):
        record.worst = _in_float32(cell, model, trees[:2], scorer)
    return record


def _in_float32(cell: Cell, model: LlamaForCausalLM, trees: Sequence[TraceTree], scorer: str) -> float:
    """Largest difference of the scorer's numbers from the loop's in float32, in nats."""
    dtype = model.dtype
    model.float()
    try:
        found = {scorer: WAYS[scorer](model)(model, trees) or []}
        try:
            return _compared(cell, model, trees, found)
        except OutOfBoundsError:  # or so much is lost in a large model that the truth itself is as far off
            truth = _truth(model, trees)
            return _off(cell, model, found[scorer], truth, _rounding(model, trees, truth))
    finally:
        model.to(dtype=dtype)


def _to_warm_up(device: str, name: str, trees: Sequence[TraceTree]) -> int:
    """How many trees: on a GPU as many as make a batch and what is left for a last one, so that both are planned.

    For the scorer all, by which it finds out what makes a batch.
    """
    if device == "cpu":
        return 2
    a_batch = together(device, trees)
    return len(trees) if name in SCORERS else a_batch + len(trees) % a_batch


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
    return max((off[name] for name in SCORERS if name in off), default=0.0)


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


def _off(
    cell: Cell,
    model: LlamaForCausalLM,
    found: Sequence[float],
    truth: Sequence[float | None],
    rounding: float = 0.0,
) -> float:
    """Largest difference in nats; a way that stands for all of many traces has numbers for the first of them only.

    Where it is known how far rounding moves the truth itself, four times that may be allowed, up to ``_ROUNDING``.
    """
    pairs = [(a, b) for a, b in zip(found, truth, strict=False) if b is not None]
    worst, each = max(abs(a - b) for a, b in pairs), noise(model.dtype)
    for a, b in pairs:
        bound = each if model.dtype == torch.float32 else each * (1 + abs(b))
        if not abs(a - b) <= max(bound, min(4 * rounding, _ROUNDING)):
            raise OutOfBoundsError(f"{cell}: {worst:.2g} nats off a forward a branch")
    return worst


_ROUNDING = 2.5e-4
"""Nats. What a wrong mask does begins above: one token too many that a branch sees of another moved 3e-4 in a model of
34 M, one of the trunk 2e-2."""


class OutOfBoundsError(SystemExit):
    """Numbers are off by more than rounding is supposed to explain."""


def _rounding(model: LlamaForCausalLM, trees: Sequence[TraceTree], truth: Sequence[float | None]) -> float:
    """How far the loop's own numbers in float32 are from those with matrices in float64, in nats; the farthest.

    Of a few cuts that are rounded alike: how far it moves the very number that is compared is chance. By that one alone
    a cell of 7 B parameters was refused in one run, 1.3e-4 nats off, and passed in the next.
    """
    model.double()
    finer = _truth(model, trees)
    model.float()
    return max(abs(a - b) for a, b in zip(truth, finer, strict=True) if a is not None and b is not None)


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])  # importing torch takes longer than most cells


def in_own_process(cell: Cell) -> Record | None:
    """Measure a cell in a fresh process; None where that failed, for want of memory say."""
    here, there = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_measure, args=(cell, there))
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:  # killed, for want of memory
        found = RuntimeError("its process ended without a word")
    finally:
        process.kill()  # an interrupt is not to wait for minutes
        process.join()
    if isinstance(found, Exception):  # whatever it was, the other cells can be measured
        print(f"{cell}: {type(found).__name__}: {found}", file=sys.stderr)
        return None
    if isinstance(found, BaseException):
        raise found
    return found


def _measure(cell: Cell, there: Connection) -> None:
    try:
        there.send(in_this_process(cell))
    except BaseException as error:
        there.send(error)


def in_this_process(cell: Cell) -> Record:
    """Build the cell's model and measure its ways, with the peak memory of the last one and one trace's cache."""
    torch.set_num_threads(1)
    return timed(cell, build_model(cell.shape, cell.vocabulary, cell.device), watched=True)


def _give_back_freed_memory() -> None:
    """Else what the warm-up has left on the heap would count as there before, and be used again for nothing."""
    with suppress(AttributeError, OSError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024
