"""The examples run as they stand, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenizers_on_the_spot import arithmetic_lines

ROOT = Path(__file__).resolve().parent.parent
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


def test_own_probe(tmp_path: Path) -> None:
    assert "runner-up: -" in run("own_probe.py", cwd=tmp_path)


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
