"""Every command and every block of Python on the page about the command line runs as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

import two_checkpoints
from in_fork import in_fork
from reasoning_guard import Evaluation, Row
from reasoning_guard.cli.app import main
from reasoning_guard.history import History

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
LAUNCH = "accelerate launch --num_processes 2 -m reasoning_guard "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for granted: two models, their problems and traces, two runs."""
    folder = two_checkpoints.save_all(tmp_path_factory.mktemp("page"))
    for name, last in (("healthy", 1.0), ("trap", 0.0)):
        history = History(folder / "runs" / name / "reasoning_guard")
        history.begin(0, {})
        for step, used in enumerate((1.0, last, last)):
            values = {"accuracy": 1.0, "placebo_changed": used}
            rows = tuple(Row(id=str(i), values=values, reference="4") for i in range(20))
            history.append(Evaluation(step=step, rows=rows))
    return folder


def test_the_page_shows_every_command() -> None:
    named = {line.replace(LAUNCH, "reasoning-guard ").split()[1] for line in COMMANDS}
    assert named == {"--help", "doctor", "score", "compare", "curate", "report", "calibrate", "demo"}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_page_run(line: str, folder: Path) -> None:
    command, _, comment = line.replace(LAUNCH, "reasoning-guard ").partition("#")  # two real processes: test_cli.py
    name, *arguments = shlex.split(command)
    assert name == "reasoning-guard"
    done = in_fork(main, arguments, folder)
    expected = int(found.group(1)) if (found := re.search(r"exit code (\d)", comment)) else 0
    assert done.code == expected, done.err
    assert done.out


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_python_of_the_page_runs(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(block, "cli.md", "exec"), {})


@pytest.mark.parametrize(
    ("name", "arguments", "code", "said"),
    [
        ("score_saved_traces", "--traces traces.jsonl --problems held_out.jsonl --model base", 0, "InfoGain"),
        ("compare_checkpoints", "base tuned --problems held_out.jsonl --max-new-tokens 64", 1, "ALARM accuracy_trap"),
        (  # a format in which no answer is found: nothing can be judged, and a gate must not let that pass
            "compare_checkpoints",
            "base tuned --problems held_out.jsonl --max-new-tokens 64 --format boxed",
            3,
            "not judged",
        ),
    ],
)
def test_the_examples_run(name: str, arguments: str, code: int, said: str, folder: Path) -> None:
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 80

    def example() -> None:
        module: dict[str, object] = {"__name__": name, "__doc__": "The example."}
        exec(compile(path.read_text(), str(path), "exec"), module)
        sys.exit(module["main"]())  # type: ignore[operator]

    done = in_fork(example, shlex.split(arguments), folder)
    assert done.code == code, done.err
    assert said in done.out


WRONG = {
    "no such file": ("score none.jsonl -m base", "there is no file 'none.jsonl'"),
    "no such model": ("score traces.jsonl -m nowhere -p held_out.jsonl", "there is no folder 'nowhere'"),
    "a folder without a model": ("score traces.jsonl -m runs -p held_out.jsonl", "there is no config.json in it"),
    "no such format": ("doctor -m base -p held_out.jsonl -f gsmk", "unknown trace format 'gsmk'"),
    "no such dtype": ("doctor -m base -p held_out.jsonl --dtype half", "must be one of auto, float32"),
    "no such run": ("report nowhere", "no evaluations.jsonl in nowhere"),
    "an unhealthy calibration": ("calibrate empty", "no evaluations.jsonl in empty"),
    "a seed that is no number": ("demo --seeds zero", "takes whole numbers"),
    "no such option": ("score traces.jsonl --modle base", "No such option"),
    "too few problems": (
        "compare base tuned -p few.jsonl",
        "at least 16 problems to say anything, 100 to see a share fall by 30 %",
    ),
    "a folder that is a file": ("compare base base -p held_out.jsonl -o few.jsonl", "few.jsonl"),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=list(WRONG))
def test_wrong_use_ends_with_2_and_a_sentence(line: str, said: str, folder: Path) -> None:
    (folder / "few.jsonl").write_text("\n".join((folder / "held_out.jsonl").read_text().splitlines()[:5]) + "\n")
    done = in_fork(main, [*shlex.split(line)], folder)
    assert done.code == 2, done.err
    assert done.out == ""
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
