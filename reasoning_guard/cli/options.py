"""Arguments that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FORMATS = "think, gsm8k, boxed, plain, choice, or a .json file with the fields of a TraceFormat"

Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help="The reader: folder or hub name, or a PEFT adapter."),
]
Problems = Annotated[
    Path,
    typer.Option("--problems", "-p", metavar="FILE", help="Held-out problems, JSONL: prompt or question, and answer."),
]
ProblemsBeside = Annotated[
    Path | None,
    typer.Option(
        "--problems",
        "-p",
        metavar="FILE",
        help="The problems that were answered, JSONL, found by id or prompt. Default: the traces hold them.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", metavar="NAME", help=f"How an answer is written: {FORMATS}. Default: from the data."
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="Longest trace that is written, in tokens.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="E.g. cpu or cuda:1. Default: the accelerator.")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help="auto (as saved), float32, bfloat16 or float16.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
