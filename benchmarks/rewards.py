"""What the rewards do and cost: real GRPO runs on the demo's task, and the reward's share of a training step.

    python -m benchmarks.rewards --out benchmarks/REWARDS.md    # every configuration and seed, and the overhead
    python -m benchmarks.rewards --seeds 0 --steps 20           # a look, printed

Every run is kept in ``--runs`` as a JSON file; a second call makes only those that are missing. Weight, learning rate,
scaling and starts were chosen on the seeds :data:`CHOSEN_ON`; the others were run once, with the settings as they were.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.reward_overhead import overhead
from reasoning_guard import Evaluation
from reasoning_guard.statistics import mean_bounds
from reasoning_guard_demo.model import build_tokenizer
from reasoning_guard_demo.recipes import train_base
from reasoning_guard_demo.reinforce import (
    LENGTH_COST,
    STARTS,
    correctness,
    grpo_trainer,
    length,
    measure,
    reinforce,
    start,
)
from reasoning_guard_demo.run import FORMAT
from reasoning_guard_trl import InfoGainReward

GAIN_WEIGHT = 2.0
CHOSEN_ON = (0, 1, 2)
"""Seeds on which the settings were chosen."""

VALUES = {
    "accuracy": ("accuracy", "id"),
    "out of distribution": ("accuracy", "ood"),
    "informative": ("reference/pre_commitment", "ood"),
    "needed": ("early_answering_aoc", "ood"),
    "used: placebo": ("placebo_gain", "ood"),
    "used: mistake": ("mistake_changed", "ood"),
    "InfoGain by cutting": ("info_gain", "id"),
    "tokens": ("tokens", "ood"),
}
"""Column to the value and the held-out set it is read on; out of distribution is where the shortcut does not help."""


@dataclass(frozen=True)
class Configuration:
    """A start and the rewards beside correctness."""

    start: str
    length: float = 0.0
    gain: float = 0.0
    scorer: str = "reference"

    def rewards(self, base: LlamaForCausalLM) -> tuple[list[Callable[..., Any]], list[float]]:
        """Reward functions and their weights."""
        functions: list[Callable[..., Any]] = [correctness]
        weights = [1.0]
        if self.length:
            functions.append(length)
            weights.append(self.length)
        if self.gain:
            frozen = {"scorer": base, "tokenizer": build_tokenizer()}
            options = frozen if self.scorer == "reference" else {"scorer": "policy"}
            functions.append(InfoGainReward(format=FORMAT, **options))
            weights.append(self.gain)
        return functions, weights


CONFIGURATIONS = {
    "correctness": Configuration("wavering"),
    "correctness, length costs": Configuration("wavering", LENGTH_COST),
    "the same, InfoGain": Configuration("wavering", LENGTH_COST, GAIN_WEIGHT),
    "the same, InfoGain read by the policy": Configuration("wavering", LENGTH_COST, GAIN_WEIGHT, "policy"),
    "half fallen: correctness": Configuration("half fallen"),
    "half fallen: InfoGain": Configuration("half fallen", 0.0, GAIN_WEIGHT),
    "half fallen: InfoGain read by the policy": Configuration("half fallen", 0.0, GAIN_WEIGHT, "policy"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/rewards"), help="where runs are kept")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=lambda text: [int(each) for each in text.split(",")], default=list(range(6)))
    parser.add_argument("--out", type=Path, help="Markdown file for the tables; default: print them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        known = [name for name, (_, steps) in STARTS.items() if seed < len(steps)]
        for name in known:
            record(options.runs, f"start, {name}", seed, lambda b, s: start_model(options.runs, b, name, s))  # noqa: B023
        for name, configuration in ((n, c) for n, c in CONFIGURATIONS.items() if c.start in known):
            record(options.runs, name, seed, lambda b, s: run(options, configuration, b, s))  # noqa: B023
    text = page(options.runs, options.steps, base_model(options.runs, options.seeds[0]))
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


def page(runs: Path, steps: int, base: LlamaForCausalLM) -> str:
    """All tables as Markdown: the runs on both kinds of seeds, and the overhead."""
    return _PAGE.format(
        machine=platform.machine(),
        torch=torch.__version__,
        steps=steps,
        weight=GAIN_WEIGHT,
        cost=LENGTH_COST,
        seeds=", ".join(map(str, CHOSEN_ON)),
        chosen=table(runs, lambda seed: seed in CHOSEN_ON),
        fresh=table(runs, lambda seed: seed not in CHOSEN_ON),
        overhead=overhead(base),
    )


_PAGE = """# What the rewards do and cost

