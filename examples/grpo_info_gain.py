"""Train with GRPO on prompts that hold a shortcut, where tokens cost: without InfoGain as a second reward, and with it.

    python examples/grpo_info_gain.py                  # some minutes on one core; --try-out: one step of everything

A tiny model is trained from scratch, led half-way into a shortcut, and then reinforced twice. With correctness and a
price on tokens alone, it drops its steps. It is then right wherever the shortcut helps, and lost where it does not.
InfoGain pays for steps that lead a frozen reader to the answer before the answer is stated. The whole table comes from
``python -m benchmarks.rewards``.
"""

from __future__ import annotations

import argparse

from reasoning_guard import Evaluation
from reasoning_guard_demo.model import build_tokenizer
from reasoning_guard_demo.recipes import train_base
from reasoning_guard_demo.reinforce import (
    FORMAT,
    LENGTH_COST,
    correctness,
    grpo_trainer,
    length,
    measure,
    reinforce,
    start,
)
from reasoning_guard_trl import InfoGainReward


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, choices=(0, 1, 2))
    parser.add_argument("--try-out", action="store_true", help="one step of everything, to see that it runs")
    options = parser.parse_args()
    settings = {"max_steps": 1} if options.try_out else {}
    problems = 4 if options.try_out else 100

    base = train_base(options.seed, **settings)
    wavering = start(base, "wavering", options.seed, **settings)
    show("start", measure(wavering, base, problems))

    # The frozen reader is the base. Without `scorer=`, the reward copies the model before its first step.
    gain = InfoGainReward(answer="solution", format=FORMAT, scorer=base, tokenizer=build_tokenizer())
    for name, rewards, weights in (
        ("correctness, tokens cost", [correctness, length], [1.0, LENGTH_COST]),
        ("the same and InfoGain", [correctness, length, gain], [1.0, LENGTH_COST, 2.0]),
    ):
        trainer = grpo_trainer(wavering, rewards, weights, options.seed, **settings)
        show(name, measure(reinforce(trainer).model, base, problems))


def show(name: str, found: Evaluation) -> None:
    """Accuracy in and out of distribution, whether an altered step changes the answer, and how long the traces are."""
    print(
        f"{name:25s} accuracy {found.mean('accuracy', 'id'):.2f}, "
        f"out of distribution {found.mean('accuracy', 'ood'):.2f}, "
        f"changed by a mistake {found.mean('mistake_changed', 'ood'):.2f}, tokens {found.mean('tokens', 'ood'):.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
