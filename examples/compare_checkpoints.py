"""Compare two checkpoints on the same held-out problems, and exit with 1 when a rule is broken: a gate for releases.

    python examples/compare_checkpoints.py base checkpoint-500 --problems held_out.jsonl

``reasoning-guard compare`` does the same on the command line; this script gives you the numbers in Python.
"""

from __future__ import annotations

import argparse
import sys

from reasoning_guard import compare_models, load_model
from reasoning_guard.report import load_run, write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", help="the model before: folder or hub name")
    parser.add_argument("tuned", help="the model after")
    parser.add_argument("--problems", required=True, help="JSONL with prompt or question, and answer")
    parser.add_argument("--format", default="gsm8k", help="how an answer is written")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--out", default="comparison", help="folder for records and report")
    options = parser.parse_args()

    base, _ = load_model(options.base)
    tuned, tokenizer = load_model(options.tuned)
    found = compare_models(
        base,
        tuned,
        tokenizer,
        options.problems,
        format=options.format,
        max_new_tokens=options.max_new_tokens,
        directory=f"{options.out}/reasoning_guard",
    )

    for change in found.changes():
        interval = f"{change.lower:+.2f} to {change.upper:+.2f}"
        print(f"{change.name:28s} {change.baseline:6.2f} -> {change.current:6.2f}  ({interval}, n = {change.n})")
    print(write_report(f"{options.out}/report.html", [load_run(options.out)]))
    print(*[alert.text() for alert in found.alerts] or ["no alert"], sep="\n")
    for name, why in found.resting.items() if not found.judged else ():
        print(f"not judged: rule {name}: {why}")
    return 1 if found.alarms else 0 if found.judged else 3  # as `reasoning-guard compare` exits


if __name__ == "__main__":
    sys.exit(main())
