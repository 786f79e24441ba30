"""The examples run as they stand, are short, and the README shows what each of them adds to a script."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from documents import PAGES, blocks
from reasoning_guard import Guard
from tokenizers_on_the_spot import arithmetic_lines

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
GSM8K = Path(os.environ.get("REASONING_GUARD_GSM8K", ROOT.parent / "shared" / "data" / "gsm8k"))


def run(name: str, *arguments: str, cwd: Path) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True, text=True, timeout=170, cwd=cwd, env={**os.environ, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sums(n: int, start: int) -> list[dict[str, str]]:
    """Worked sums in GSM8K's layout."""
    pairs = [(i * 7 % 50, i * 13 % 40) for i in range(start, start + n)]
    texts = arithmetic_lines(n)
    return [
        {
            "question": f"{text} Ann has {a} pens and buys {b}. How many has she?",
            "answer": f"Ann has {a} pens.\n{a} + {b} = <<{a}+{b}={a + b}>>{a + b} pens.\n#### {a + b}",
        }
        for (a, b), text in zip(pairs, texts, strict=False)
    ]


SAYS = {
    "own_probe": (["runner-up: -"], []),
    "plain_loop": (["0 {'guard/answered': "], ["4"]),
    "lightning_module": (["accuracy 0.", "best checkpoint: runs/lightning_module/"], ["4"]),
    "ood_sets": (["step    0  accuracy 0.00 at home, 0.00 elsewhere", "step    4", "no alert"], ["4"]),
    "peft_lora": (["frozen reader: the base model, adapter off", "step    4  InfoGain to itself"], ["4"]),
}


@pytest.mark.parametrize("name", SAYS)
def test_it_runs_by_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded the frameworks already."""
    said = run_here(name, *SAYS[name][1], cwd=tmp_path, patch=monkeypatch, capsys=capsys)
    assert all(words in said for words in SAYS[name][0])


def run_here(
    name: str, *arguments: str, cwd: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    patch.chdir(cwd)
    patch.setattr(sys, "argv", [name, *arguments])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_resume_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [run_here("resume", steps, cwd=tmp_path, patch=monkeypatch, capsys=capsys) for steps in ("4", "8")]
    assert "went on from 0; evaluations at [0, 1, 2, 3, 4]" in found[0]
    assert "went on from 4; evaluations at [0, 1, 2, 3, 4, 6, 8]" in found[1]


def test_resume_goes_on_after_a_kill_and_asks_for_more_steps_than_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    def step(guard: Guard, model: Any, at: int, **options: Any) -> Any:
        if at == 13:
            raise Killed
        return whole(guard, model, at, **options)

    whole = Guard.step
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "step", step)
        with pytest.raises(Killed):
            run_here("resume", "14", cwd=tmp_path, patch=patch, capsys=capsys)
    torn = tmp_path / "runs" / "resume" / "unfinished"  # the next save was under way
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"torn")
    said = run_here("resume", "14", cwd=tmp_path, patch=monkeypatch, capsys=capsys)
    assert "went on from 10; evaluations at [0, 3, 6, 9, 12, 14]" in said
    with pytest.raises(SystemExit, match="14 steps already"):
        run_here("resume", "8", cwd=tmp_path, patch=monkeypatch, capsys=capsys)


# ---------------------------------------------------------------------------------------------------- what they show


def guard_lines(source: str) -> list[str]:
    """The lines that a script has because of this package: imports from it, and statements that use what they name.

    What a guard's own calls return counts as well; printing does not.
    """
    tree = ast.parse(source)
    known: set[str] = set()
    found: dict[int, str] = {}
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reasoning_guard"):
            known |= (
                {alias.asname or alias.name for alias in node.names} if "_demo" not in (node.module or "") else set()
            )
        shown = _header(node)
        if not _names(shown) & known or _prints(node):
            continue
        found |= {number: source.splitlines()[number - 1].strip() for number in _lines(node)}
        if isinstance(node, ast.Assign) and _root(node.value) in known:
            known |= _names(ast.Module([ast.Expr(target) for target in node.targets], []))
        if isinstance(node, ast.ClassDef):
            known.add(node.name)
    return [found[number] for number in sorted(found) if found[number]]


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """All statements in the order of the text; those of a class that is ours come with it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            yield node
        yield from _statements(node)


