"""Every probe on every arm: which of them tell a sound model from a broken one?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import LlamaForCausalLM

from reasoning_guard import AnswerScorer, Evaluation, Problem, TraceReader, load_problems
from reasoning_guard.evaluate import evaluate
from reasoning_guard.generation import Generator
from reasoning_guard.probes import all_probes
from reasoning_guard_demo.model import build_tokenizer
from reasoning_guard_demo.recipes import fine_tune, train_base
from reasoning_guard_demo.run import FORMAT, PROBLEMS
from reasoning_guard_demo.task import ARMS, held_out_problems

BEFORE = "before"
"""Name of the model before fine-tuning among the arms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What all probes said about one model.

    Attributes:
        arm: Name of the arm, or :data:`BEFORE`.
        seed: Seed of base, data and order.
        evaluation: A row for each problem of the sets "id" and "ood".
    """

    arm: str
    seed: int
    evaluation: Evaluation


def look_at_all(seeds: Sequence[int], out: Path, told: Callable[[str], None]) -> list[Look]:
    """Ask all probes about the model before fine-tuning and about every arm.

    Args:
        seeds: The seeds. Each trains a base and seven arms of its own, unless they are in ``out / "models"`` from an
            earlier run.
        out: Models are kept in ``models`` below it, evaluations in ``suite``.
        told: Gets a line for each model.

    Returns:
        A look for each arm and seed, the seeds in order.
    """
    looks: list[Look] = []
    (out / "suite").mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for arm, model in models(seed, out / "models", told):
            evaluation = look_at(model)
            path = out / "suite" / f"{arm}-{seed}.json"
            path.write_text(json.dumps(evaluation.to_dict()), encoding="utf-8")
            told(f"{arm}, seed {seed}: {evaluation.seconds['total']:.0f} s for all probes")
            looks.append(Look(arm=arm, seed=seed, evaluation=evaluation))
    return looks


def models(seed: int, folder: Path, told: Callable[[str], None]) -> Iterator[tuple[str, LlamaForCausalLM]]:
    """Return the base of a seed and its fine-tunings, trained if they are not in ``folder`` yet."""
    base = _saved(folder / f"{BEFORE}-{seed}", lambda: train_base(seed), told)
    yield BEFORE, base
    for arm in ARMS:
        yield arm, _saved(folder / f"{arm}-{seed}", lambda arm=arm: fine_tune(base, arm, seed), told)


def _saved(path: Path, train: Callable[[], LlamaForCausalLM], told: Callable[[str], None]) -> LlamaForCausalLM:
    if not path.exists():
        told(f"training {path.name} ...")
        train().save_pretrained(path)
    return LlamaForCausalLM.from_pretrained(path)


def look_at(model: LlamaForCausalLM, problems: int = PROBLEMS) -> Evaluation:
    """Ask the complete suite about what ``model`` writes for held-out problems of both sets."""
    tokenizer = build_tokenizer()
    held_out = [*held_out_problems("id", problems), *held_out_problems("ood", problems)]
    return evaluate(
        0,
        load_problems(held_out),
        reader=TraceReader(tokenizer, FORMAT),
        generator=Generator(model, tokenizer, max_new_tokens=48, progress=False),
        policy=AnswerScorer(model, tokenizer, FORMAT),
        reference=None,
        probes=all_probes(paraphraser=commuted, hint=tagged),
    )


def commuted(steps: Sequence[str]) -> list[str]:
    """Exchange the operands of the steps: another wording of the same arithmetic.

    >>> commuted(["b = 3 + 4 = 7 ;", "so"])
    ['b = 4 + 3 = 7 ;', 'so']
    """
    return [_commuted(step.split()) for step in steps]


def _commuted(words: list[str]) -> str:
    if len(words) == 8 and words[3] in "+*":
        words[2], words[4] = words[4], words[2]
    return " ".join(words)


def tagged(problem: Problem, answer: str) -> Problem:
    """Give the problem a tag that says ``answer``: in shortcut data, the tag is a hint that never lies.

    >>> tagged(Problem(prompt="5 : a = 3 ; ?"), "7").prompt
    '7 : a = 3 ; ?'
    """
    return replace(problem, prompt=f"{answer} :{str(problem.prompt).partition(':')[2]}")
