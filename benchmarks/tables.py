"""The benchmark's records as Markdown tables, each goal beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from scipy.stats import quantile_test

from benchmarks.cells import Cell, Record
from benchmarks.legend import machine
from benchmarks.ways import SAMPLED, Size, work_of

NOTHING = "–"
LIMIT_GOAL, _MANY = 1.10, 8


def report(records: Sequence[Record], device: str, left_out: Sequence[str] = ()) -> str:
    """All tables for which there are records, and in words what there are none for."""
    parts = [f"# What scoring costs\n\n{machine(records, device)}\n", *goals(records)]
    times = [r for r in records if len(r.cell.ways) > 1 and not is_hybrid(r.cell)]
    one = [r for r in times if r.cell.size.traces == 1]
    alone = [r for r in one if not _is_long(r.cell) and not _is_control(r.cell)]
    parts += one_trace(alone)
    parts += one_forward([r for r in one if _is_long(r.cell)])
    parts += control([r for r in one if _is_control(r.cell)])
    parts += many_traces([r for r in times if _is_batch(r.cell)])
    parts += groups([r for r in times if r.cell.size.group])
    parts += hybrids([r for r in records if is_hybrid(r.cell)])
    parts += memory([r for r in records if r.peaks and not r.cell.size.group and not is_hybrid(r.cell)], device)
    parts += evaluations([r for r in records if r.cell.kind == "evaluation"])
    if left_out:
        parts.append("## Not measured in this run\n\n" + "\n".join(f"- {each}" for each in left_out) + "\n")
    if device == "cpu":
        parts.append("## On a GPU\n\n`python -m benchmarks.scoring --device cuda`: [RESULTS-GPU.md](RESULTS-GPU.md).\n")
    return "\n".join(parts)


def ratios(record: Record, one: str, other: str) -> list[float]:
    """``one / other`` in each round in which both ran."""
    return [a / b for a, b in zip(record.seconds.get(one, ()), record.seconds.get(other, ()), strict=False)]


def spread(values: Sequence[float]) -> str:
    """Median with the range."""
    if not values:
        return NOTHING
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.2f}"
    return f"{middle:.2f} ({min(values):.2f}–{max(values):.2f})"


def _model(cell: Cell) -> str:
    return f"{cell.shape}, {cell.vocabulary:,}"


def _size(cell: Cell) -> tuple[object, ...]:
    return cell.shape, cell.vocabulary, cell.size


def one_trace(records: Sequence[Record]) -> Iterator[str]:
    """A row a size, with the slow ways from the cells that ran them."""
    if not records:
        return
    yield "## One trace\n"
    yield (
        "| model, vocabulary | n | answer | (a) / shared | (b) / shared | shared / (c) | shared / (d) | shared / (e) | "
        "(c), s | (d), s | shared, s | difference |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    own = {(_size(r.cell), r.cell.ways): r for r in records}  # beside (a), (b) and (e) the scorer has its own cells
    main = [r for r in records if "limit" in r.seconds]
    for r in main:
        size = _size(r.cell)
        cells = [
            *(spread(ratios(own.get((size, ("shared", way)), r), way, "shared")) for way in ("loop", "padded")),
            *(spread(ratios(r, "shared", way)) for way in ("plain", "limit")),
            spread(ratios(own.get((size, ("all logits", "shared")), r), "shared", "all logits")),
            *_seconds(r),
            f"{_difference(records, size):.1e}",
        ]
        yield f"| {_model(r.cell)} | {r.cell.size.steps} | {r.cell.size.answer} | {' | '.join(cells)} |"
    yield ""
    yield from slopes(main)


def _seconds(record: Record) -> list[str]:
    """Medians of one forward, the limit and the scorer, to three digits."""
    return [f"{statistics.median(record.seconds[way]):.3g}" for way in ("plain", "limit", "shared")]


def slopes(records: Sequence[Record]) -> Iterator[str]:
    """A straight line through the cost of n steps, and how far the worst point lies from it."""
    step = records[0].cell.size.step
    yield f"Cost of n steps of {step} tokens, a least-squares line through the quickest round of each n:\n"
    for model, answer in dict.fromkeys((_model(r.cell), r.cell.size.answer) for r in records):
        points = [
            (r.cell.size.steps, min(r.seconds["shared"]))
            for r in records
            if (_model(r.cell), r.cell.size.answer) == (model, answer)
        ]
        if len(points) > 2:
            yield f"- {model}, answers of {answer}: {_line(points)}"
    yield ""


def _line(points: Sequence[tuple[int, float]]) -> str:
    fit = statistics.linear_regression([n for n, _ in points], [seconds for _, seconds in points])
    off = max(abs(fit.intercept + fit.slope * n - seconds) / seconds for n, seconds in points)
    return f"{fit.intercept:.3f} s + {fit.slope * 1000:.1f} ms a step; every point within {off:.0%} of it"


def _is_batch(cell: Cell) -> bool:
    return cell.size.traces > 1 and not cell.size.group


def _is_long(cell: Cell) -> bool:
    return cell.ways == ("plain", "all logits", "limit", "shared")


def _is_control(cell: Cell) -> bool:
    return "limit again" in cell.ways


def one_forward(records: Sequence[Record]) -> Iterator[str]:
    """A row a model and size: longer traces, and a large vocabulary in a model that is as large as it needs."""
    if not records:
        return
    yield "## Beside one forward: longer traces and larger models, answers of 8\n"
    yield "*By operations*: the operations of (d) divided by those of (c), without those of attention.\n"
    yield (
        "| model, vocabulary | n | prompt | step | shared / (c) | shared / (d) | (d) / (c) | by operations | "
        "shared / (e) | shared, s | difference |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for r in records:
        pairs = (("shared", "plain"), ("shared", "limit"), ("limit", "plain"))
        columns = [*(spread(ratios(r, *pair)) for pair in pairs), f"{_least(r.cell):.2f}"]
        found = " | ".join([*columns, spread(ratios(r, "shared", "all logits"))])
        seconds = f"{statistics.median(r.seconds['shared']):.2f}"
        size = r.cell.size
        row = f"| {_model(r.cell)} | {size.steps} | {size.prompt} | {size.step} | {found} | {seconds} |"
        yield f"{row} {r.worst:.1e} |"
    yield ""


def _least(cell: Cell) -> float:
    """What the limit takes beside one forward with its last logits, by operations without those of attention."""
    limit, plain = (work_of(way, cell.shape, cell.vocabulary, cell.size) for way in ("limit", "plain"))
    return limit / plain


def control(records: Sequence[Record]) -> Iterator[str]:
    """A row a size: what differs where nothing does."""
    if not records:
        return
    yield "## What this machine can tell apart: the limit beside itself, one trace\n"
    yield "| model, vocabulary | n | answer | rounds | (d) / (d) | quickest / quickest |\n|---|---|---|---|---|---|"
    for r in records:
        quickest = min(r.seconds["limit again"]) / min(r.seconds["limit"])
        found = f"{r.cell.rounds} | {spread(ratios(r, 'limit again', 'limit'))} | {quickest:.2f}"
        yield f"| {_model(r.cell)} | {r.cell.size.steps} | {r.cell.size.answer} | {found} |"
    yield ""


def many_traces(records: Sequence[Record]) -> Iterator[str]:
    """A row a size."""
    main = [r for r in records if "limit" in r.seconds]
    if not main:
        return
    size = main[0].cell.size
    yield f"## {size.traces} traces in one call, prompts of {size.prompt} tokens and steps of {size.step}\n"
    yield f"(a) and (b) go trace by trace. The traces are equally long, so {SAMPLED} of them stands for all.\n"
    yield (
        "| model, vocabulary | n | answer | (a) / shared | (b) / shared | shared / (c) | shared / (d) | (c), s | "
        "(d), s | shared, s | difference |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    own = {(_size(r.cell), r.cell.ways): r for r in records}
    for r in main:
        size = _size(r.cell)
        found = [spread(ratios(own.get((size, ("shared", way)), r), way, "shared")) for way in ("loop", "padded")]
        found += [spread(ratios(r, "shared", way)) for way in ("plain", "limit")]
        found += [*_seconds(r), f"{_difference(records, size):.1e}"]
        yield f"| {_model(r.cell)} | {r.cell.size.steps} | {r.cell.size.answer} | {' | '.join(found)} |"
    yield ""
    yield from slopes(main)


def _difference(records: Sequence[Record], size: object) -> float:
    return max(r.worst for r in records if _size(r.cell) == size)


def groups(records: Sequence[Record]) -> Iterator[str]:
    """Completions of one prompt, over the plain forwards of them all."""
    if not records:
        return
    yield "## Groups of 8 completions of one prompt, n = 8, answers of 5 tokens\n"
    yield "| model, vocabulary | prompt | group / 8 plain forwards | goal | difference |\n|---|---|---|---|---|"
    for r in records:
        goal = 0.6 if r.cell.size.prompt >= 1000 else 1.2
        found = spread(_of_group(r))
        yield f"| {_model(r.cell)} | {r.cell.size.prompt:,} | {found} | {goal} | {r.worst:.1e} |"
    yield ""


def _of_group(record: Record) -> list[float]:
    return ratios(record, "group", "plain") or ratios(record, "group", "plain each")


def is_hybrid(cell: Cell) -> bool:
    """Whether most of its layers are linear attention, whose state no mask can rewind."""
    return cell.shape.endswith("hybrid")


def hybrids(records: Sequence[Record]) -> Iterator[str]:
    """A row a size: branches from copies of the cache, beside what one would otherwise do."""
    if not records:
        return
    yield "## A hybrid of linear and full attention (3 to 1, as Qwen 3.5), one trace\n"
    yield (
        "Random weights. Branches go on from copies of the cache: as many tokens, in more passes. Masks don't work for "
        "such a model, so it is not counted among the goals.\n"
    )
    yield (
        "| model, vocabulary | n | answer | (a) / copies | (b) / copies | copies / (c) | copies / (d) | copies, s | "
        "difference |\n|---|---|---|---|---|---|---|---|---|"
    )
    for r in records:
        found = [spread(ratios(r, way, "shared")) for way in ("loop", "padded")]
        found += [spread(ratios(r, "shared", way)) for way in ("plain", "limit")]
        found += [f"{statistics.median(r.seconds['shared']):.2f}", f"{r.worst:.1e}"]
        yield f"| {_model(r.cell)} | {r.cell.size.steps} | {r.cell.size.answer} | {' | '.join(found)} |"
    yield ""


def memory(records: Sequence[Record], device: str) -> Iterator[str]:
    """Peak memory of every way, with the room that the scorer is given."""
    if not records:
        return
    ways = ("loop", "padded", "plain", "limit", "shared")
    how = "each way in a process of its own" if device == "cpu" else "as the GPU's allocator counts what is live"
    yield f"## Peak memory over the weights, MiB, {how}\n"
    of = "one trace" if device == "cpu" else "the traces that a plain forward reads at once"
    yield f"Allowed: the peak of a plain forward, the keys and values of {of} with branches, and 256 MiB."
    several = next((r.cell.size for r in records if r.cell.size.traces > 1), Size(0, 0))
    yield (
        f"{several.traces} traces: prompts of {several.prompt} tokens, steps of {several.step}.\n"
        if several.steps
        else ""
    )
    yield f"| model, vocabulary | n | answer | traces | {' | '.join(ways)} | allowed |"
    yield f"|---|---|---|---|{'---|' * len(ways)}---|"
    for size in dict.fromkeys(_size(r.cell) for r in records):
        these = [r for r in records if _size(r.cell) == size]
        cell, peaks = these[0].cell, _peaks(these)
        cells = [f"{peaks[way]:.0f}" if way in peaks else NOTHING for way in ways]
        allowed = f"{peaks['plain'] + these[0].cache_mib + 256:.0f}" if "plain" in peaks else NOTHING
        row = f"| {_model(cell)} | {cell.size.steps} | {cell.size.answer} | {cell.size.traces} | {' | '.join(cells)}"
        yield f"{row} | {allowed} |"
    yield ""
    yield from _long_reasoning(records)


def _peaks(records: Sequence[Record]) -> dict[str, float]:
    return {way: mib for r in records for way, mib in r.peaks.items()}


def _long_reasoning(records: Sequence[Record]) -> Iterator[str]:
    """What a trace far longer than the others is, and what reading it took where its memory was measured."""
    usual = Size(0, 0)
    for size in dict.fromkeys(r.cell.size for r in records if r.cell.size.traces == 1):
        if size.step != usual.step:
            own = [r for r in records if r.cell.size == size and len(r.cell.ways) == 1]
            took: dict[str, list[str]] = {}
            for r in own:
                for way in r.cell.ways if r.seconds else ():
                    took.setdefault(r.cell.shape, []).append(f"{way} {r.seconds[way][0]:.3g} s")
            tokens = f"{size.prompt + size.steps * size.step:,} tokens"
            each = "; ".join(f"{shape}: {', '.join(ways)}" for shape, ways in took.items())
            if each:
                yield f"n = {size.steps}: a prompt of {size.prompt} and steps of {size.step}, {tokens}. {each}.\n"


def evaluations(records: Sequence[Record]) -> Iterator[str]:
    """Where the time of one held-out evaluation goes."""
    if not records:
        return
    yield "## One held-out evaluation, all default probes, a copy of the model as reference\n"
    yield "Traces of 150 + 8 x 30 tokens; wall seconds.\n"
    yield "| model, vocabulary | problems | generation | scoring | Python around them | total, s |"
    yield "|---|---|---|---|---|---|"
    for r in records:
        total = r.seconds["total"][0]
        shares = [f"{r.seconds[part][0] / total:.1%}" for part in ("generation", "scoring", "python")]
        yield f"| {_model(r.cell)} | {r.cell.size.traces} | {' | '.join(shares)} | {total:.1f} |"
    yield ""


def goals(records: Sequence[Record]) -> Iterator[str]:
    """Each goal, the worst that was measured of it, and whether it is met."""
    yield "## Goals\n"
    yield "| goal | measured | met |\n|---|---|---|"
    counted = [r for r in records if r.cell.kind != "evaluation" and not is_hybrid(r.cell)]
    for goal, bound, at_most, values in _goals(counted):
        if values:
            worst = max(values) if at_most else min(values)
            met = worst <= bound if at_most else worst >= bound
            share = sum((v <= bound) if at_most else (v >= bound) for v in values)
            verdict = "yes" if met else f"**no**: met in {share} of {len(values)} cells"
            yield f"| {goal} | {min(values):.2f} to {max(values):.2f} | {verdict} |"
    yield ""
    yield from _beyond_noise(counted)


def _beyond_noise(records: Sequence[Record]) -> Iterator[str]:
    """What the medians beside the limit say together, and which of those above the goal noise does not explain."""
    cells = [(r.cell, found) for r in records if (found := ratios(r, "shared", "limit"))]
    if not cells:
        return
    together = statistics.median(statistics.median(found) for _, found in cells)
    above = [(cell, found) for cell, found in cells if statistics.median(found) > LIMIT_GOAL]
    text = f"Half of the {len(cells)} medians beside the limit are at most {together:.2f}."
    if len(above) > _MANY:
        text += f" {len(above)} are above {LIMIT_GOAL:.2f}."
    elif above:
        size = "; ".join(
            f"{_model(cell)}, {cell.size.steps} / {cell.size.answer}{_several(cell)}: {_interval(found)}"
            for cell, found in above
        )
        text += f" Those above {LIMIT_GOAL:.2f}, with the 95 % confidence interval of the median: {size}."
    yield text + "\n"


def _several(cell: Cell) -> str:
    return f" x {cell.size.traces}" if cell.size.traces > 1 else ""


def _interval(values: Sequence[float]) -> str:
    """Distribution-free, from the order statistics; too few rounds have none."""
    low, high = quantile_test(values, q=statistics.median(values), p=0.5).confidence_interval(0.95)
    return f"{statistics.median(values):.2f} ({low:.2f} to {high:.2f})" if low == low and high == high else "too few"


_Goal = tuple[str, float, bool, list[float]]


def _goals(records: Sequence[Record]) -> Iterator[_Goal]:
    one = [r for r in records if r.cell.size.traces == 1]
    yield f"at most {LIMIT_GOAL:.2f} x the limit (d)", LIMIT_GOAL, True, _medians(records, "shared", "limit")
    at_32 = [r for r in one if r.cell.size.steps == 32 and r.cell.size.answer == 8]
    kinds = dict.fromkeys(
        (_model(r.cell), r.cell.size.step) for r in at_32 if {"plain", "all logits"} & set(r.cell.ways)
    )
    for model, step in kinds:
        these = [r for r in at_32 if (_model(r.cell), r.cell.size.step) == (model, step)]
        goal = f"one trace, n = 32 steps of {step} tokens, answers of 8, {model}: at most 1.5 x one plain forward"
        least = _least(these[0].cell)
        aside = f"; the limit itself takes {least:.2f} by operations" if least > 1.5 else ""
        yield f"{goal} with its last logits (c){aside}", 1.5, True, _medians(these, "shared", "plain")
        yield f"{goal} with all logits (e)", 1.5, True, _medians(these, "shared", "all logits")
    for prompt, bound in ((1000, 0.6), (200, 1.2)):
        these = [r for r in records if r.cell.size.group and r.cell.size.prompt == prompt]
        goal = f"groups of 8, prompts of {prompt:,}: at most {bound} x their plain forwards"
        yield goal, bound, True, [statistics.median(_of_group(r)) for r in these]
    loops = [r for r in records if "loop" in r.seconds]
    for steps, bound in ((16, 8.0), (32, 12.0)):
        for size in dict.fromkeys((r.cell.size.traces, r.cell.size.step) for r in loops):
            these = [r for r in loops if r.cell.size.steps == steps and size == (r.cell.size.traces, r.cell.size.step)]
            several = f", {size[0]} traces" if size[0] > 1 else ""
            goal = f"n = {steps} steps of {size[1]} tokens{several}: at least {bound:.0f} x faster than the loop (a)"
            yield goal, bound, False, _medians(these, "loop", "shared")
    yield "memory over the weights, share of what is allowed: at most 1", 1.0, True, list(_memory_shares(records))


def _medians(records: Iterable[Record], one: str, other: str) -> list[float]:
    return [statistics.median(found) for r in records if (found := ratios(r, one, other))]


def _memory_shares(records: Sequence[Record]) -> Iterator[float]:
    for size in dict.fromkeys(_size(r.cell) for r in records if r.peaks):
        these = [r for r in records if r.peaks and _size(r.cell) == size]
        peaks = _peaks(these)
        if {"shared", "plain"} <= peaks.keys():
            yield peaks["shared"] / (peaks["plain"] + these[0].cache_mib + 256)
