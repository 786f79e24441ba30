"""How long a long run's report takes: ``python -m benchmarks.report_size`` (needs 2 GB of disk for a few minutes).

Writes the records of 500 evaluations of 512 problems with 40 steps each, makes the report from the files, and opens it
in a headless Chromium.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from benchmarks.browser import ask
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.history import History
from reasoning_guard.probes import default_probes
from reasoning_guard.report import load_run, write_report

DIFFERENT = 5
OPENED = "return {ms: Date.now() - win.performance.timing.navigationStart, traces: all('.pair').length};"


def evaluation(step: int, problems: int, steps: int) -> Evaluation:
    """Random values of all names that a guard's own probes report, and traces of ``steps`` steps."""
    rng = random.Random(step)
    who = {"policy": "", "reference": "reference/"}
    names = [who[reader] + name for p in default_probes() for reader in p.readers for name in p.names]
    return Evaluation(step=step, rows=tuple(_row(i, names, steps, rng) for i in range(problems)))


def _row(i: int, names: list[str], steps: int, rng: random.Random) -> Row:
    texts = tuple(
        f"Step {k}: {rng.randrange(1000)} and {rng.randrange(1000)} make {rng.randrange(2000)}." for k in range(steps)
    )
    return Row(
        id=f"p-{i:03d}",
        values={name: rng.random() for name in names},
        prompt=f"Problem {i}: " + "how many are there in all? " * 5,
        completion=" ".join(texts),
        steps=texts,
        curve=tuple(sorted(-9 * rng.random() for _ in range(steps + 1))),
        answer=str(i),
        reference=str(i),
    )


def _write(directory: Path, evaluations: int, problems: int, steps: int) -> None:
    """Records as a guard leaves them; a few different ones, again and again at later steps."""
    history = History(directory)
    history.begin(0, {}, {})
    for step in range(DIFFERENT):
        history.append(evaluation(step, problems, steps))
    records = directory / "evaluations.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    with records.open("ab") as file:
        for step in range(DIFFERENT, evaluations):
            old = b'{"step": %d,' % (step % DIFFERENT)
            file.write(b'{"step": %d,' % step + lines[step % DIFFERENT].removeprefix(old))


def main() -> None:
    """Write, read, open, and say how long each took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "reasoning_guard", options.evaluations, options.problems, options.steps)
        size = (Path(folder) / "reasoning_guard" / "evaluations.jsonl").stat().st_size
        print(f"{options.evaluations} evaluations x {options.problems} problems x {options.steps} steps")
        print(f"records: {size / 1e6:,.0f} MB")
        started = time.perf_counter()
        page = write_report(Path(folder) / "report.html", [load_run(folder)])
        print(f"report written from the files in {time.perf_counter() - started:.0f} s")
        found = ask(page, OPENED)
        print(
            f"page: {page.stat().st_size / 1e6:.2f} MB, opens in {found['ms'] / 1000:.2f} s, {found['traces']} traces"
        )


if __name__ == "__main__":
    main()
