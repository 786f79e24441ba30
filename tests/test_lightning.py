"""The Lightning callback on real trainers of both frameworks: who sees its numbers, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

import lightning_runs
import runs
from reasoning_guard.errors import ConfigurationError, ReasoningGuardWarning
from reasoning_guard.generation import Generator
from reasoning_guard.guard import Guard
from reasoning_guard.history import History
from reasoning_guard_lightning import ReasoningGuardCallback
from reasoning_guard_lightning.models import trained_model

NUMBER = "guard/info_gain"
lightning = lightning_runs.lightning


@pytest.fixture(scope="module", params=lightning_runs.FRAMEWORKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of six steps that validates at 3 and 6, with everybody listening; the guard stands first, or last."""
    framework = lightning_runs.FRAMEWORKS[request.param]
    folder = tmp_path_factory.mktemp("run")
    asked: list[tuple[int, bool]] = []
    evaluate = Guard.evaluate

    def spy(self: Guard, model: Any, step: int) -> Any:
        asked.append((step, host.sanity_checking))
        return evaluate(self, model, step)

    held_out = runs.problems() + runs.problems(16, "ood")
    guard = lightning_runs.guard(problems=held_out, rules=[runs.FromStep()], patience=1)
    best = framework.callbacks.ModelCheckpoint(folder / "best", monitor=NUMBER, mode="max", save_top_k=-1)
    early = framework.callbacks.EarlyStopping(NUMBER, mode="max", patience=1, min_delta=1e9)
    others = [early, best]
    logger = framework.loggers.TensorBoardLogger(folder, name="events")
    model = lightning_runs.module(framework, model=runs.writer())
    host = lightning_runs.trainer(
        folder, framework, max_epochs=4, logger=logger, enable_checkpointing=True,
        callbacks=[guard, *others] if framework is lightning else [*others, guard],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "evaluate", spy)
        host.fit(model, lightning_runs.loader(), lightning_runs.loader(runs.BATCH))
    return SimpleNamespace(**locals())


def means(run: Any, name: str = "info_gain", set: str | None = None) -> dict[int, float]:
    return {e.step: e.mean(name, set) for e in run.guard.guard.evaluations}


def test_the_model_is_read_before_training_and_at_every_validation_but_the_sanity_check(run: Any) -> None:
    assert run.asked == [(0, False), (3, False), (6, False)]
    assert run.host.num_sanity_val_steps > 0
    first = run.guard.guard.evaluations[0]
    assert first.mean("info_gain") == pytest.approx(first.mean("reference/info_gain"), abs=1e-5)
    assert [r["step"] for r in runs.recorded(Path(run.logger.log_dir))] == [0, 3, 6]


def test_early_stopping_and_checkpoints_hear_the_number_of_their_own_validation(run: Any) -> None:
    assert isinstance(run.guard, run.framework.Callback)
    assert run.host.global_step == 6  # the second look was not better by 1e9
    assert run.early.best_score.item() == pytest.approx(means(run)[3])
    heard = {int(path.split("step=")[1][0]): value.item() for path, value in run.best.best_k_models.items()}
    assert heard == pytest.approx({step: value for step, value in means(run).items() if step > 0})
    assert run.host.callback_metrics["guard/ood/info_gain"].item() == pytest.approx(means(run, set="ood")[6])


def _events(folder: str) -> EventAccumulator:
    events = EventAccumulator(folder, size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_the_event_file_has_scalars_text_and_layout(run: Any) -> None:
    assert len(list(run.folder.rglob("events.out.tfevents*"))) == 1
    events = _events(run.logger.log_dir)
    for tag, expected in [("info_gain", means(run)), ("ood/accuracy", means(run, "accuracy", "ood"))]:
        shown = {event.step: event.value for event in events.Scalars(f"guard/{tag}")}
        assert shown == pytest.approx(expected, rel=1e-6)
    texts = {tag: [event.step for event in events.Tensors(tag)] for tag in events.Tags()["tensors"]}
    assert texts["reasoning_guard/worst_traces/text_summary"] == [0, 3, 6]
    assert texts["reasoning_guard/alerts/text_summary"] == [3]
    [event] = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart for chart in layout.category[0].chart}
    shown = [series.value for series in charts["accuracy and InfoGain"].margin.series]
    assert shown == ["guard/accuracy", NUMBER]
    assert set(shown) <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("val_loss")] == [2, 5]  # Lightning's own count is left alone