def _header(node: ast.stmt) -> ast.AST:
    """What a statement says by itself, without the statements within it."""
    if isinstance(node, ast.ClassDef):
        return ast.Tuple(node.bases)
    inner = {"body", "orelse", "finalbody", "handlers"}
    if not hasattr(node, "body"):
        return node
    parts = [value for field, value in ast.iter_fields(node) if field not in inner and isinstance(value, ast.expr)]
    return ast.Tuple(parts)


def _lines(node: ast.stmt) -> range:
    whole = isinstance(node, ast.ClassDef) or not hasattr(node, "body")
    end = node.end_lineno if whole else node.body[0].lineno - 1  # type: ignore[attr-defined]
    return range(node.lineno, max(node.lineno, end or 0) + 1)


def _names(node: ast.AST) -> set[str]:
    aliases = {alias.asname or alias.name for n in ast.walk(node) if isinstance(n, ast.ImportFrom) for alias in n.names}
    return aliases | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _root(node: ast.AST) -> str | None:
    """The name with which an expression like ``guard.step(model)`` begins."""
    while isinstance(node, (ast.Call, ast.Attribute, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _prints(node: ast.stmt) -> bool:
    """Whether a statement only prints, or leads to nothing but printing."""
    inner: list[ast.stmt] = [] if isinstance(node, ast.ClassDef) else getattr(node, "body", [])
    if not inner:
        return isinstance(node, ast.Expr) and _root(node.value) == "print"
    return _prints(inner[-1]) and all(isinstance(each, ast.Assign) or _prints(each) for each in inner)


def shown_for(name: str) -> list[str]:
    """Lines of the code block that follows the README's link to the example in "In your own script"."""
    section = README.partition("\n## In your own script\n")[2].partition("\n## ")[0]
    block = re.search(rf"\(examples/{name}\).*?```py\n(.*?)```", section, re.DOTALL)
    assert block, f'the README\'s section "In your own script" shows no code for examples/{name}'
    return [line.strip() for line in block[1].splitlines() if line.strip()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_readme_shows_what_an_example_adds(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    shown, added = shown_for(path.name), guard_lines(source)
    assert added
    assert [line for line in added if line not in shown] == [], "lines of the example that the README lacks"
    written = [line.strip() for line in source.splitlines()]
    assert [line for line in shown if line not in (*written, "...")] == [], "lines that the example has not"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_lines_that_are_shown_and_not_run_belong_to_an_example() -> None:
    assert sum(len(blocks(page, "py")) for page in PAGES) == len(EXAMPLES)


def test_guard_lines_are_told_from_the_rest() -> None:
    source = """import torch
from reasoning_guard import Guard
from reasoning_guard_demo.task import problems

guard = Guard(
    problems, tokenizer,
)
trainer = Trainer(callbacks=[guard])
for step in range(9):
    made = guard.step(model, step)
    if made is not None:
        print(made)
    loss = model(step)
trainer.train()
"""
    expected = [1, 4, 5, 6, 7, 9]
    assert guard_lines(source) == [source.splitlines()[i].strip() for i in expected]


def test_sft_with_guard_on_worked_sums(tmp_path: Path) -> None:
    data, held_out = write(tmp_path / "train.jsonl", sums(64, 0)), write(tmp_path / "test.jsonl", sums(16, 500))
    said = run(
        "sft_with_guard.py", "--data", str(data), "--held-out", str(held_out), "--problems", "16", "--steps", "2",
        "--max-new-tokens", "16", cwd=tmp_path,
    )  # fmt: skip
    assert [line.split()[1] for line in said.splitlines() if line.startswith("step")] == ["0", "1", "2"]
    records = tmp_path / "runs" / "sft_with_guard" / "reasoning_guard" / "evaluations.jsonl"
    assert len(records.read_text().splitlines()) == 3


@pytest.mark.skipif(
    not (GSM8K / "train.jsonl").is_file(),
    reason="no GSM8K here; set REASONING_GUARD_GSM8K to the folder that holds train.jsonl",
)
def test_sft_with_guard_on_gsm8k(tmp_path: Path) -> None:
    said = run(
        "sft_with_guard.py", "--data", str(GSM8K / "train.jsonl"), "--problems", "16", "--steps", "1",
        "--max-new-tokens", "16", cwd=tmp_path,
    )  # fmt: skip
    assert "step    1" in said


def test_grpo_info_gain(tmp_path: Path) -> None:
    said = run("grpo_info_gain.py", "--try-out", cwd=tmp_path)
    assert [line.split("  ")[0] for line in said.splitlines()][-3:-1] == ["start", "correctness, tokens cost"]
    assert said.splitlines()[-1].startswith("the same and InfoGain")
