"""The benchmark measures what it says, keeps it, and stops where the scorer is wrong."""

from __future__ import annotations

import multiprocessing.context
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmarks import cells, scoring, ways
from benchmarks.cells import Cell, Record, Records, timed
from benchmarks.held_out import one_evaluation
from benchmarks.scoring import PARTS, REASONING, grid
from benchmarks.tables import report
from benchmarks.ways import Size, build_model

SIZE = Size(4, 2, prompt=12, step=5)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ways.SHAPES, "tiny", (32, 64, 2, 4, 2))
    return "tiny"


def cell(shape: str, size: Size = SIZE, ways: tuple[str, ...] = ("plain", "limit", "shared"), rounds: int = 2) -> Cell:
    return Cell("time", "cpu", shape, 300, size, ways, rounds)


def test_every_way_finds_the_same_and_is_timed_in_every_round(tiny: str) -> None:
    model = build_model(tiny, 300, "cpu")
    every = ("plain", "limit", "shared", "loop", "padded")
    record = timed(cell(tiny, ways=every), model)
    assert {name: len(seconds) for name, seconds in record.seconds.items()} == dict.fromkeys(every, 2)
    assert 0 < record.worst < 1e-4
    group = timed(cell(tiny, Size(4, 2, traces=3, prompt=12, step=5, group=True), ("plain", "group")), model)
    assert 0 < group.worst < 1e-4