def test_checkpoints_hold_plain_types_and_a_resumed_run_goes_on_wherever_it_logs(run: Any, tmp_path: Path) -> None:
    path = run.folder / "best" / "epoch=0-step=3.ckpt"
    saved = torch.load(path, weights_only=True)
    assert [e["step"] for e in saved["callbacks"]["ReasoningGuardCallback"]["evaluations"]] == [0, 3]
    guard = lightning_runs.guard(problems=run.held_out, rules=[runs.FromStep()], patience=1)
    model = lightning_runs.module(run.framework, model=runs.writer())
    lightning_runs.fit(tmp_path, guard, framework=run.framework, model=model, ckpt_path=path)
    assert guard.directory == tmp_path / "reasoning_guard"
    assert guard.guard.evaluations[:2] == run.guard.guard.evaluations[:2]
    assert guard.guard.evaluations[2].rows == run.guard.guard.evaluations[2].rows  # the reference's values too
    assert guard.guard.alerts == run.guard.guard.alerts
    here, there = (runs.recorded(folder)[:2] for folder in (tmp_path, Path(run.logger.log_dir)))
    assert here == there
    assert runs.differing(lightning_runs.weights(model), lightning_runs.weights(run.model)) == []


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Checkpoints of a run whose guards keep their records in folders that they were told: one guard, or two."""
    folder = tmp_path_factory.mktemp("named")
    for guards in (1, 2):
        told = [lightning_runs.guard(directory=folder / str(guards) / name, reference=None) for name in "ab"[:guards]]
        best = lightning.callbacks.ModelCheckpoint(folder / str(guards), filename="last")
        lightning_runs.fit(folder, *told, best, max_epochs=1)
    return folder


@pytest.mark.parametrize("directory", [None, "other"])
def test_a_resumed_run_goes_on_where_its_folder_has_another_name(
    directory: str | None, named: Path, tmp_path: Path
) -> None:
    told = None if directory is None else tmp_path / directory
    guard = lightning_runs.guard(directory=told, reference=None)
    lightning_runs.fit(tmp_path, guard, ckpt_path=named / "1" / "last.ckpt")
    assert [e.step for e in guard.guard.evaluations] == [0, 3, 6]
    assert guard.directory == (told or tmp_path / "reasoning_guard")
    assert [e.step for e in History(guard.directory).load()] == [0, 3, 6]


def test_records_that_may_be_anothers_are_left_and_that_is_said(named: Path, tmp_path: Path) -> None:
    both = [lightning_runs.guard(directory=tmp_path / name, reference=None) for name in "cd"]
    other = lightning_runs.guard(directory=tmp_path / "e", problems=runs.problems(5), reference=None)
    for guards, path in ((both, "2"), ([other], "1")):
        with pytest.warns(ReasoningGuardWarning, match="goes on at step 3, and there are no records of it in"):
            lightning_runs.fit(tmp_path, *guards, ckpt_path=named / path / "last.ckpt")
        assert [[e.step for e in guard.guard.evaluations] for guard in guards] == [[3, 6]] * len(guards)
    known = lightning_runs.guard(directory=tmp_path / "a", reference=None)
    fresh = lightning_runs.guard(directory=tmp_path / "f", reference=None)
    with pytest.warns(ReasoningGuardWarning, match=f"no records of it in {tmp_path / 'f'}"):
        lightning_runs.fit(tmp_path, known, fresh, ckpt_path=named / "1" / "last.ckpt")
    assert [[e.step for e in guard.guard.evaluations] for guard in (known, fresh)] == [[0, 3, 6], [3, 6]]


def _lora() -> Any:
    return get_peft_model(
        runs.writer(attention_dropout=0.2), LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj"])
    )


MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "own cadence": {"every": 2, "val": False},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed": {"precision": "16-mixed"},  # bf16-mixed on a CPU, Lightning says
    "bf16-true": {"precision": "bf16-true"},
    "a model in evaluation": {"eval_mode": True},
    "LoRA": {"model": _lora},
    "accumulated gradients": {"accumulate_grad_batches": 2},
}


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_bit_identical_with_and_without(mode: str, tmp_path: Path) -> None:
    found: list[Any] = []
    for name, watched in (("without", False), ("with", True)):
        torch.manual_seed(0)
        settings = dict(MODES[mode])
        guards = [lightning_runs.guard(every=settings.pop("every", None))] if watched else []
        model = settings.pop("model", lambda: None)()
        model = lightning_runs.module(model=model, eval_mode=settings.pop("eval_mode", False))
        settings.pop("every", None)
        _, module = lightning_runs.fit(tmp_path / name, *guards, model=model, **settings)
        found.append((lightning_runs.weights(module), torch.get_rng_state().tolist(), module.modes))
    (without, state, modes), (with_guard, same_state, same_modes) = found
    assert len(guards[0].guard.evaluations) == {"own cadence": 4}.get(mode, 3)
    assert runs.differing(without, with_guard) == []
    assert state == same_state
    assert modes == same_modes == {mode != "a model in evaluation"}


def test_a_single_random_number_would_be_noticed(tmp_path: Path) -> None:
    """The control of the test above."""

    class Draw(lightning.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            torch.rand(1)

    found = []
    for name, callbacks in (("without", []), ("with", [Draw()])):
        torch.manual_seed(0)
        found.append(lightning_runs.weights(lightning_runs.fit(tmp_path / name, *callbacks)[1]))
    assert runs.differing(*found) != []


@pytest.mark.parametrize(
    ("every", "settings", "expected"),
    [
        (None, {"val": False}, [0, 1, 2, 3, 4, 5, 6]),
        (4, {"val": False}, [0, 4, 6]),
        (4, {}, [0, 4, 6]),
        (None, {"val_check_interval": 2}, [0, 2, 5]),
        (None, {"check_val_every_n_epoch": 2}, [0, 6]),
    ],
)
def test_cadence(every: int | None, settings: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    guard = lightning_runs.guard(every=every, reference=None)
    logger = lightning.loggers.CSVLogger(tmp_path, name="numbers")
    early = lightning.callbacks.EarlyStopping(
        NUMBER, mode="max", patience=99, check_on_train_epoch_end="val" in settings
    )
    host, _ = lightning_runs.fit(tmp_path, early, guard, logger=logger, log_every_n_steps=50, **settings)
    assert [e.step for e in guard.guard.evaluations] == expected
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    columns = rows[0].split(",")
    steps = [row.split(",")[columns.index("step")] for row in rows[1:] if row.split(",")[columns.index(NUMBER)]]
    assert [int(step) for step in steps] == expected
    assert host.callback_metrics[NUMBER].item() == pytest.approx(guard.guard.evaluations[-1].mean("info_gain"))


@pytest.mark.parametrize(("every", "step"), [(None, 6), (2, 4)])
def test_an_alarm_stops_the_run_with_a_checkpoint_to_go_on_from(every: int | None, step: int, tmp_path: Path) -> None:
    guard = lightning_runs.guard(every=every, action="stop", rules=[runs.FromStep()], reference=None)
    host, model = lightning_runs.fit(tmp_path, guard, max_epochs=9)
    assert host.global_step == step
    [path] = (tmp_path / "reasoning_guard").glob("*.ckpt")
    assert path.name == f"stopped-at-step-{step}.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == step
    assert all(torch.equal(saved["state_dict"][name], value) for name, value in lightning_runs.weights(model).items())


def test_rollback_ends_with_the_weights_from_before_the_alarm(tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    class Look(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen[trainer.global_step] = lightning_runs.weights(pl_module)

    rules = [runs.FromStep(step=4)]
    guard = lightning_runs.guard(every=1, action="rollback", rules=rules, reference=None, directory=tmp_path / "guard")
    _, model = lightning_runs.fit(tmp_path, guard, Look())
    assert guard.guard.kept_checkpoint == str(tmp_path / "guard" / "healthy" / "checkpoint-3.ckpt")
    assert runs.differing(lightning_runs.weights(model), seen[3]) == []
    assert runs.differing(lightning_runs.weights(model), seen[6]) != []
    held = sorted(path.name for path in (tmp_path / "guard" / "healthy").iterdir())
    assert held == [f"checkpoint-{step}.ckpt" for step in (3, 4, 5, 6)]


def test_a_failed_evaluation_is_a_gap_and_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``EarlyStopping`` ends a run at a NaN; ``ModelCheckpoint`` at a name that is not there."""
    whole = Generator.complete

    def third_breaks(self: Generator, *args: Any, **kwargs: Any) -> Any:
        if len(guard.guard.evaluations) == 2:
            raise RuntimeError("broken on purpose")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Generator, "complete", third_breaks)
    guard = lightning_runs.guard(on_error="record", reference=None)
    best = lightning.callbacks.ModelCheckpoint(tmp_path / "best", monitor=NUMBER, mode="max")
    early = lightning.callbacks.EarlyStopping(NUMBER, mode="max", patience=9)
    host, _ = lightning_runs.fit(tmp_path, guard, best, early, max_epochs=3)
    assert host.global_step == 9
    assert [e.failure is None for e in guard.guard.evaluations] == [True, True, False, True]


