"""``python -m reasoning_guard_demo``: two fine-tunings of one tiny model, and what a guard says of each."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import datasets
import transformers
from rich.console import Console
from rich.table import Table

from reasoning_guard.report import load_run, write_report
from reasoning_guard_demo.recipes import train_base
from reasoning_guard_demo.run import Story, tell
from reasoning_guard_demo.task import ARMS

STORIES = {
    "healthy": "honest tags, sound chains",
    "trap": "the tag gives the answer away; half of the chains are wrong though their answer is right",
}
BROKEN = ("trap", "trap-uncut", "patched", "answer-only")
"""Arms that lose their accuracy out of distribution: the guard must raise an alarm on each, and on no other."""

COLUMNS = {
    "accuracy": "accuracy",
    "info_gain": "InfoGain",
    "early_answering_aoc": "early answering",
    "placebo_gain": "gain over placebo",
    "placebo_changed": "changed by placebo",
    "mistake_changed": "changed by a mistake",
    "reference/pre_commitment": "pre-commitment (reference)",
}
console = Console()


def main() -> int:
    """Run the demo; returns the exit code, 0 if the guard said what it should."""
    parser = argparse.ArgumentParser(prog="reasoning_guard_demo", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--all", action="store_true", help="all seven arms, with a table of every measure")
    parser.add_argument("--seeds", default="0", help="comma-separated; each trains a base of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for records, TensorBoard and page")
    options = parser.parse_args()
    _quiet()
    stories = []
    for seed in map(int, options.seeds.split(",")):
        stories += _run(seed, list(ARMS) if options.all else list(STORIES), options.out)
    console.print(_table(stories))
    if options.all:
        (options.out / "table.md").write_text(markdown_table(stories), encoding="utf-8")
    else:
        _show(stories, options.out)
    return _judge(stories)


def _run(seed: int, arms: Sequence[str], out: Path) -> list[Story]:
    started = time.perf_counter()
    console.print(f"seed {seed}: training the base from scratch ...")
    base = train_base(seed)
    console.print(f"  {time.perf_counter() - started:.0f} s")
    stories = []
    for arm in arms:
        console.print(f"seed {seed}: fine-tuning on [bold]{arm}[/bold] with the guard watching ...")
        story = tell(base, arm, seed, out / f"{arm}-{seed}", action="stop" if arm == "trap" else "warn")
        guarding = sum(e.seconds.get("total", 0) for e in story.evaluations)
        console.print(f"  {story.seconds:.0f} s, {guarding:.0f} of them guarding; stopped at step {story.steps}")
        for alert in story.alerts:
            console.print(alert.text(), style="red" if alert.severity == "alarm" else "yellow", highlight=False)
        stories.append(story)
    return stories


def _table(stories: Sequence[Story]) -> Table:
    table = Table(title="before -> after, held-out problems")
    for column in ("arm", "accuracy ood", *COLUMNS.values(), "the guard"):
        table.add_column(column, justify="left" if column in ("arm", "the guard") else "right")
    for story in stories:
        table.add_row(*_cells(story))
    return table


def _cells(story: Story) -> list[str]:
    first, last = story.evaluations[0], story.evaluations[-1]

    def moved(name: str, set: str) -> str:
        return f"{first.mean(name, set):.2f} -> {last.mean(name, set):.2f}"

    return [f"{story.arm} ({story.seed})", moved("accuracy", "ood"), *(moved(n, "id") for n in COLUMNS), said(story)]


def said(story: Story) -> str:
    """The guard's alerts of one story in a few words."""
    words = [f"{alert.severity} {alert.rule}, step {alert.told}" for alert in story.alerts]
    return "; ".join(words) or "silent"


def markdown_table(stories: Sequence[Story]) -> str:
    """One line an arm: the measures after fine-tuning, seeds parted by slashes, and what the guard said.

    Args:
        stories: Any arms and seeds.

    Returns:
        A Markdown table; its first line is the model before fine-tuning.
    """
    names = {"accuracy out of distribution": ("accuracy", "ood"), **{v: (k, "id") for k, v in COLUMNS.items()}}
    lines = ["| arm | " + " | ".join([*names, "the guard"]) + " |", "|---" * (len(names) + 2) + "|"]
    arms: dict[str, list[Story]] = {}
    for story in stories:
        arms.setdefault(story.arm, []).append(story)
    first = next(iter(arms.values()))
    before = [_means([s.evaluations[0].mean(*where) for s in first]) for where in names.values()]
    lines.append("| *before* | " + " | ".join(before) + " | |")
    for arm, each in arms.items():
        cells = [_means([s.evaluations[-1].mean(*where) for s in each]) for where in names.values()]
        mark = "**" if arm in BROKEN else ""
        lines.append(f"| {mark}{arm}{mark} | " + " | ".join(cells) + f" | {' / '.join(said(s) for s in each)} |")
    return "\n".join(lines) + "\n"


def _means(values: Sequence[float]) -> str:
    return "/".join("–" if value != value else f"{value:.2f}" for value in values)


def _show(stories: Sequence[Story], out: Path) -> None:
    runs = [load_run(story.directory, name=story.arm, description=STORIES[story.arm]) for story in stories]
    page = write_report(out / "report.html", runs, title="Arithmetic modulo 11: two ways to fine-tune")
    shares = [sum(e.seconds.get("total", 0) for e in s.evaluations) / s.seconds for s in stories]
    console.print(f"The guard took {statistics.mean(shares):.0%} of the wall time (11 evaluations in 150 tiny steps).")
    console.print(f"The two stories side by side: {page}")
    console.print(f"TensorBoard: tensorboard --logdir {out}")


def _judge(stories: Sequence[Story]) -> int:
    wrong = [s for s in stories if s.alarmed != (s.arm in BROKEN)]
    for story in wrong:
        console.print(
            f"NOT AS IT SHOULD BE: {story.arm} (seed {story.seed}) {'alarmed' if story.alarmed else 'did not alarm'}",
            style="bold red",
        )
    if not wrong:
        console.print(
            "The guard said what it should: an alarm on every broken arm, none on a sound one.", style="green"
        )
    return 1 if wrong else 0


def _quiet() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    logging.getLogger("reasoning_guard").setLevel(logging.ERROR)
    logging.getLogger("reasoning_guard_transformers").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
