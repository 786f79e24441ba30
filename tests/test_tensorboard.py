"""What TensorBoard shows, read back from the event file with TensorBoard's own reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from torch.utils.tensorboard import SummaryWriter

import runs
from reasoning_guard.alerts import Alert
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.sinks import TensorBoardSink
from reasoning_guard.sinks.layout import layout
from reasoning_guard.sinks.tensorboard import write_layout

WORST, ALERTS = "reasoning_guard/worst_traces/text_summary", "reasoning_guard/alerts/text_summary"
CADENCES: dict[str, dict[str, Any]] = {"the trainer's": {"eval_strategy": "steps", "eval_steps": 2}, "our own": {}}


@pytest.fixture(scope="module", params=CADENCES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with an alarm at step 4: the trainer, the guard, what was written, and where."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "events"))
        patch.chdir(folder)
        trainer = runs.sft_trainer(folder, report_to="tensorboard", **CADENCES[request.param])
        held_out = runs.problems() + runs.problems(16, "ood")
        rules = [runs.FromStep()]
        every = 2 if request.param == "our own" else None
        callback = runs.guard(trainer, problems=held_out, every=every, rules=rules, patience=2)
        trainer.train()
    return trainer, callback.guard, _read(folder / "events"), folder


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    events.Reload()
    return events


def _texts(events: EventAccumulator, tag: str) -> dict[int, str]:
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}


def test_all_is_in_one_folder_and_one_file(run: Any) -> None:
    *_, folder = run
    found = list(folder.rglob("events.out.tfevents*"))
    assert [path.parent for path in found] == [folder / "events"]


def test_scalars_are_the_evaluations_means(run: Any) -> None:
    _, guard, events, _ = run
    for tag, name, set in [
        ("accuracy", "accuracy", None),
        ("info_gain", "info_gain", None),
        ("reference/info_gain", "reference/info_gain", None),
        ("ood/info_gain", "info_gain", "ood"),
    ]:
        shown = {event.step: event.value for event in events.Scalars(f"eval/guard/{tag}")}
        expected = {e.step: pytest.approx(e.mean(name, set), rel=1e-6) for e in guard.evaluations}
        assert shown == expected


def test_every_number_of_the_guard_is_a_scalar(run: Any) -> None:
    trainer, _, events, _ = run
    keys = {key for record in trainer.state.log_history for key in record if "guard/" in key}
    assert {tag for tag in events.Tags()["scalars"] if "guard/" in tag} == {
        k.replace("eval_", "eval/", 1) for k in keys
    }


def test_training_scalars_are_still_there(run: Any) -> None:
    _, _, events, _ = run
    for tag in ("train/loss", "train/entropy", "train/num_tokens"):
        assert [event.step for event in events.Scalars(tag)][:6] == [1, 2, 3, 4, 5, 6]


def test_alert_is_text_once(run: Any) -> None:
    _, _, events, _ = run
    texts = _texts(events, ALERTS)
    assert list(texts) == [4]
    assert "ALARM from_step at step 4 (since step 2" in texts[4]


def test_worst_traces_are_text_at_every_evaluation(run: Any) -> None:
    _, guard, events, _ = run
    texts = _texts(events, WORST)
    assert list(texts) == [0, 2, 4, 6]
    for evaluation in guard.evaluations:
        baseline = guard.evaluations[0].values("info_gain")
        now = evaluation.values("info_gain")
        lost = {id: now[id] - (baseline[id] if evaluation.step else 0) for id in now if id in baseline}
        worst = sorted(lost, key=lambda id: lost[id])[:3]
        assert all(f"**{id}**" in texts[evaluation.step] for id in worst)
        rows = {row.id: row for row in evaluation.rows}
        assert all(rows[id].prompt in texts[evaluation.step] for id in worst)
        assert all(rows[id].completion in texts[evaluation.step] for id in worst)


def test_layout_opens_with_accuracy_and_info_gain_on_one_chart_with_margins(run: Any) -> None:
    _, _, events, _ = run
    [event] = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    titles = [category.title for category in layout.category]
    assert titles == ["Reasoning guard", "Faithfulness", "Calibration", "Behaviour", "Closer look", "Cost"]
    by_set, first = layout.category[0].chart  # the page shows the last margin chart first
    assert first.title == "accuracy and InfoGain"
    assert [(s.value, s.lower, s.upper) for s in first.margin.series] == [
        (f"eval/guard/{name}", f"guard_intervals/{name}/lower", f"guard_intervals/{name}/upper")
        for name in ("accuracy", "info_gain")
    ]
    assert [series.value for series in by_set.margin.series] == ["eval/guard/accuracy", "eval/guard/ood/accuracy"]


def test_every_scalar_that_the_layout_names_is_there(run: Any) -> None:
    _, _, events, _ = run
    [event] = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    known = set(events.Tags()["scalars"])
    for tag in (tag for chart in charts for tag in chart.multiline.tag):
        assert len([name for name in known if re.match(tag, name)]) == 1, (
            "one line each, and no other that begins alike"
        )
    tags = {tag for chart in charts for s in chart.margin.series for tag in (s.value, s.lower, s.upper)}
    assert len(tags) > 20
    assert tags <= known


@pytest.mark.parametrize(("tag", "name", "set"), [("accuracy", "accuracy", "id"), ("ood/accuracy", "accuracy", "ood")])
def test_margins_are_wilsons_interval_for_shares(run: Any, tag: str, name: str, set: str) -> None:
    _, guard, events, _ = run
    for evaluation in guard.evaluations:
        values = list(evaluation.values(name, set).values())
        oracle = stats.binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
        for end, expected in (("lower", oracle.low), ("upper", oracle.high)):
            shown = {event.step: event.value for event in events.Scalars(f"guard_intervals/{tag}/{end}")}
            assert shown[evaluation.step] == pytest.approx(expected, abs=1e-6)


def test_long_lines_of_text_are_broken_and_nothing_is_lost(tmp_path: Path) -> None:
    said = Alert(key="k", rule="r", severity="alarm", step=1, since=1, message="so it fell, " * 40)
    with SummaryWriter(str(tmp_path)) as writer:
        TensorBoardSink(writer).alert(said)
    text = _texts(_read(tmp_path), ALERTS)[1]
    lines = text.splitlines()
    assert all(line.startswith("    ") and len(line) <= 104 for line in lines)
    assert "".join(line[4:] for line in lines) == said.text()


def test_answer_curves_are_images_at_every_evaluation(run: Any) -> None:
    _, _, events, _ = run
    found = events.Images("reasoning_guard/answer_curves")
    assert [event.step for event in found] == [0, 2, 4, 6]
    assert all(event.encoded_image_string.startswith(b"\x89PNG") for event in found)
    assert found[0].width < 400, "a card is narrow"
    assert found[0].height > 1.5 * found[0].width, "three problems one below the other"


class OwnWriter(SummaryWriter):
    """A writer as frameworks derive it."""


@pytest.mark.parametrize("kind", [SummaryWriter, OwnWriter])
def test_layout_goes_through_any_writer_derived_from_pytorchs(tmp_path: Path, kind: type[SummaryWriter]) -> None:
    page = layout(Evaluation(step=0, rows=(Row(id="a", values={"accuracy": 1.0, "info_gain": 1.0}),)))
    with kind(str(tmp_path)) as writer:
        write_layout(writer, page)
    [event] = _read(tmp_path).Tensors(metadata.CONFIG_SUMMARY_TAG)
    found = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [s.value for s in found.category[0].chart[0].margin.series] == ["guard/accuracy", "guard/info_gain"]


def test_a_writer_of_another_make_gets_the_public_call() -> None:
    said: list[Any] = []
    other = type("Other", (), {"add_custom_scalars": lambda self, page: said.append(page)})()
    write_layout(other, layout(Evaluation(step=0, rows=(Row(id="a", values={"accuracy": 1.0}),))))
    kind, tags = said[0]["Reasoning guard"]["accuracy and InfoGain"]
    assert (kind, len(tags)) == ("Margin", 3)


def test_a_second_training_writes_on_and_a_run_without_trackers_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    monkeypatch.chdir(tmp_path)
    silent = runs.sft_trainer(tmp_path / "silent", max_steps=2)
    runs.guard(silent, every=2, reference=None)
    silent.train()
    assert not list(tmp_path.rglob("events.out.tfevents*"))
    trainer = runs.sft_trainer(tmp_path / "twice", max_steps=2, report_to="tensorboard")
    runs.guard(trainer, every=2, reference=None, on_error="raise")
    trainer.train()
    trainer.train()
    folders = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    assert folders == {tmp_path / "events"}
    assert [e.step for e in _read(tmp_path / "events").Scalars("eval/guard/accuracy")].count(0) == 2
