"""Does the alarm come, and does it come in time? The demo's healthy and trap recipes over ten seeds, really trained.

    python -m benchmarks.early_warning    # half an hour on one core; finished stories are kept and not told again

The trap is read every 5 steps and goes on for 20 steps after its first alarm, so that a late loss of accuracy would be
seen; the healthy run goes to its end. Read is what the alarms rest on, on 64 problems a set. *Fell* is the first
evaluated step from which accuracy out of distribution stays lower than at the baseline by more than the rules' own
smallest effect.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers import logging as hf_logging

from reasoning_guard.probes import (
    AccuracyProbe,
    BehaviourProbe,
    InfoGainProbe,
    LinkProbe,
    MistakeProbe,
    PlaceboProbe,
    Probe,
)
from reasoning_guard.rules import EFFECTS
from reasoning_guard_demo.recipes import train_base
from reasoning_guard_demo.run import Story, tell
from reasoning_guard_transformers import ReasoningGuardCallback

EVERY = {"healthy": 15, "trap": 5}
"""Steps between evaluations, by arm."""

AFTERWARDS = 20
"""Steps that a run goes on after its first alarm."""

PROBLEMS = 64
"""Held-out problems a set."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one story showed.

    Attributes:
        arm: Which recipe.
        seed: Names base, data and order.
        looks: Evaluations after the baseline.
        ood: Step and accuracy out of distribution, for each evaluation.
        alarms: Rule, the step since which it held, and the step at which it was told.
        notices: The same for notices.
    """

    arm: str
    seed: int
    looks: int
    ood: list[tuple[int, float]]
    alarms: list[tuple[str, int, int]]
    notices: list[tuple[str, int, int]]

    @property
    def fell(self) -> int | None:
        """The first step from which accuracy out of distribution stays lower by more than the smallest effect."""
        before = self.ood[0][1]
        low = [accuracy < before - EFFECTS["accuracy@*"].at(before) for _, accuracy in self.ood]
        kept = max((i for i, is_low in enumerate(low) if not is_low), default=-1)
        return self.ood[kept + 1][0] if kept + 1 < len(self.ood) else None


class _GoOnAWhile(TrainerCallback):
    """Ends a run some steps after its guard's first alarm."""

    def __init__(self, callback: ReasoningGuardCallback) -> None:
        self.guard = callback.guard

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """See the class."""
        told = min((alarm.told for alarm in self.guard.alarms), default=state.global_step)
        control.should_training_stop |= state.global_step >= told + AFTERWARDS


def probes() -> list[Probe]:
    """What the alarms rest on, and what costs nothing beside it."""
    return [AccuracyProbe(), InfoGainProbe(), PlaceboProbe(), LinkProbe(), MistakeProbe(), BehaviourProbe()]


def outcome_of(story: Story) -> Outcome:
    """What the table needs of a story."""

    def told(severity: str) -> list[tuple[str, int, int]]:
        return [(alert.rule, alert.since, alert.told) for alert in story.alerts if alert.severity == severity]

    return Outcome(
        arm=story.arm,
        seed=story.seed,
        looks=len(story.evaluations) - 1,
        ood=[(e.step, e.mean("accuracy", "ood")) for e in story.evaluations],
        alarms=told("alarm"),
        notices=told("notice"),
    )


def outcomes(seeds: Sequence[int], out: Path) -> list[Outcome]:
    """Train what has not been trained yet.

    Args:
        seeds: Each trains a base of its own.
        out: Where records and outcomes are kept.

    Returns:
        An outcome an arm and seed.
    """
    found: list[Outcome] = []
    for seed in seeds:
        made: list[Any] = []  # the base, once it is needed
        for arm in EVERY:
            path = out / f"{arm}-{seed}.json"
            if not path.exists():
                made = made or [train_base(seed)]
                story = tell(
                    *(made[0], arm, seed, out / f"{arm}-{seed}"),
                    every=EVERY[arm],
                    problems=PROBLEMS,
                    beside=[_GoOnAWhile],
                    probes=probes(),
                )
                path.write_text(json.dumps(asdict(outcome_of(story))), encoding="utf-8")
            found.append(Outcome(**json.loads(path.read_text(encoding="utf-8"))))
    return found


def table(found: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table: a line a seed for the trap, one for all healthy runs."""
    lines = [
        "| seed | fell at | alarm holds since | told at | accuracy out of distribution: before, when told | alarms |",
        "|---" * 6 + "|",
        *(_trap_line(o) for o in found if o.arm == "trap"),
    ]
    healthy = [o for o in found if o.arm == "healthy"]
    looks, alarmed = sum(o.looks for o in healthy), sum(bool(o.alarms) for o in healthy)
    noticed = sum(bool(o.notices) for o in healthy)
    said = f"\nHealthy: {len(healthy)} runs, {looks} looks, {alarmed} runs with an alarm, {noticed} with a notice.\n"
    return "\n".join(lines) + "\n" + said


def _trap_line(outcome: Outcome) -> str:
    if not outcome.alarms:
        return f"| {outcome.seed} | {outcome.fell} | never | never | {outcome.ood[0][1]:.2f}, - | |"
    since, told = (min(alarm[i] for alarm in outcome.alarms) for i in (1, 2))
    accuracy = dict(outcome.ood)
    names = ", ".join(f"{rule} {told}" for rule, _, told in sorted(outcome.alarms, key=lambda alarm: alarm[2]))
    cells = (outcome.seed, outcome.fell, since, told, f"{outcome.ood[0][1]:.2f}, {accuracy[told]:.2f}", names)
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9", help="which, with commas (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/early_warning"), help="folder (default %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    hf_logging.set_verbosity_error()
    logging.getLogger("reasoning_guard").setLevel(logging.ERROR)
    print(table(outcomes([int(seed) for seed in options.seeds.split(",")], options.out)))


if __name__ == "__main__":
    main()
