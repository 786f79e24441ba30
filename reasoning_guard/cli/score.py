"""``score``: how much the steps of saved traces carry their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import load, terminal
from reasoning_guard.places import check_file


def score(
    traces: Annotated[
        Path,
        typer.Argument(help="Saved traces or chat logs, JSONL: a completion (or messages), and an id or prompt."),
    ],
    model: options.Model,
    problems: options.ProblemsBeside = None,
    format: options.Format = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where scores go. Default: TRACES.scores.jsonl.")
    ] = None,
    mistakes: Annotated[
        bool,
        typer.Option("--mistakes", help="Also alter a step and let the model go on. It must be the model that wrote."),
    ] = False,
    max_new_tokens: options.MaxNewTokens = 512,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Score saved traces: InfoGain, net gain, early answering and more, as one line for each trace and a table.

    You can stop it at any moment; the same command goes on where it was. For several GPUs: accelerate launch -m
    reasoning_guard score ...
    """
    path = out or traces.with_name(f"{traces.stem}.scores.jsonl")
    check_file(path, "`--out`")
    with terminal(as_json) as say:
        from reasoning_guard.cli.tables import summary_table
        from reasoning_guard.format_file import read_format
        from reasoning_guard.offline import load_saved_traces, score_traces
        from reasoning_guard.offline.scoring import check_scores, probes_with_mistakes, probes_without_writing
        from reasoning_guard.offline.summary import nested, summarise

        chosen = None if format is None else read_format(format)
        saved = load_saved_traces(traces, problems, format=chosen)
        probes = probes_with_mistakes() if mistakes else probes_without_writing()
        check_scores(path, saved, probes=probes, max_new_tokens=max_new_tokens)
        read_by, tokenizer = load(say, model, device, dtype)
        with say.bar(f"scoring {len(saved.traces)} traces in format {saved.format.name}") as progress:
            scored = score_traces(
                saved,
                read_by,
                tokenizer,
                probes=probes,
                out=path,
                max_new_tokens=max_new_tokens,
                progress=progress,
            )
        summaries = summarise(scored.rows)
        for set in scored.gated:
            say.note(f"accuracy on set {set!r} is at chance, so how far answers depend on the text is left out")
        say.out.print(summary_table(summaries, f"{len(scored.rows)} traces, read by {model}"))
        say.out.print(f"\nScores: {path}", soft_wrap=True, markup=False)
        say.result(
            {
                "scores": str(path),
                "traces": len(scored.rows),
                "format": saved.format.name,
                "gated": scored.gated,
                "values": nested(summaries),
            }
        )
