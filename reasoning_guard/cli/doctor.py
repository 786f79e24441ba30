"""``doctor``: whether a model, its tokenizer and a format work together, before a run rests on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from reasoning_guard.cells import content_of
from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import BROKEN, Terminal, load, terminal

if TYPE_CHECKING:
    from reasoning_guard.offline import Advice, Checkup

_LONGEST = 300


def doctor(
    model: options.Model,
    problems: options.Problems,
    format: options.Format = None,
    sample: Annotated[int, typer.Option(min=2, help="How many problems the model answers.")] = 8,
    max_new_tokens: options.MaxNewTokens = 512,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Examine a model before a run: one problem step by step, how it is scored, what it will cost, what to fix.

    Exit code 1 if something must be fixed first.
    """
    with terminal(as_json) as say:
        from reasoning_guard.format_file import read_format
        from reasoning_guard.offline import advise, examine, format_of_model
        from reasoning_guard.problems import load_problems

        chosen = None if format is None else read_format(format)
        read_by, tokenizer = load(say, model, device, dtype)
        source = "as asked for"
        if chosen is None:
            shown = say.err.is_terminal
            chosen, read_off = format_of_model(
                read_by, tokenizer, problems, max_new_tokens=max_new_tokens, progress=shown
            )
            source = f"read off {read_off}"
        loaded = load_problems(problems, format=chosen)
        say.err.print(f"{min(sample, len(loaded))} problems: writing, scoring, altering ...")
        found = examine(
            read_by,
            tokenizer,
            loaded,
            format=chosen,
            max_new_tokens=max_new_tokens,
            sample=sample,
            progress=say.err.is_terminal,
        )
        advice = advise(found)
        code = BROKEN if any(each.level == "problem" for each in advice) else 0
        _show_facts(say, found, source)
        _show_trace(say, found)
        _show_cost(say, found)
        _show_advice(say, advice)
        say.result({"exit_code": code, **_plain(found, advice)})
    raise typer.Exit(code)


def _show_facts(say: Terminal, c: Checkup, source: str) -> None:
    m = c.model
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    kind = f"{m.name}{' with an adapter' if m.adapter else ''}, {m.parameters / 1e6:,.1f} M parameters"
    facts.add_row("model", f"{kind}, {m.dtype} on {m.device}, context {f'{m.context:,}' if m.context else 'unlimited'}")
    facts.add_row("tokenizer", f"{m.vocabulary:,} tokens, {'a' if m.chat_template else 'no'} chat template")
    facts.add_row(
        "problems", f"{c.n_problems} in {escape(', '.join(c.sets))}; longest prompt {c.longest_prompt:,} tokens"
    )
    facts.add_row("format", f"{escape(c.format.name)}, {source}; asks {escape(repr(c.asked))}")
    reads = ", ".join(f"{name} {share:.0%}" for name, share in c.presets.items())
    facts.add_row("presets", f"read an answer in: {reads}")
    facts.add_row(
        "the cue", f"brings the model to its own answer in {c.agreeing} of {c.asked_of} traces that state one"
    )
    seams = f"{c.seams.trunk_broken:.0%} inside a token, {c.seams.cue_merged:.0%} with other tokens in running text"
    facts.add_row("cuts", f"{c.seams.n} looked at: {seams}")
    facts.add_row("scoring", f"{c.path.path}: {escape(c.path.reason)}")
    say.out.print(facts)


def _show_trace(say: Terminal, c: Checkup) -> None:
    trace = c.traces[c.shown]
    prompt = trace.problem.prompt
    prompt = prompt if isinstance(prompt, str) else content_of(prompt[-1]["content"])
    say.out.print(f"\n[bold]Problem {escape(trace.problem.id)}, step by step[/]")
    say.out.print(escape(_short(prompt)), style="dim")
    steps = Table(box=None, pad_edge=False)
    for name, justify in (
        ("step", "right"),
        ("nats/token", "right"),
        ("gain", "right"),
        ("knows", "left"),
        ("", "left"),
    ):
        steps.add_column(name, justify=justify, no_wrap=name != "")  # type: ignore[arg-type]
    levels = [] if c.curve is None else [each / c.curve.n_tokens for each in c.curve.logprobs]
    for k in range(trace.n_steps + 1):
        text = "(nothing written yet)" if k == 0 else _short(trace.steps[k - 1].strip())
        level = f"{levels[k]:z.2f}" if levels else ""
        gain = f"{levels[k] - levels[k - 1]:+z.2f}" if levels and k else ""
        knows = "yes" if c.curve is not None and c.curve.greedy[k] else ""
        steps.add_row(str(k), level, gain, knows, escape(text))
    say.out.print(steps)
    answer, reference = escape(str(trace.answer)), escape(str(trace.problem.answer))
    say.out.print(f"answer {answer}, reference {reference}: {'right' if trace.correct else 'not right'}")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _show_cost(say: Terminal, c: Checkup) -> None:
    from reasoning_guard.report.numbers import seconds

    cost = c.cost()
    parts = ", ".join(f"{name} {seconds(value)}" for name, value in cost.items())
    say.out.print(
        f"\n[bold]An evaluation of {c.n_problems} problems[/] takes at most {seconds(sum(cost.values()))} here:"
    )
    say.out.print(
        f"{parts}; large batches take less. A frozen reference scores once more ({seconds(cost['scoring'])})."
    )


def _show_advice(say: Terminal, advice: Sequence[Advice]) -> None:
    said = Table(box=None, show_header=False, pad_edge=False)
    said.add_column(no_wrap=True)
    said.add_column()
    for each in advice:
        said.add_row("[bold red]mend[/]" if each.level == "problem" else "[yellow]note[/]", escape(each.found))
        said.add_row("", f"[dim]{escape(each.do)}[/]")
    say.out.print()
    say.out.print(said)
    if not any(each.level == "problem" for each in advice):
        say.out.print("[green]Nothing to mend.[/]")


def _plain(c: Checkup, advice: Sequence[Advice]) -> dict[str, Any]:
    from dataclasses import asdict

    trace = c.traces[c.shown]
    return {
        "model": asdict(c.model),
        "format": c.format.to_dict(),
        "problems": {
            "n": c.n_problems,
            "sets": c.sets,
            "gradable": c.gradable,
            "chats": c.chats,
            "longest_prompt": c.longest_prompt,
        },
        "presets": c.presets,
        "cue": {"asks": c.asked, "agreeing": c.agreeing, "of": c.asked_of},
        "cuts": asdict(c.seams),
        "scoring": {
            "path": c.path.path,
            "shared": c.path.plan is not None,
            "reason": c.path.reason,
            "difference": c.path.difference,
        },
        "cost_seconds": c.cost(),
        "trace": {
            "id": trace.problem.id,
            "steps": trace.steps,
            "answer": trace.answer,
            "reference": trace.problem.answer,
            "curve": None if c.curve is None else asdict(c.curve),
        },
        "advice": [asdict(each) for each in advice],
    }
