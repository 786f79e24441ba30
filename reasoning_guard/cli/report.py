"""``report``: one HTML page about one run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import terminal
from reasoning_guard.places import check_file


def report(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of runs that had a guard (or its own folder).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The page. Default: report.html in the first folder."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Reasoning guard",
    as_json: options.Json = False,
) -> None:
    """Write a report about runs from the records that their guard kept: one HTML file that needs nothing else."""
    if out is not None:
        check_file(out, "`--out`")
    with terminal(as_json) as say:
        from reasoning_guard.report import load_run, write_report
        from reasoning_guard.report.run import distinct_names
        from reasoning_guard.report.series import timeline
        from reasoning_guard.report.verdict import verdict

        named = zip(runs, distinct_names(runs), strict=True)
        loaded = [load_run(run, name=name) for run, name in named]
        with say.doing("writing the report"):
            page = write_report(out or runs[0] / "report.html", loaded, title=title)
            verdicts = {
                run.name: verdict(timeline(run.evaluations), run.alerts, run.settings.get("rules", ()))
                for run in loaded
            }
        for name, told in verdicts.items():
            style = {"alarm": "red", "notice": "yellow"}.get(told.state, "")
            say.out.print(f"[bold]{escape(name)}[/]: {escape(told.sentence)}", style=style)
        say.out.print(f"\nReport: {page}", soft_wrap=True, markup=False)
        says = [{"name": name, "state": told.state, "verdict": told.sentence} for name, told in verdicts.items()]
        say.result({"report": str(page), "runs": says})