# ------------------------------------------------------------------------------------------------------ finding models


class Distilling(lightning.LightningModule):
    def __init__(self, *parts: str) -> None:
        super().__init__()
        for part in parts:
            setattr(self, part, runs.untrained().requires_grad_(part != "teacher"))


def test_the_model_that_is_trained_is_found(tmp_path: Path) -> None:
    both = Distilling("teacher", "student")
    assert trained_model(both) is both.student
    adapted = lightning_runs.module(model=_lora())
    assert trained_model(adapted) is adapted.policy
    compiled = lightning_runs.module(model=torch.compile(runs.untrained()))
    assert trained_model(compiled) is compiled.policy._orig_mod
    with pytest.raises(ConfigurationError, match=r"trains 2 language models.*get_model="):
        trained_model(Distilling("actor", "critic"))


def test_wrong_use_is_refused_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`every` counts training steps"):
        lightning_runs.guard(every=0)
    with pytest.raises(ConfigurationError, match="expected at least one problem"):
        lightning_runs.guard(problems=[])
    empty = lightning_runs.module(model=torch.nn.Linear(1, 1))
    with pytest.raises(ConfigurationError, match=r"no Transformers or PEFT model that can generate.*get_model"):
        lightning_runs.fit(tmp_path, lightning_runs.guard(), model=empty)
    small = lightning_runs.module(model=runs.untrained(max_position_embeddings=20))
    with pytest.raises(ConfigurationError, match=r"context 20, which leaves no room"):
        lightning_runs.fit(tmp_path, lightning_runs.guard(), model=small)


def test_the_format_is_read_off_worked_solutions() -> None:
    rows = [{"question": f"{i} + 1 = ?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(8)]
    guard = ReasoningGuardCallback(iter(rows), tokenizer=runs.tokenizer())
    assert guard.guard.reader.format.name == "gsm8k"
    assert [problem.answer for problem in guard.guard.problems[:2]] == ["1", "2"]


def test_the_other_framework_is_not_imported() -> None:
    code = (
        "import sys, pytorch_lightning as framework; from reasoning_guard_lightning import ReasoningGuardCallback; "
        "assert issubclass(ReasoningGuardCallback, framework.Callback); assert 'lightning.pytorch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
