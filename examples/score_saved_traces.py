"""Score saved traces with any model: which steps carry their answer, and which are only decoration?

    python examples/score_saved_traces.py --traces traces.jsonl --problems held_out.jsonl --model Qwen/Qwen2.5-0.5B

``reasoning-guard score`` does the same on the command line; this script gives you the numbers in Python.
"""

from __future__ import annotations

import argparse

from reasoning_guard import load_model, load_saved_traces, score_traces


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", required=True, help="JSONL: a completion or messages, and an id or prompt")
    parser.add_argument("--problems", help="JSONL with prompt and answer; default: the traces hold both")
    parser.add_argument("--model", required=True, help="who reads: folder or hub name")
    parser.add_argument("--out", default="scores.jsonl", help="one line a trace; a stopped scoring goes on from it")
    options = parser.parse_args()

    saved = load_saved_traces(options.traces, options.problems)
    model, tokenizer = load_model(options.model)
    scored = score_traces(saved, model, tokenizer, out=options.out)

    by_gain = sorted(scored.rows, key=lambda row: row.values["info_gain"])
    for row in (*by_gain[:3], *by_gain[-3:]):
        levels = "  ".join(f"{level:6.2f}" for level in row.curve)
        print(f"{row.id}: InfoGain {row.values['info_gain']:5.2f} nats a token, answer {row.answer}")
        print(f"  log p(reference answer) after 0, 1, ... steps: {levels}")


if __name__ == "__main__":
    main()
