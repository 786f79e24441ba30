"""One guard, three doors: the Hugging Face callback, the Lightning callback and a loop of one's own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel

import lightning_runs
import runs
from reasoning_guard.branch_scorer import BranchScorer
from reasoning_guard.errors import ConfigurationError, HistoryError
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.guard import Guard
from reasoning_guard.rewards import AnswerConfidenceReward
from reasoning_guard.tree import Branch, TraceTree

SETTINGS: dict[str, Any] = {"format": runs.FORMAT, "max_new_tokens": 40, "progress": False, "on_error": "raise"}


def plain(**options: Any) -> Guard:
    return Guard(runs.problems(), runs.tokenizer(), **{**SETTINGS, **options})


def taught(after: int) -> Any:
    """The model as it is after ``after`` steps of a training of its own."""
    model = runs.writer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = next(iter(lightning_runs.loader()))
    for _ in range(after):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def by_trainer(model: Any, folder: Path) -> list[Evaluation]:
    trainer = runs.plain_trainer(folder, model=model, learning_rate=0.0, max_steps=2)
    callback = runs.guard(trainer, every=2, on_error="raise")
    trainer.train()
    return callback.guard.evaluations


def by_lightning(model: Any, folder: Path) -> list[Evaluation]:
    guard = lightning_runs.guard(every=2)
    module = lightning_runs.module(model=model, learning_rate=0.0)
    lightning_runs.fit(folder, guard, model=module, max_epochs=-1, max_steps=2)
    return guard.guard.evaluations


def by_hand(model: Any, folder: Path) -> list[Evaluation]:
    guard = plain(directory=folder / "reasoning_guard")
    for step in range(3):
        guard.step(model, step, every=2)
    return guard.evaluations


def test_the_same_model_and_problems_give_the_same_evaluation(tmp_path: Path) -> None:
    """Weights that no step changes, so that each host must find the same, row by row, at 0 and at 2."""
    model = taught(2)
    hosts = {host.__name__: host for host in (by_trainer, by_lightning, by_hand)}
    found = {name: host(copy.deepcopy(model), tmp_path / name) for name, host in hosts.items()}
    for evaluations in found.values():
        assert [e.step for e in evaluations] == [0, 2]
        assert [e.rows for e in evaluations] == [e.rows for e in found["by_hand"]]
        assert [e.gated for e in evaluations] == [e.gated for e in found["by_hand"]]
    records = {name: runs.recorded(tmp_path / name) for name in hosts}
    kept = [[{k: v for k, v in r.items() if k not in ("created", "seconds")} for r in r] for r in records.values()]
    assert kept[0] == kept[1] == kept[2]
    first = found["by_hand"][0].rows[0].values
    assert first["info_gain"] != by_hand(taught(0), tmp_path / "other")[0].rows[0].values["info_gain"]


# ------------------------------------------------------------------------------------------------ a loop of one's own


def test_a_step_evaluates_when_it_is_due_and_says_so(tmp_path: Path) -> None:
    guard = plain(reference=None)
    model = runs.writer()
    made = {step: guard.step(model, step, every=4) for step in (0, 1, 2, 3, 4, 5, 9, 10)}
    assert [step for step, evaluation in made.items() if evaluation] == [0, 4, 9]
    assert guard.scalars(guard.evaluations[0])["guard/info_gain"] == guard.evaluations[0].mean("info_gain")
    with pytest.raises(ConfigurationError, match="`every` counts training steps"):
        guard.step(model, 11, every=0)


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    wrapped = torch.compile(torch.nn.DataParallel(runs.writer()))
    assert plain().step(wrapped, 0).rows == plain().step(runs.writer(), 0).rows  # type: ignore[union-attr]


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "data parallel": torch.nn.DataParallel,
    "running average": AveragedModel,
    "running average, compiled": lambda model: torch.compile(AveragedModel(torch.nn.DataParallel(model))),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_whatever_reads_looks_through_wrappers(wrapper: str) -> None:
    wrap, question = WRAPPERS[wrapper], [TraceTree((5, 6, 7), (Branch(2, (8, 9), (0, 2)),))]
    expected = plain().step(taught(1), 0)
    found = plain(reference=wrap(taught(1))).step(wrap(taught(1)), 0)
    assert found is not None
    assert found.rows == expected.rows  # type: ignore[union-attr]
    assert BranchScorer(wrap(taught(1))).score_trees(question) == BranchScorer(taught(1)).score_trees(question)
    reward = AnswerConfidenceReward(format=runs.FORMAT)
    reward.attach(wrap(taught(1)), runs.tokenizer())
    alone = AnswerConfidenceReward(format=runs.FORMAT, scorer=taught(1), tokenizer=runs.tokenizer())
    row: dict[str, Any] = {"prompts": ["a = 3 ; ?"], "completions": [" b = 3 + 1 = 4 ; # 4"], "solution": ["4"]}
    assert reward(**row) == alone(**row)


def test_a_guard_that_is_sent_to_another_process_keeps_its_reference() -> None:
    guard = plain()
    guard.prepare(taught(0))
    sent = pickle.loads(pickle.dumps(guard))
    found, expected = (each.step(taught(1), 0) for each in (sent, guard))
    assert found.rows == expected.rows


def test_what_no_model_of_transformers_is_inside_is_refused() -> None:
    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = runs.untrained()

    message = "Mine has no `config`: pass a Transformers model"
    with pytest.raises(ConfigurationError, match=message):
        BranchScorer(torch.nn.DataParallel(Mine()))
    with pytest.raises(ConfigurationError, match=message):
        plain(reference=Mine()).prepare(runs.untrained())


def test_a_loop_that_obeys_stops(tmp_path: Path) -> None:
    guard = plain(action="stop", rules=[runs.FromStep(step=2)], reference=None)
    model, done = runs.writer(), 0
    for step in range(9):
        guard.step(model, step)
        if guard.should_stop:
            break
        done += 1
    assert done == 3


@pytest.mark.parametrize("kept", ["on disk", "in the checkpoint", "in both"])
def test_a_resumed_loop_keeps_baseline_and_history(kept: str, tmp_path: Path) -> None:
    """``accelerate`` saves the guard beside the model; or its folder of records alone is enough."""
    model = runs.writer()
    places = iter([tmp_path / "one", tmp_path / ("two" if kept == "in the checkpoint" else "one")])
    first, second = (plain(directory=next(places)) for _ in range(2))
    for step in range(3):
        first.step(model, step)
    host = Accelerator(cpu=True)
    if kept != "on disk":
        host.register_for_checkpointing(first)
        host.save_state(str(tmp_path / "checkpoint"))
        first.step(model, 3)  # what came after the checkpoint is not gone on from
        again = Accelerator(cpu=True)
        again.register_for_checkpointing(second)
        again.load_state(str(tmp_path / "checkpoint"))
    second.step(model, 2)
    assert second.evaluations == first.evaluations[:3]
    assert second.step(model, 3) is not None
    assert [e.step for e in second.evaluations] == [0, 1, 2, 3]


def test_a_checkpoint_of_other_problems_is_refused() -> None:
    first = plain(reference=None)
    first.step(runs.writer(), 0)
    other = Guard(runs.problems(18), runs.tokenizer(), **SETTINGS)
    other.load_state_dict(first.state_dict())
    with pytest.raises(HistoryError, match="the checkpoint's records were made with other settings: problems"):
        other.step(runs.writer(), 1)
