"""``calibrate``: thresholds from healthy runs of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import terminal
from reasoning_guard.places import check_file


def calibrate(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of healthy runs that had a guard.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")] = Path("effects.json"),
    as_json: options.Json = False,
) -> None:
    """Learn from healthy runs how far a harmless change goes, and widen the thresholds to that. Never narrow them.

    Give the result to compare --effects, or to Guard(effects=load_effects("effects.json")).
    """
    check_file(out, "`--out`")
    with terminal(as_json) as say:
        from dataclasses import asdict

        from rich.table import Table

        from reasoning_guard.alerts import unit
        from reasoning_guard.offline import calibrate_on_runs, save_effects
        from reasoning_guard.report import load_run
        from reasoning_guard.report.run import distinct_names
        from reasoning_guard.rules import EFFECTS

        with say.doing(f"reading {len(runs)} run(s)"):
            read = [load_run(run, name=name) for run, name in zip(runs, distinct_names(runs), strict=True)]
            effects = calibrate_on_runs([list(run.evaluations) for run in read])
        save_effects(out, effects)
        widened = {name: effect for name, effect in effects.items() if effect != EFFECTS.get(name)}
        for name, rules in {run.name: [a.rule for a in run.alerts if a.severity == "alarm"] for run in read}.items():
            if rules:
                say.note(f"{name} raised an alarm ({', '.join(rules)}): what it lost counts as harmless from now on")
        for name in (name for name, effect in widened.items() if unit(name) == "share" and effect.absolute >= 1):
            say.note(f"no change of {name} matters any more: a share can't move by {widened[name].absolute:.3g}")
        table = Table(title="Smallest change that matters", title_justify="left", box=None, pad_edge=False)
        for i, column in enumerate(("value", "share of baseline", "at least, before", "at least, now")):
            table.add_column(column, justify="right" if i else "left")
        for name, effect in effects.items():
            before = f"{EFFECTS[name].absolute:g}" if name in EFFECTS else "0"
            now = f"{effect.absolute:.3g}" if name in widened else ""
            table.add_row(escape(name), f"{effect.relative:.0%}", before, now, style="bold" if name in widened else "")
        say.out.print(table)
        say.out.print(f"\n{len(widened)} widened. Effects: {out}", soft_wrap=True, markup=False)
        says = {name: asdict(effect) for name, effect in effects.items()}
        say.result({"effects_file": str(out), "widened": list(widened), "effects": says})
