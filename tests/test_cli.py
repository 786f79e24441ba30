"""The command line as its users meet it: processes, exit codes, files, and what stands on the screen."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

import two_checkpoints
from in_fork import in_fork
from reasoning_guard.cli import app as cli
from reasoning_guard.cli.app import app, main
from reasoning_guard.cli.doctor import _show_trace
from reasoning_guard.cli.tables import summary_table
from reasoning_guard.cli.terminal import Terminal
from reasoning_guard.evaluation import Row
from reasoning_guard.offline.summary import summarise
from reasoning_guard.problems import Problem

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("demo", "doctor", "score", "compare", "curate", "report", "calibrate")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
    "COLUMNS": "80",
    "HF_HUB_OFFLINE": "1",
}
PYTHON = [sys.executable, "-m", "reasoning_guard"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, their problems and traces; what a test writes it names itself."""
    return two_checkpoints.save_all(tmp_path_factory.mktemp("cli"))


def run(*arguments: str, cwd: Path, launcher: list[str] = PYTHON) -> subprocess.CompletedProcess[str]:
    command = [*launcher, *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=170, check=False)


def quick(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a fork of this process, which need not import everything again."""
    done = in_fork(main, arguments, cwd)
    return subprocess.CompletedProcess(arguments, done.code, done.out, done.err)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def result(done: subprocess.CompletedProcess[str], code: int = 0) -> dict:
    """What ``--json`` printed: standard output is that and nothing else."""
    assert done.returncode == code, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_help_names_every_command_and_does_not_wait_for_torch(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(f"│ {name} " in done.stdout for name in COMMANDS)
    code = "import sys; import reasoning_guard.cli.app; print(*{'torch', 'transformers', 'scipy'} & set(sys.modules))"
    light = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert light.stdout.strip() == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_fits_the_screen(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert "--json" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_eats_no_brackets() -> None:
    done = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "80"})
    assert "'reasoning-guard[demo]'" in " ".join(done.stdout.split())


def test_score_writes_a_line_a_trace_and_a_table(folder: Path) -> None:
    done = quick("score", "traces.jsonl", "-m", "base", "-p", "held_out.jsonl", "-o", "whole.jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "InfoGain, nats" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = [json.loads(line) for line in (folder / "whole.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == list(range(2 * two_checkpoints.N_PROBLEMS))
    right = [row["values"]["accuracy"] for row in rows]
    assert right == [1.0, 0.0] * two_checkpoints.N_PROBLEMS
    # The right chain tells the right answer, the wrong one tells another.
    assert all(a["values"]["info_gain"] > b["values"]["info_gain"] for a, b in zip(rows[::2], rows[1::2], strict=True))


def test_a_mean_of_one_problem_has_no_interval_to_show() -> None:
    table = summary_table(summarise([Row(id="a", values={"info_gain": 2.26, "accuracy": 1.0})]), "one")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    [gain] = [line for line in console.export_text().splitlines() if line.startswith("InfoGain")]
    assert gain.split() == ["InfoGain,", "nats", "2.26", "1"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_scoring_goes_on_where_it_was_and_two_processes_equal_one(folder: Path) -> None:
    arguments = ["score", "long.jsonl", "-m", "base", "-p", "held_out.jsonl", "--json"]
    (folder / "long.jsonl").write_text((folder / "traces.jsonl").read_text() * 4)
    one = result(quick(*arguments, "-o", "one.jsonl", cwd=folder))
    killed = subprocess.Popen([*PYTHON, *arguments, "-o", "killed.jsonl"], cwd=folder, env=ENVIRONMENT)
    part = folder / "killed.jsonl.part-0"
    while not (part.exists() and part.stat().st_size):
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = part.read_bytes().count(b"\n")
    assert 0 < done < one["traces"]
    with part.open("ab") as file:
        file.write(b'{"line": 191, "torn')
    before = part.stat().st_mtime_ns
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"),
        *(
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            str(free_port()),
            "-m",
            "reasoning_guard",
        ),
    ]
    again = result(run(*arguments, "-o", "killed.jsonl", cwd=folder, launcher=launch))
    assert not list(folder.glob("killed.jsonl.part-*"))
    assert {**again, "scores": ""} == {**one, "scores": ""}
    assert (folder / "killed.jsonl").read_bytes() == (folder / "one.jsonl").read_bytes()
    assert before < (folder / "killed.jsonl").stat().st_mtime_ns


def test_compare_breaks_on_a_model_that_stopped_reading_its_steps(folder: Path) -> None:
    limits = ("-p", "held_out.jsonl", "--max-new-tokens", "40")
    done = run("compare", "base", "tuned", *limits, "-o", "broken", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert "ALARM accuracy_trap" in done.stdout
    assert "Broken: accuracy_trap." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    page = (folder / "broken" / "report.html").read_text()
    assert "the model stopped using its reasoning" in page
    said = result(run("report", "broken", "-o", "page.html", "--json", cwd=folder))
    assert said["runs"][0]["state"] == "alarm"
    assert (folder / "page.html").read_text().startswith("<!doctype html>")


def test_compare_lets_a_model_pass_that_is_what_it_was(folder: Path) -> None:
    limits = ("-p", "held_out.jsonl", "--max-new-tokens", "40", "--format", "gsm8k")
    same = result(quick("compare", "base", "base", *limits, "-o", "same", "--strict", "--json", cwd=folder))
    assert same["judged"]
    assert same["alerts"] == []
    assert all(change["difference"] == 0 for change in same["changes"])


def test_doctor_finds_nothing_to_mend_and_says_what_it_saw(folder: Path) -> None:
    limits = ("-m", "base", "-p", "held_out.jsonl", "--max-new-tokens", "40")
    done = run("doctor", *limits, cwd=folder)
    assert done.returncode == 0, done.stderr
    for said in ("gsm8k, read off the worked solutions", "one shared pass", "Nothing to mend", "step by step"):
        assert said in done.stdout
    wrong = result(quick("doctor", *limits, "--format", "boxed", "--json", cwd=folder), code=1)
    problem = wrong["advice"][0]
    assert problem["level"] == "problem"
    assert "'gsm8k'" in problem["do"]


def test_doctor_says_how_many_problems_it_looks_at(folder: Path) -> None:
    arguments = ["-m", "base", "-p", "held_out.jsonl", "--max-new-tokens", "40", "--sample", "1000"]
    assert "\n24 problems: writing" in quick("doctor", *arguments, cwd=folder).stderr


def test_a_model_without_a_tokenizer_is_told_from_one_that_is_none(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder / "base", bare, ignore=shutil.ignore_patterns("*token*", "special*"))
    done = quick("doctor", "--model", str(bare), "--problems", "held_out.jsonl", cwd=folder)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "was loaded, its tokenizer could not be" in said
    assert "tokenizer.save_pretrained(" in said
    assert "causal" not in said


def test_a_damaged_model_and_a_defect_are_no_broken_rules(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "base", damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    done = quick("doctor", "--model", str(damaged), "--problems", "held_out.jsonl", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr

    def defect() -> None:
        def fail() -> None:
            raise KeyError("x")

        cli.app = fail  # type: ignore[assignment]
        main()

    done = in_fork(defect, (), tmp_path)
    assert done.code == 70
    assert "nothing was judged: KeyError: 'x'" in done.err
    assert "Traceback" in done.err


@pytest.mark.parametrize("command", ["compare", "curate", "score", "calibrate", "report", "demo"])
def test_where_nothing_can_be_written_is_said_before_the_work(command: str, folder: Path, tmp_path: Path) -> None:
    """Models and runs that are not there would be complained of next."""
    (tmp_path / "file").write_text("kept")
    model = ["--model", "nowhere"]
    given = {"compare": ["nowhere", "nowhere"], "curate": model, "score": model, "demo": []}.get(command, ["nowhere"])
    given = [*(["traces.jsonl"] if given is model else []), *given]
    given += ["--problems", "held_out.jsonl"] if command in ("compare", "curate", "score") else []
    places = [("file/deeper", "file is a file")]
    if command in ("compare", "curate", "demo"):
        places += [("file", "file is a file")]
    else:
        places += [(".", f"needs a file, and {tmp_path} is a folder")]
    for place, words in places:
        done = quick(command, *given, "--out", str(tmp_path / place), cwd=folder)
        assert done.returncode == 2, done.stderr
        assert "".join(words.split()) in "".join(done.stderr.split()), done.stderr  # a long path is broken anywhere
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("command", "place"), [("score", "scores.jsonl"), ("curate", "")])
def test_what_holds_no_scores_is_refused_before_a_model_is_looked_for(
    command: str, place: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "scores.jsonl").write_text("mine")
    arguments = ["traces.jsonl", "--model", "nowhere", "--problems", "held_out.jsonl", "--out", str(tmp_path / place)]
    done = quick(command, *arguments, cwd=folder)
    assert done.returncode == 2
    assert "exists and holds no scores of ours" in " ".join(done.stderr.split()), done.stderr
    assert (tmp_path / "scores.jsonl").read_text() == "mine"


def test_the_demo_by_itself_refuses_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = run("--out", str(tmp_path / "file"), cwd=tmp_path, launcher=[sys.executable, "-m", "reasoning_guard_demo"])
    assert done.returncode == 2
    assert "error: --out needs a folder" in done.stderr


def test_a_model_that_falls_to_chance_breaks_the_gate(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "lost")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "lost")
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "lost")
    arguments = ["--problems", "held_out.jsonl", "--format", "gsm8k", "--max-new-tokens", "40", "--json"]
    done = quick("compare", "base", str(tmp_path / "lost"), *arguments, "--out", str(tmp_path / "out"), cwd=folder)
    found = result(done, code=1)
    assert [alert["rule"] for alert in found["alerts"] if alert["severity"] == "alarm"] == ["collapse"]


def test_a_run_with_an_alarm_teaches_with_a_warning(folder: Path, tmp_path: Path) -> None:
    arguments = ["--problems", "held_out.jsonl", "--format", "gsm8k", "--max-new-tokens", "40"]
    out, effects = tmp_path / "out[1]", tmp_path / "e[2].json"
    compared = quick("compare", "base", "tuned", *arguments, "--out", str(out), cwd=folder)
    assert f"Report: {out / 'report.html'}" in compared.stdout
    done = quick("calibrate", str(out), "--out", str(effects), cwd=folder)
    assert f"Effects: {effects}" in done.stdout
    said = " ".join(done.stderr.split())
    assert done.returncode == 0, done.stderr
    assert "raised an alarm (accuracy_trap): what it lost counts as harmless from now on" in said
    assert "no change of mistake_changed matters any more" in said


def test_a_prompt_in_parts_is_shown_by_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "2 + 2 = ?"}]
    problem = Problem(prompt=({"role": "user", "content": parts},), answer="4", id="sum")  # type: ignore[dict-item]
    trace = SimpleNamespace(problem=problem, n_steps=0, answer="4", correct=True)
    _show_trace(Terminal(as_json=False, speaks=True), SimpleNamespace(traces=[trace], shown=0, curve=None))  # type: ignore[arg-type]
    assert "2 + 2 = ?" in capsys.readouterr().out.splitlines()
