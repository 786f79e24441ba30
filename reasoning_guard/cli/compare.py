"""``compare``: two models on the same problems, paired; a gate for releases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reasoning_guard.cli import options
from reasoning_guard.cli.terminal import BROKEN, NOT_JUDGED, Terminal, load, terminal
from reasoning_guard.errors import ConfigurationError
from reasoning_guard.places import check_folder

if TYPE_CHECKING:
    from reasoning_guard.offline import ModelComparison


def compare(
    base: Annotated[str, typer.Argument(help="The model before: folder or hub name.")],
    tuned: Annotated[str, typer.Argument(help="The model after, with the same tokenizer, or a PEFT adapter.")],
    problems: options.Problems,
    format: options.Format = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the records and report.html.")
    ] = Path("comparison"),
    effects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Smallest changes that matter, made by calibrate.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let notices break the gate too, not only alarms.")] = False,
    max_new_tokens: options.MaxNewTokens = 512,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
) -> None:
    """Compare two models on held-out problems, paired, and judge the second by the rules of a guard.

    Exit code 0: no alarm. 1: a rule is broken, so that a release script stops. 3: there was too little to judge by,
    such as answers of the base that are no better than chance.
    """
    check_folder(out, "`--out`")
    with terminal(as_json) as say:
        from reasoning_guard.format_file import read_format
        from reasoning_guard.offline import compare_models, format_of_model, load_effects
        from reasoning_guard.report import load_run, write_report

        matter = None if effects is None else load_effects(effects)
        chosen = None if format is None else read_format(format)
        before, tokenizer = load(say, base, device, dtype)
        after, other = load(say, tuned, device, dtype)
        if tokenizer.get_vocab() != other.get_vocab():
            raise ConfigurationError(
                f"{base} and {tuned} have different vocabularies, so nats per token do not compare; give two "
                "checkpoints of one family"
            )
        if chosen is None:
            shown = say.err.is_terminal
            chosen, source = format_of_model(before, other, problems, max_new_tokens=max_new_tokens, progress=shown)
            say.note(f"format {chosen.name!r}, read off {source}; --format names another")
        say.err.print("both models answer, first base, then tuned; then the answers are scored ...")
        found = compare_models(
            before,
            after,
            other,
            problems,
            format=chosen,
            effects=matter,
            max_new_tokens=max_new_tokens,
            directory=out / "reasoning_guard",
            progress=say.err.is_terminal,
        )
        code, page = _code(found, strict), out / "report.html"
        if say.speaks:
            run = load_run(out, name=Path(tuned).name, description=f"Step 0 is {base}, step 1 is {tuned}.")
            write_report(page, [run], title="Two models, one set of problems")
        _show(say, found, code, page)
        say.result({"exit_code": code, "report": str(page), **_plain(found)})
    raise typer.Exit(code)


def _code(found: ModelComparison, strict: bool) -> int:
    if found.alarms or (strict and found.alerts):
        return BROKEN
    return 0 if found.judged else NOT_JUDGED


def _show(say: Terminal, found: ModelComparison, code: int, page: Path) -> None:
    from reasoning_guard.cli.tables import alert_text, change_table

    say.out.print(change_table(found.changes(), f"{len(found.base.rows)} problems, paired"))
    say.out.print()
    for alert in found.alerts:
        say.out.print(escape(alert_text(alert, say.out.width)), style="red" if alert.severity == "alarm" else "yellow")
        say.out.print()
    say.out.print(_sentence(found, code))
    say.out.print(f"Report: {page}", soft_wrap=True, markup=False)


def _sentence(found: ModelComparison, code: int) -> str:
    if code == NOT_JUDGED:
        return "[yellow]Not judged: no alarm had the data it needs.[/]"
    broken = ", ".join(dict.fromkeys(alert.rule for alert in found.alerts))
    if code == BROKEN:
        return f"[bold red]Broken: {broken}.[/]"
    return f"[green]No alarm{f' (notices: {broken})' if broken else ''}.[/]"


def _plain(found: ModelComparison) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "judged": found.judged,
        "alerts": [alert.to_dict() for alert in found.alerts],
        "resting": dict(found.resting),
        "changes": [asdict(change) for change in found.changes()],
    }