`python -m benchmarks.rewards` ({machine}, torch {torch}, one thread) trains the demo's tiny model under
`GRPOTrainer`, for {steps} steps of 4 prompts x 8 completions, on prompts whose tag gives the answer away. There are 100
held-out problems a set. A right answer earns 1, InfoGain has weight {weight}, and a token costs {cost} where length
costs. A cell shows the seeds, separated by slashes, and the 95 % interval of the mean over all problems of all seeds.
The first and the seventh column are read in distribution, all others out of distribution.

## Seeds on which weight, learning rate, scaling and starts were chosen ({seeds})

{chosen}

## Seeds on which nothing was chosen

{fresh}

## Share of a training step

CPU seconds of a step of 8 prompts x 8 completions.

{overhead}
"""


def base_model(out: Path, seed: int) -> LlamaForCausalLM:
    """The base of one seed, trained once."""
    return _kept(out / f"base-{seed}", lambda: train_base(seed))


def start_model(out: Path, base: LlamaForCausalLM, name: str, seed: int) -> LlamaForCausalLM:
    """A start of one seed, trained once."""
    return _kept(out / f"{name.replace(' ', '-')}-{seed}", lambda: start(base, name, seed))


def _kept(folder: Path, make: Callable[[], LlamaForCausalLM]) -> LlamaForCausalLM:
    if not folder.exists():
        make().save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder)


def run(options: argparse.Namespace, configuration: Configuration, base: LlamaForCausalLM, seed: int) -> Any:
    """One GRPO run; returns the trained model."""
    model = start_model(options.runs, base, configuration.start, seed)
    functions, weights = configuration.rewards(base)
    return reinforce(grpo_trainer(model, functions, weights, seed, max_steps=options.steps)).model


def record(out: Path, name: str, seed: int, make: Callable[[LlamaForCausalLM, int], LlamaForCausalLM]) -> None:
    """Make a model and keep what the probes say of it, unless that is there already."""
    path = out / f"{name.replace(' ', '_').replace(':', '').replace(',', '')}-{seed}.json"
    if path.exists():
        return
    base, started = base_model(out, seed), time.process_time()
    model = make(base, seed)
    spent = time.process_time() - started
    found = measure(model, base)
    record = {"name": name, "seed": seed, "cpu_seconds": spent, "values": values(found)}
    path.write_text(json.dumps(record), encoding="utf-8")
    print(f"{name}, seed {seed}: {spent:.0f} s, {cells([record])}", flush=True)


def values(found: Evaluation) -> dict[str, list[float]]:
    """Every problem's value, by column."""
    return {column: list(found.values(*where).values()) for column, where in VALUES.items()}


def table(out: Path, wanted: Callable[[int], bool]) -> str:
    """A Markdown table of the seeds that are wanted: a line a configuration; in each cell seeds and interval."""
    records: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*.json")):
        one = json.loads(path.read_text("utf-8"))
        if wanted(one["seed"]):
            records.setdefault(one["name"], []).append(one)
    names = [name for name in ("start, wavering", "start, half fallen", *CONFIGURATIONS) if name in records]
    lines = ["| rewards | " + " | ".join(VALUES) + " |", "|---" * (len(VALUES) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {cells(records[name])} |" for name in names)])


def cells(records: Sequence[dict[str, Any]]) -> str:
    """Seeds parted by slashes, and the 95 % interval over all problems of all seeds."""
    return " | ".join(_cell([record["values"][column] for record in records]) for column in VALUES)


def _cell(seeds: Sequence[Sequence[float]]) -> str:
    means = "/".join(f"{np.mean(each):.2f}" if each else "–" for each in seeds)
    everything = np.array([value for each in seeds for value in each])
    if len(everything) < 2:
        return means
    lower, upper, _ = mean_bounds(everything, 0.025)
    return f"{means} [{lower:.2f}, {upper:.2f}]"


if __name__ == "__main__":
    main()
