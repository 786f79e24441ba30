"""``curate``: keep the training traces whose reasoning carries their answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import Terminal, load, terminal
from reasoning_guard.places import check_folder

if TYPE_CHECKING:
    from reasoning_guard.offline import Choice


def curate(
    traces: Annotated[Path, typer.Argument(help="Training traces, JSONL: a completion, and a prompt or an id.")],
    model: options.Model,
    problems: options.ProblemsBeside = None,
    format: options.Format = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for kept, rejected and scores.")
    ] = Path("curated"),
    least: Annotated[
        float,
        typer.Option(min=0.0, metavar="NATS", help="The least each link must carry, in nats per answer token."),
    ] = 0.1,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Keep the traces whose reasoning carries a right answer. Let the model read that you are going to train.

    A trace is kept if its steps make the answer likelier, more so than another trace's steps would, and before the
    answer is stated. kept.jsonl holds the kept lines as they came, best first; rejected.jsonl says why the others are
    not there.
    """
    check_folder(out, "`--out`")
    with terminal(as_json) as say:
        from reasoning_guard.format_file import read_format
        from reasoning_guard.offline import curate as choose
        from reasoning_guard.offline import load_saved_traces, score_traces, write_curated
        from reasoning_guard.offline.scoring import check_scores

        chosen = None if format is None else read_format(format)
        saved = load_saved_traces(traces, problems, format=chosen)
        check_scores(out / "scores.jsonl", saved)
        read_by, tokenizer = load(say, model, device, dtype)
        with say.bar(f"scoring {len(saved.traces)} traces in format {saved.format.name}") as progress:
            scored = score_traces(saved, read_by, tokenizer, out=out / "scores.jsonl", progress=progress)
        choices = choose(scored.rows, least=least)
        if say.speaks:
            write_curated(out, [trace.record for trace in saved.traces], choices)
        _show(say, choices, out)


def _show(say: Terminal, choices: Sequence[Choice], out: Path) -> None:
    from rich.table import Table

    kept = sum(choice.kept for choice in choices)
    why = dict(Counter(reason for choice in choices for reason in choice.why).most_common())
    table = Table(title=f"{kept} of {len(choices)} traces kept", title_justify="left", box=None, pad_edge=False)
    table.add_column("why others are not (a trace may have several reasons)")
    table.add_column("traces", justify="right")
    for reason, count in why.items():
        table.add_row(escape(reason), str(count))
    say.out.print(table)
    files = {name: str(out / f"{name}.jsonl") for name in ("kept", "rejected", "scores")}
    say.out.print(f"\nKept, best first: {files['kept']}\nRejected: {files['rejected']}", soft_wrap=True, markup=False)
    say.result({"kept": kept, "rejected": len(choices) - kept, "why": why, "files": files})
