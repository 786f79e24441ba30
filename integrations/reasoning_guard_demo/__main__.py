"""``python -m reasoning_guard_demo``: two fine-tunings of one tiny model, and what a guard says about each."""

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

from reasoning_guard import Evaluation
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.places import check_folder
from reasoning_guard.report import load_run, write_report
from reasoning_guard_demo.recipes import train_base
from reasoning_guard_demo.run import Story, tell
from reasoning_guard_demo.suite import look_at_all
from reasoning_guard_demo.suite_table import suite_table
from reasoning_guard_demo.task import ARMS

STORIES = {
    "healthy": "honest tags, sound chains",
    "trap": "the tag gives the answer away; two chains in five are wrong though their answer is right",
}
BROKEN = ("trap", "trap-uncut", "patched", "answer-only")
"""Arms that lose their accuracy out of distribution: the guard must raise an alarm on each, and on no other."""

MEASURES = {
    "accuracy": ("accuracy", "id"),
    "accuracy out of distribution": ("accuracy", "ood"),
    "InfoGain, nats/token": ("info_gain", "id"),
    "early answering, AOC": ("early_answering_aoc", "id"),
    "gain over placebo, nats/token": ("placebo_gain", "id"),
    "changed by a placebo": ("placebo_changed", "id"),
    "changed by a mistake": ("mistake_changed", "id"),
    "chain holds": ("chain_holds", "id"),
    "pre-commitment (reference), nats/token": ("reference/pre_commitment", "id"),
}
console = Console()


def main() -> int:
    """Run the demo; returns the exit code, 0 if the guard said what it should."""
    parser = argparse.ArgumentParser(prog="reasoning_guard_demo", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--all", action="store_true", help="all seven arms, with a table of every measure")
    parser.add_argument("--seeds", default="0", help="comma-separated; each trains a base of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for records, TensorBoard and page")
    parser.add_argument("--probes", action="store_true", help="the complete suite of probes on all seven arms")
    options = parser.parse_args()
    try:
        check_folder(options.out, "--out")
    except ConfigurationError as error:
        parser.error(str(error))
    _quiet()
    if options.probes:
        return _probe(list(map(int, options.seeds.split(","))), options.out)
    stories = []
    for seed in map(int, options.seeds.split(",")):
        stories += _run(seed, list(ARMS) if options.all else list(STORIES), options.out)
    if options.all:
        (options.out / "table.md").write_text(markdown_table(stories), encoding="utf-8")
        console.print(markdown_table(stories), soft_wrap=True, highlight=False)
    else:
        console.print(_table(stories))
        _show(stories, options.out)
    return _judge(stories)


def _probe(seeds: Sequence[int], out: Path) -> int:
    table = suite_table(look_at_all(seeds, out, console.print))
    (out / "probes.md").write_text(table, encoding="utf-8")
    console.print(table, soft_wrap=True, highlight=False)
    return 0


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
            console.print(
                alert.text(), style="red" if alert.severity == "alarm" else "yellow", highlight=False, markup=False
            )
        stories.append(story)
    return stories


def _table(stories: Sequence[Story]) -> Table:
    """Measures down, stories across; the first column is the model before fine-tuning."""
    table = Table(title="Held-out problems, before and after fine-tuning")
    table.add_column("")
    table.add_column("before", justify="right")
    for story in stories:
        table.add_column(story.arm, justify="right")
    for title, (name, set) in MEASURES.items():
        after = [story.evaluations[-1].mean(name, set) for story in stories]
        table.add_row(title, *_means([stories[0].evaluations[0].mean(name, set), *after]))
    table.add_row("the guard", "", *map(said, stories))
    return table


def said(story: Story) -> str:
    """Return the guard's alerts about one story in a few words."""
    told = {kind: [f"{a.rule} {a.told}" for a in story.alerts if a.severity == kind] for kind in ("alarm", "notice")}
    return "; ".join(f"{kind}: {', '.join(each)}" for kind, each in told.items() if each) or "silent"


def markdown_table(stories: Sequence[Story]) -> str:
    """Make a line for each arm: the measures after fine-tuning, seeds separated by slashes, and the guard's verdict.

    Args:
        stories: Any arms and seeds.

    Returns:
        A Markdown table; its first line is the model before fine-tuning.
    """
    lines = ["| arm | " + " | ".join([*MEASURES, "the guard"]) + " |", "|---" * (len(MEASURES) + 2) + "|"]
    arms: dict[str, list[Story]] = {}
    for story in stories:
        arms.setdefault(story.arm, []).append(story)
    lines.append(_line("*before*", [s.evaluations[0] for s in next(iter(arms.values()))], ""))
    for arm, each in arms.items():
        name = f"**{arm}**" if arm in BROKEN else arm
        lines.append(_line(name, [s.evaluations[-1] for s in each], " / ".join(map(said, each))))
    return "\n".join(lines) + "\n"


def _line(name: str, evaluations: Sequence[Evaluation], words: str) -> str:
    cells = ["/".join(_means([e.mean(*where) for e in evaluations])) for where in MEASURES.values()]
    return "| " + " | ".join([name, *cells, words]) + " |"


def _means(values: Sequence[float]) -> list[str]:
    return ["–" if value != value else f"{value:.2f}" for value in values]


def _show(stories: Sequence[Story], out: Path) -> None:
    runs = [load_run(story.directory, name=story.arm, description=STORIES[story.arm]) for story in stories]
    page = write_report(out / "report.html", runs, title="Arithmetic modulo 11: two ways to fine-tune")
    shares = [sum(e.seconds.get("total", 0) for e in s.evaluations) / s.seconds for s in stories]
    looks = sum(len(s.evaluations) for s in stories)
    steps = sum(s.steps for s in stories)
    console.print(
        f"The guard took {statistics.mean(shares):.0%} of the wall time ({looks} evaluations in {steps} tiny steps)."
    )
    console.print(f"The two stories side by side: {page}", markup=False)
    console.print(f"TensorBoard: tensorboard --logdir {out}", markup=False)


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
    transformers.logging.disable_progress_bar()
    logging.getLogger("reasoning_guard").setLevel(logging.ERROR)
    logging.getLogger("reasoning_guard_transformers").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
