"""Draw the figures of docs/statistics.md again: ``python -m benchmarks.figures``, or ``make figures``.

The simulation behind them is :mod:`benchmarks.false_alarms`; its tables are printed on the way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.false_alarms import (
    ALPHA,
    COUNTED,
    FALLS,
    KINDS,
    LOOKS,
    POWER_SIZES,
    SIZES,
    SYMMETRIC,
    WITHIN,
    Array,
    Power,
    alarms,
    edge_table,
    level_tables,
    power_table,
    shipped_table,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_false_alarms(directory: Path, unchanged: dict[tuple[str, int, float], Array]) -> None:
    """Save ``false_alarms.svg``: the share of runs with any finding, and with any alarm, by number of looks."""
    colours = dict(zip(KINDS, ("C0", "C1", "C2", "C3"), strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, patient in zip(axes, (False, True), strict=True):
        for (name, n, correlation), found in unchanged.items():
            rate = np.logical_or.accumulate(alarms(found) if patient else found, axis=1).mean(axis=0)
            style, width = "-" if correlation else ":", 0.7 + 0.7 * SIZES.index(n)
            label = f"{name}, {n} problems" if correlation else None
            axis.plot(range(1, LOOKS + 1), rate, style, color=colours[name], lw=width, label=label)
        axis.axhline(ALPHA, color="black", lw=1, ls="--")
        axis.set(xscale="log", xticks=WITHIN, xticklabels=WITHIN, xlabel="looks (dotted: noise new at each look)")
        axis.set_title("an alarm: two looks in a row" if patient else "a finding: any single look", fontsize=10)
        axis.minorticks_off()
    axes[0].set(ylabel="share of runs with any", ylim=(0, 0.06))
    axes[1].legend(fontsize=7, frameon=False, loc="center right")
    figure.suptitle("Nothing has changed, and any fall would count: the hardest case (dashed: alpha)", fontsize=10)
    figure.savefig(directory / "false_alarms.svg", metadata={"Date": None})
    plt.close(figure)


def draw_power(directory: Path, power: Power) -> None:
    """Save ``power.svg``: the share of falls that are alarmed within five looks, by number of problems."""
    figure, rows = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True, sharey=True, layout="constrained")
    for axes, counted in zip(rows, COUNTED, strict=True):
        for axis, name in zip(axes, SYMMETRIC, strict=True):
            for fall in FALLS:
                at_once, later = ([power[name, n, fall, first, counted] for n in POWER_SIZES] for first in (1, 21))
                (line,) = axis.plot(POWER_SIZES, at_once, "o-", ms=3, label=f"-{fall:.0%}")
                axis.plot(POWER_SIZES, later, "o:", ms=3, color=line.get_color())
            smallest = KINDS[name].effect.relative
            axis.set_title(f"{name}, {counted}{f' ({smallest:.0%})' if counted == COUNTED[0] else ''}", fontsize=9)
            axis.set(xscale="log", xticks=POWER_SIZES, xticklabels=POWER_SIZES)
            axis.minorticks_off()
        axes[0].set_ylabel("share alarmed within five looks")
    for axis in rows[1]:
        axis.set_xlabel("problems")
    handles = rows[0, 0].get_legend_handles_labels()
    figure.legend(*handles, title="fall\n(dotted: after\n20 looks)", loc="outside right")
    figure.savefig(directory / "power.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Simulate, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs a cell (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Text stays text, and a figure drawn twice is the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "reasoning_guard"})
    draw_false_alarms(options.out, level_tables(options.runs))
    draw_power(options.out, power_table(options.runs))
    edge_table(options.runs)
    shipped_table(max(1, options.runs // 8))


if __name__ == "__main__":
    main()