def test_what_is_off_is_refused_unless_the_loop_is_as_far_from_float64(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(tiny, 300, "cpu").bfloat16()
    monkeypatch.setattr(cells, "noise", lambda dtype: 1.0 if dtype == torch.bfloat16 else 0.0)
    record = timed(cell(tiny, ways=("shared",)), model)
    assert 0 < record.worst < 2.5e-4, "rounding explains it"
    assert model.dtype == torch.bfloat16
    monkeypatch.setattr(cells, "_rounding", lambda *_: 0.0)
    with pytest.raises(cells.OutOfBoundsError, match="nats off a forward a branch"):
        timed(cell(tiny, ways=("shared",)), model)
    assert model.dtype == torch.bfloat16, "as it was"
    monkeypatch.setattr(cells, "_rounding", lambda *_: 1.0)
    shared = cells.WAYS["shared"]
    wrong = lambda m: lambda model, trees: [x + 3e-4 for x in shared(m)(model, trees)]  # noqa: E731
    monkeypatch.setitem(cells.WAYS, "shared", wrong)
    with pytest.raises(cells.OutOfBoundsError, match="nats off a forward a branch"):
        timed(cell(tiny, ways=("shared",)), model)


def test_few_of_many_traces_stand_for_all_where_that_changes_nothing(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Size(4, 2, traces=6, prompt=12, step=5)
    seen: dict[str, int] = {}

    def noted(way: str) -> object:
        made = ways.WAYS[way]
        return lambda model: lambda m, trees: seen.update({way: len(trees)}) or made(model)(m, trees)

    monkeypatch.setattr(cells, "WAYS", {way: noted(way) for way in ways.WAYS})
    ticks = iter(range(100))
    monkeypatch.setattr(cells, "clock", lambda device: float(next(ticks)))
    model = build_model(tiny, 300, "cpu")
    records = [timed(cell(tiny, size, ("shared", way), rounds=1), model) for way in ("loop", "padded")]
    records.append(timed(cell(tiny, size, ("plain", "limit", "shared"), rounds=1), model))
    assert seen == {"shared": 6, "loop": 1, "padded": 1, "plain": 6, "limit": 6}
    assert [r.seconds for r in records[:2]] == [{"shared": [1.0], way: [6.0]} for way in ("loop", "padded")]
    assert all(0 < r.worst < 1e-4 for r in records)
    assert "| tiny, 300 | 4 | 2 | 6.00 | 6.00 | 1.00 | 1.00 | 1 | 1 | 1 |" in report(records, "cpu")


def test_the_limit_reads_as_many_tokens_as_there_are_and_many_traces_together(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be easy to beat: one trace at a time reads all of a head's weights for each."""
    model, size = build_model(tiny, 300, "cpu"), Size(4, 2, traces=7, prompt=12, step=5)
    monkeypatch.setitem(ways.TOGETHER, "cpu", 190)  # three traces of 32 tokens with five branches of 5
    fed: list[tuple[int, ...]] = []
    made: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _m, _a, kw: fed.append(tuple(kw["input_ids"].shape)), with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _m, _a, output: made.append(tuple(output.shape)))
    with torch.no_grad():
        ways.limit(model, size.trees(300))
    assert fed == [(3, 32 + 5 * 5), (3, 32 + 5 * 5), (1, 32 + 5 * 5)]
    assert made == [(3, 5 * 2, 300), (3, 5 * 2, 300), (1, 5 * 2, 300)]


def test_a_wrong_score_ends_the_run(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ways.WAYS["shared"]
    wrong = {**ways.WAYS, "shared": lambda model: lambda m, trees: [x + 0.01 for x in right(model)(m, trees) or []]}
    monkeypatch.setattr(cells, "WAYS", wrong)
    with pytest.raises(SystemExit, match="nats off a forward a branch"):
        timed(cell(tiny), build_model(tiny, 300, "cpu"))


def test_records_survive_and_make_the_tables(tiny: str, tmp_path: Path) -> None:
    model, records = build_model(tiny, 300, "cpu"), Records(tmp_path / "bench.jsonl")
    for size in (Size(n, 2, prompt=12, step=5) for n in (2, 4, 8)):
        records.add(timed(cell(tiny, size), model))
    for ways_, mib in ((("plain",), 10.0), (("shared",), 300.0), (("shared", "loop"), 40.0)):
        own = Cell("memory", "cpu", tiny, 300, SIZE, ways_)
        seconds = dict(zip(ways_, ([0.4], [1.6]), strict=False))
        records.add(Record(own, seconds, peaks={ways_[-1]: mib}, cache_mib=20.0))
    every = ("plain", "all logits", "limit", "shared")
    records.add(timed(cell(tiny, Size(32, 8, prompt=12, step=7), every), model))
    records.add(timed(cell(tiny, ways=("limit", "limit again"), rounds=3), model))
    again = Records(tmp_path / "bench.jsonl")
    assert again.found.keys() == records.found.keys()
    text = report(list(again.found.values()), "cpu")
    assert "| tiny, 300 | 4 | 2 | 4.00 | – |" in text, "the loop takes four times as long as the scorer beside it"
    assert "| tiny, 300 | 4 | 2 | 1 | 40 | – | 10 | – | 300 | 286 |" in text
    assert "n = 4: a prompt of 12 and steps of 5, 32 tokens. tiny: plain 0.4 s, shared 0.4 s." in text
    assert "ms a step; every point within" in text
    assert "at most 1.10 x the limit" in text
    assert "medians beside the limit are at most" in text
    assert "| tiny, 300 | 32 | 12 | 7 |" in text
    assert "n = 32 steps of 7 tokens, answers of 8, tiny, 300: at most 1.5 x one plain forward" in text
    assert "| tiny, 300 | 4 | 2 | 3 |" in text, "the control"
    assert text.count("| tiny, 300 | 32 | 8 |") == 0, "longer steps have a table of their own"
    assert "**no**: met in 0 of 1 cells" in text, "300 MiB are more than the 286 that are allowed"


def test_where_the_time_of_an_evaluation_goes(tiny: str) -> None:
    model = build_model(tiny, 1_500, "cpu")
    size = Size(2, 1, traces=3, prompt=10, step=10)
    seconds = one_evaluation(model, Cell("evaluation", "cpu", tiny, 1_500, size, ()))
    parts = [seconds[part][0] for part in ("generation", "scoring", "python")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(seconds["total"][0])


def test_the_grid_has_every_size_for_every_device() -> None:
    for device in ("cpu", "cuda"):
        single = list(grid(device, "single", quick=False))
        wanted = {(c.size.steps, c.size.answer, c.vocabulary) for c in single}
        assert wanted == {(n, a, v) for n in (8, 16, 32, 64) for a in (1, 5, 8) for v in (8_192, 151_936)}
        many = {(c.size.steps, c.size.answer, c.vocabulary) for c in grid(device, "many", quick=False)}
        assert many == wanted
        for part, ways_ in (("loop", 1), ("padded", 1), ("memory", 3)) if device == "cpu" else ():
            asked = [c for c in grid(device, part, False) if c.size != REASONING]
            every = [(c.size.steps, c.size.answer, c.size.traces, c.vocabulary) for c in asked]
            models = len({c.shape for c in grid(device, "single", False)})
            assert set(every) == {(*size, v) for n, a, v in wanted for size in ((n, a, 1), (n, a, 32))}
            assert len(every) == 2 * len(wanted) * ways_ * models
        long = [c for part in PARTS for c in grid(device, part, False) if c.size == REASONING]
        assert REASONING.steps == 200
        assert REASONING.prompt + REASONING.steps * REASONING.step == 16_384
        assert {(c.kind, c.ways) for c in long} == {("memory", (way,)) for way in ("plain", "limit", "shared")}
        keys = [c.key for part in PARTS for c in grid(device, part, quick=False)]
        assert len(keys) == len(set(keys))
    for c in grid("cuda", "single", quick=False):
        assert set(c.ways) == {"plain", "all logits", "limit", "loop", "padded", "shared"}
        assert set(c.once) == {"loop", "padded"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_is_that_of_the_last_way(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []

    def greedy(mib: int) -> object:
        return lambda _: lambda m, trees: order.append(mib) or torch.ones(mib, 2**18).sum(1).tolist()[:0]

    give_back = cells._give_back_freed_memory
    monkeypatch.setattr(cells, "_give_back_freed_memory", lambda: order.append("given back") or give_back())
    monkeypatch.setattr(cells, "WAYS", {"most": greedy(400), "more": greedy(100), "shared": ways.WAYS["shared"]})
    record = cells.in_this_process(Cell("memory", "cpu", tiny, 300, SIZE, ("most", "shared", "more"), rounds=2))
    assert record.peaks == {"more": pytest.approx(100, abs=20)}
    assert record.cache_mib == pytest.approx(2 * 2 * 16 * 4 * SIZE.cached_tokens / 2**20)
    assert {way: len(seconds) for way, seconds in record.seconds.items()} == {"most": 2, "shared": 2, "more": 2}
    assert order[-3:] == [400, "given back", 100], "who comes after that pays for it"
    assert order.count("given back") == 1
    assert 0 < record.worst < 1e-4


def test_wrong_masks_cannot_hide_in_sixteen_bits(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounding of bfloat16 is allowed to it, and float32 is asked too."""
    model = build_model(tiny, 300, "cpu").bfloat16()
    record = timed(cell(tiny), model)
    assert 0 < record.worst < 1e-4
    assert model.dtype == torch.bfloat16
    right = ways.WAYS["shared"]
    wrong = {**ways.WAYS, "shared": lambda model: lambda m, trees: [x + 0.01 for x in right(model)(m, trees) or []]}
    monkeypatch.setattr(cells, "WAYS", wrong)
    with pytest.raises(SystemExit, match=r"0\.01 nats off a forward a branch"):
        timed(cell(tiny), model)


def test_every_trace_of_a_batch_is_compared(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, n = ways.WAYS["group"], 5

    def late(model: object) -> object:
        return lambda m, trees: [x + 0.01 * (i >= 3 * n) for i, x in enumerate(right(model)(m, trees) or [])]

    size = Size(n - 1, 2, traces=4, prompt=12, step=5, group=True)
    monkeypatch.setattr(cells, "WAYS", {**ways.WAYS, "group": late})
    with pytest.raises(SystemExit, match="nats off a forward a branch"):
        timed(cell(tiny, size, ("plain", "group")), build_model(tiny, 300, "cpu"))
    monkeypatch.setattr(cells, "WAYS", {**ways.WAYS, "group": lambda model: lambda m, t: right(model)(m, t)[:-1]})
    with pytest.raises(SystemExit, match="group has 19 numbers for 20 branches"):
        timed(cell(tiny, size, ("plain", "group")), build_model(tiny, 300, "cpu"))


def test_a_process_of_its_own_measures_a_cell() -> None:
    small = Cell("memory", "cpu", "9M", 300, Size(2, 2, prompt=12, step=5), ("shared", "loop"))
    record = cells.in_own_process(small)
    assert record is not None
    assert record.cell == small
    assert record.peaks["loop"] > 0
    assert 0 < record.worst < 1e-4
    assert {way: len(seconds) for way, seconds in record.seconds.items()} == {"shared": 1, "loop": 1}


def _wrong(cell: Cell) -> Record:
    raise SystemExit("0.01 nats off a forward a branch")


def _killed(cell: Cell) -> Record:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class _Fork(multiprocessing.context.ForkContext):
    """Takes along what a test has changed."""


@pytest.mark.parametrize(("what", "error"), [(_wrong, SystemExit), (_killed, None)])
def test_a_wrong_score_there_ends_the_run_and_a_killed_process_does_not(
    what: Callable[[Cell], Record], error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "in_this_process", what)
    monkeypatch.setattr(cells, "_processes", _Fork())
    with pytest.raises(error) if error else nullcontext():
        assert cells.in_own_process(cell("tiny")) is None


def test_an_interrupt_does_not_wait_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "in_this_process", lambda cell: time.sleep(120))
    monkeypatch.setattr(cells, "_processes", _Fork())
    started, before = time.monotonic(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.5, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            cells.in_own_process(cell("tiny"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 60


def test_what_could_not_be_measured_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unknown = Cell("memory", "cpu", "9M", 300, SIZE, ("a way that the process of its own does not know",))
    assert cells.in_own_process(unknown) is None
    kept, out = tmp_path / "kept.jsonl", tmp_path / "RESULTS.md"
    monkeypatch.setattr(
        scoring, "run", lambda cell: None if cell.size.steps == 8 else Record(cell, peaks={cell.ways[-1]: 1.0})
    )
    monkeypatch.setattr(scoring.signal, "signal", lambda *_: None)
    every = ["scoring", "--device", "cpu", "--quick", "--only", "memory", "--records", str(kept), "--out", str(out)]
    monkeypatch.setattr("sys.argv", every)
    scoring.main()
    assert {record.cell.size.steps for record in Records(kept).found.values()} == {16}
    assert "- memory, shared, 34M, vocabulary 8,192: n/answer 8/8\n" in out.read_text()


def test_an_interrupted_run_writes_what_there_is_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Cell] = []

    def measured(cell: Cell) -> Record:
        seen.append(cell)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return Record(cell, {way: [1.0, 1.1] for way in cell.ways}, worst=1e-6)

    kept, out = tmp_path / "kept.jsonl", tmp_path / "RESULTS.md"
    every = ["scoring", "--device", "cpu", "--only", "single", "--resume", "--records", str(kept), "--out", str(out)]
    monkeypatch.setattr(scoring, "run", measured)
    monkeypatch.setattr(scoring.signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", every)
    scoring.main()
    assert len(Records(kept).found) == 2
    assert out.read_text().count("| 34M, 8,192 |") == 2
    assert "## Not measured in this run" in out.read_text()
    scoring.main()
    assert len(seen) == 3 + 22, "the two that were measured are not measured again"


def test_cells_that_take_minutes_come_last() -> None:
    slow = [c for part in PARTS for c in grid("cpu", part, False) if scoring.turn(c)]
    assert {c.size.steps for c in slow if "loop" in c.ways} == {32, 64}
    assert not [c for c in slow if "group" in c.ways or (c.size.steps <= 8 and c.size.traces == 1)]


def test_on_a_gpu_what_a_cpu_has_not_told_comes_first() -> None:
    every = [c for part in PARTS for c in grid("cuda", part, False)]
    first = [c for c in every if scoring.turn(c) == 0]
    assert {c.vocabulary for c in first} == {scoring.LARGE}
    assert {(c.size.steps, c.size.answer) for c in first if c.size.traces == 1} >= {(8, 1), (64, 8)}
    assert {c.shape for c in first if c.kind == "evaluation"} == {"0.5B", "1.5B", "7B"}
    assert {c.size.answer for c in first if c.size.traces == 32} == {8}


def test_a_gpu_runs_slow_ways_once_and_watches_all(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's calls are stubbed; the cells are those of a GPU."""
    peaks = iter(range(1, 100))
    for name, value in {
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: next(peaks) * 2**20,
        "get_device_name": lambda: "a GPU",
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    every = ("plain", "limit", "loop", "shared")
    own = Cell("time", "cuda", tiny, 300, SIZE, every, rounds=3, once=("loop",))
    record = timed(own, build_model(tiny, 300, "cpu").bfloat16())
    assert {way: len(seconds) for way, seconds in record.seconds.items()} == {**dict.fromkeys(every, 3), "loop": 1}
    assert record.peaks["loop"] == 3
    assert sum(record.peaks.values()) == 10 + 9 + 8 + 3, "the largest of three rounds, of the loop that of the first"
    text = report([record], "cuda")
    assert f"| tiny, 300 | {SIZE.steps} | {SIZE.answer} | 1 | 3 | – |" in text
    assert "as the GPU's allocator counts" in text


def test_records_of_an_earlier_form_are_refused_in_words(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    records = Records(path)
    records.add(Record(cell(tiny)))
    assert Records(path).found.keys() == records.found.keys()
    path.write_text(path.read_text().replace('"machine"', '"where"'))
    with pytest.raises(SystemExit, match="records of an earlier form: move it away"):
        Records(path)


def test_what_was_measured_elsewhere_says_so(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    Records(path).add(Record(cell(tiny), {"plain": [1.0], "limit": [1.0], "shared": [1.0]}, machine="another machine"))
    text = report(list(Records(path).found.values()), "cpu")
    assert "`python -m benchmarks.scoring --device cpu` on another machine. Llamas" in text
