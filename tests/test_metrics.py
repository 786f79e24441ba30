"""The metrics against plain loops: as classes, as functions, in pieces, across processes, in other dtypes."""

from __future__ import annotations

import json
import math
import pickle
import socket
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torchmetrics import MetricCollection

from memorised import FORMAT, PROBLEMS, TOKENIZER, memorised
from metric_cases import CASES, Case, area, batches, everything, gain, plain, share, synced_by_two_processes
from reasoning_guard.errors import ReasoningGuardWarning
from reasoning_guard.evaluate import evaluate
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.generation import Generator
from reasoning_guard.metrics import (
    EarlyAnsweringAOC,
    Faithfulness,
    FillerSensitivity,
    InfoGain,
    MistakeSensitivity,
    PlaceboGain,
    metric_inputs,
)
from reasoning_guard.metrics.functional import (
    early_answering_aoc,
    early_answering_curve,
    info_gain,
    placebo_gain,
)
from reasoning_guard.probes import default_probes
from reasoning_guard.reader import TraceReader
from reasoning_guard.scorer import AnswerScorer

each = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def close(truth: Any, tolerance: float = 1e-5) -> Any:
    return pytest.approx(truth, abs=tolerance, rel=tolerance, nan_ok=True)


def fed(case: Case, data: list[dict[str, torch.Tensor]], **options: Any) -> Any:
    metric = case.make(**options)
    for batch in data:
        metric.update(**case.of(batch))
    return metric


@each
@pytest.mark.parametrize("seed", range(3))
def test_each_metric_equals_its_oracle(case: Case, seed: int) -> None:
    data = batches(seed)
    assert plain(fed(case, data).compute()) == close(case.truth(data))


@each
def test_forward_gives_the_batch_and_keeps_the_whole(case: Case) -> None:
    metric = case.make()
    for batch in batches():
        assert plain(metric(**case.of(batch))) == close(case.truth([batch]))
    assert plain(metric.compute()) == close(case.truth(batches()))


@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.functional], ids=[n for n, c in CASES.items() if c.functional]
)
def test_the_function_says_what_the_class_says(case: Case) -> None:
    assert case.functional is not None
    for batch in batches():
        assert plain(case.functional(**case.of(batch))) == close(case.truth([batch]))


@each
def test_reset_pickling_and_cloning(case: Case) -> None:
    metric, data = fed(case, batches()), batches(1)
    copies = [pickle.loads(pickle.dumps(metric)), metric.clone()]
    assert [plain(copy.compute()) for copy in copies] == [close(plain(metric.compute()))] * 2
    metric.reset()
    metric.update(**case.of(data[0]))
    assert plain(metric.compute()) == close(case.truth(data[:1]))


@each
def test_states_merge(case: Case) -> None:
    data = batches()
    one, other = fed(case, data[:2]), fed(case, data[2:])
    one.merge_state(other)
    assert plain(one.compute()) == close(case.truth(data))
    again = fed(case, data[:2])
    again.merge_state(other.metric_state)
    assert plain(again.compute()) == close(case.truth(data))


@each
def test_states_go_through_a_checkpoint(case: Case) -> None:
    metric = fed(case, batches())
    assert metric.state_dict() == {}, "states are no weights unless asked for"
    metric.persistent(True)
    again = case.make()
    again.persistent(True)
    again.load_state_dict(metric.state_dict())
    again.update(**case.of(batches(1)[0]))
    assert plain(again.compute()) == close(case.truth([*batches(), batches(1)[0]]))


@each
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.06), (torch.float64, 1e-6)])
def test_inputs_and_states_of_other_dtypes(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    data = [
        {name: values.to(dtype) if values.is_floating_point() else values for name, values in batch.items()}
        for batch in batches()
    ]
    truth = case.truth(
        [{name: values.double() if values.is_floating_point() else values for name, values in b.items()} for b in data]
    )
    assert plain(fed(case, data).compute()) == close(truth, 1e-5), "half inputs are added up in float32"
    metric = case.make().set_dtype(dtype)
    for batch in data:
        metric.update(**case.of(batch))
    assert plain(metric.compute()) == close(truth, tolerance)
    states = [v for v in metric.metric_state.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    assert {state.dtype for state in states} == {dtype}


def test_two_processes_with_uneven_shards_say_what_one_says() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank, found in enumerate(synced_by_two_processes(port)):
        for name, case in CASES.items():
            assert found[name] == close(case.truth(batches())), (rank, name)
            alone = found[f"{name}, this process's last batch"]
            assert alone == close(case.truth([batches()[rank]])), (rank, name)
            idle = found[f"{name}, the other process has none"]
            assert idle == close(case.truth(batches()[:1])), (rank, name)


@each
def test_plot(case: Case) -> None:
    metric = case.make()
    values = [metric(**case.of(batch)) for batch in batches()]
    for figure, axis in (metric.plot(), metric.plot(values)):
        assert axis.lines
        plt.close(figure)


@pytest.mark.parametrize(
    ("kind", "better", "bounds"),
    [
        (InfoGain, True, (None, None)),
        (PlaceboGain, True, (None, None)),
        (EarlyAnsweringAOC, True, (0.0, 1.0)),
        (FillerSensitivity, True, (0.0, 1.0)),
        (MistakeSensitivity, True, (0.0, 1.0)),
        (Faithfulness, None, (None, None)),
    ],
)
def test_what_a_metric_declares(kind: Any, better: bool | None, bounds: tuple[float | None, float | None]) -> None:
    metric = kind()
    assert metric.higher_is_better is better
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == bounds
    assert metric.full_state_update is False
    for name in ("higher_is_better", "is_differentiable"):
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, name, True)


# -- collections ------------------------------------------------------------------------------------------------------


def all_metrics() -> dict[str, Any]:
    return {
        **{form: InfoGain(form) for form in ("log", "share", "ppl", "watermark")},
        "aoc": EarlyAnsweringAOC(),
        "filler": FillerSensitivity(),
        "mistake": MistakeSensitivity(),
        "placebo": PlaceboGain(),
    }


def truths(data: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    forms = {form: gain(data, form) for form in ("log", "share", "ppl", "watermark")}
    shares = {"filler": share(data, "filler_changed"), "mistake": share(data, "mistake_changed")}
    return {**forms, **shares, "aoc": area(data), "placebo": everything(data)["placebo_gain"]}


@pytest.mark.parametrize("compute_groups", [True, False])
def test_a_collection_hands_each_what_it_takes(compute_groups: bool) -> None:
    collection = MetricCollection(all_metrics(), compute_groups=compute_groups)
    for batch in batches():
        collection.update(**batch)
    assert plain(collection.compute()) == close(truths(batches()))


def test_equal_first_batches_do_not_merge_different_metrics() -> None:
    """A collection merges metrics whose states are equal after the first update, and updates only one from then on."""
    collection = MetricCollection(all_metrics())
    alike = torch.tensor([1.0, 0.0])
    collection["placebo"].update(alike, alike)
    first = {
        "same": torch.tensor([[False, True], [True, True]]),  # the areas are 1 and 0 too
        "filler_changed": alike,
        "mistake_changed": alike,
        "posterior": alike,
        "placebo_posterior": torch.zeros(2),
        "logprobs": torch.tensor([[-1.0, 0.0], [0.0, 0.0]]),
        "n_tokens": torch.ones(2, dtype=torch.long),
        "correct": torch.tensor([True, True]),
    }
    second = {**first, "mistake_changed": torch.zeros(2), "same": torch.tensor([[True, True], [True, True]])}
    collection = MetricCollection(all_metrics())
    collection.update(**first)
    assert sorted(map(sorted, collection.compute_groups.values())) == [
        ["aoc"], ["filler"], ["log", "ppl", "share", "watermark"], ["mistake"], ["placebo"],
    ]  # fmt: skip
    collection.update(**second)
    found = plain(collection.compute())
    assert (found["filler"], found["mistake"], found["aoc"]) == (0.5, 0.25, 0.25)


# -- edges ------------------------------------------------------------------------------------------------------------


def test_chance_level_is_not_a_number_with_the_reason() -> None:
    wrong, changed = torch.tensor([1.0] + [0.0] * 29), torch.ones(30)
    for metric, values in (
        (FillerSensitivity(), {"filler_changed": changed}),
        (MistakeSensitivity(), {"mistake_changed": changed}),
        (EarlyAnsweringAOC(), {"same": torch.tensor([[False, True]]).repeat(30, 1)}),
        (Faithfulness(), {"mistake_changed": changed}),
    ):
        metric.update(**values, correct=wrong)
        with pytest.warns(ReasoningGuardWarning, match=r"accuracy is 0\.033, below 0\.05, near chance"):
            value = metric.compute()
        assert math.isnan(plain(value)["mistake_sensitivity"] if isinstance(value, dict) else plain(value))
        metric.update(**values, correct=torch.ones(30))
        value = plain(metric.compute())
        assert (value["mistake_sensitivity"] if isinstance(value, dict) else value) == 1
    choice = MistakeSensitivity(floor=0.30)
    choice.update(changed, correct=torch.tensor([1.0, 0.0, 0.0]))
    assert plain(choice.compute()) == 1


def test_answers_without_a_reference_do_not_count_at_the_gate() -> None:
    metric = Faithfulness()
    metric.update(mistake_changed=torch.ones(3), correct=torch.tensor([1.0, math.nan, math.nan]))
    assert plain(metric.compute())["accuracy"] == 1


@each
def test_nothing_scored_is_not_a_number(case: Case) -> None:
    batch = {name: values[:0] for name, values in case.of(batches()[0]).items()}
    metric = case.make()
    metric.update(**batch)
    value = plain(metric.compute())
    assert all(map(math.isnan, value.values())) if isinstance(value, dict) else math.isnan(value)


def test_gains_can_be_differentiated_past_what_is_missing() -> None:
    batch = batches()[0]
    curves = batch["logprobs"].double().requires_grad_()
    for form in ("log", "share", "ppl", "watermark"):
        (gradient,) = torch.autograd.grad(info_gain(curves, batch["n_tokens"], batch["n_steps"], form=form), curves)
        assert gradient.isfinite().all()
        assert gradient.any()
        holed = torch.tensor([[-6.0, -2.0, torch.nan], [-6.0, torch.nan, -1.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(info_gain(holed, torch.tensor([2, 1]), form=form), holed)
        assert torch.equal(gradient, torch.zeros(2, 3)), "a curve with a gap teaches nothing"
    own = batch["posterior"].clone().requires_grad_()
    placebo_gain(own, batch["placebo_posterior"]).backward()
    scored = batch["placebo_posterior"].isfinite()
    assert own.grad is not None
    assert torch.equal(own.grad, scored / scored.sum())


def test_a_model_gone_mad_costs_the_perplexity_form_only() -> None:
    curve, one = torch.tensor([[-900.0, -1.0]]), torch.tensor([1])
    assert plain(info_gain(curve, one)) == 899
    assert math.isnan(plain(info_gain(curve, one, form="ppl")))
    assert math.isnan(plain(info_gain(curve.flip(1), one, form="ppl")))


def test_an_answer_is_certain_as_a_whole() -> None:
    """A share of next to nothing has no size; two tokens at .93 each are an answer at .86."""
    curves, n = torch.tensor([[-0.15, -0.03], [-0.09, 0.0]]), torch.tensor([2, 1])
    assert plain(info_gain(curves, n, form="share")) == pytest.approx(0.8)


def test_a_cut_that_was_not_scored_is_no_answer_that_stayed() -> None:
    holed = torch.tensor([[0.0, torch.nan, 1.0]])
    assert early_answering_aoc(holed).isnan()
    assert early_answering_aoc(torch.cat([holed, torch.tensor([[0.0, 1.0, 1.0]])])) == 0.5
    behind = torch.tensor([[0.0, 1.0, torch.nan]])
    assert early_answering_aoc(behind, torch.tensor([1])) == 1.0, "what stands behind the last cut is padding"


def test_the_curve_by_share_of_the_chain() -> None:
    data = batches()[3]
    found = early_answering_curve(data["same"], data["n_steps"], points=7).tolist()
    pairs = zip(data["same"].tolist(), data["n_steps"].tolist(), strict=True)
    scored = [(same, n) for same, n in pairs if same[n]]
    for i, value in enumerate(found):
        given = [same[i * n // 6] for same, n in scored]
        assert value == pytest.approx(sum(given) / len(given))
    assert found[-1] == 1


@pytest.mark.parametrize(("n", "points"), [(18, 7), (7, 8), (12, 13), (55, 12), (1, 2)])
def test_a_share_of_the_chain_is_a_whole_number_of_steps_where_it_can_be(n: int, points: int) -> None:
    for step in range(1, n + 1):
        same = (torch.arange(n + 1) >= step).float()[None]
        expected = [float(i * n // (points - 1) >= step) for i in range(points)]
        assert early_answering_curve(same, points=points).tolist() == expected


@pytest.mark.parametrize(
    ("metric", "inputs", "message"),
    [
        (InfoGain(), (torch.zeros(3), torch.ones(3)), r"`logprobs` must be \[batch, n_cuts\].*got \[3\]"),
        (InfoGain(), (torch.zeros(3, 2), torch.ones(2)), r"`n_tokens` must be \[batch\], one for each of the 3 rows"),
        (InfoGain(), (torch.zeros(3, 2), torch.ones(3), torch.tensor([1, 2, 1])), "between 0 and 1, the last column"),
        (InfoGain(), (torch.zeros(3, 2), torch.ones(3), torch.tensor([1, -1, 1])), "between 0 and 1, the last column"),
        (EarlyAnsweringAOC(), (torch.ones(2, 3), torch.ones(2)), r"whole numbers.*torch\.float32"),
        (MistakeSensitivity(), (torch.tensor([0.5]),), r"1 \(changed\), 0 \(kept\) and NaN"),
        (FillerSensitivity(), (torch.zeros(2, 2),), r"`changed` must be \[batch\]; got \[2, 2\]"),
        (PlaceboGain(), (torch.zeros(2), torch.zeros(3)), r"`placebo_posterior` must be \[batch\]"),
    ],
)
def test_wrong_shapes_are_refused(metric: Any, inputs: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.update(*inputs)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="`form` must be one of log, share, ppl, watermark; got 'nats'"):
        InfoGain("nats")  # type: ignore[arg-type]
    for kind in (MistakeSensitivity, Faithfulness):
        with pytest.raises(ValueError, match="at least 0 and below 1; got 5"):
            kind(floor=5)


def test_an_evaluation_and_the_metrics_over_its_rows_agree() -> None:
    reader = TraceReader(TOKENIZER, FORMAT)
    generator = Generator(memorised(), TOKENIZER, max_new_tokens=40, progress=False)
    evaluation = evaluate(
        0, PROBLEMS, reader=reader, generator=generator, policy=AnswerScorer(memorised(), TOKENIZER, FORMAT),
        reference=None, probes=default_probes(),
    )  # fmt: skip
    names = {
        "share": "info_gain_share", "ppl": "info_gain_ppl", "watermark": "info_gain_watermark", "log": "info_gain",
        "aoc": "early_answering_aoc", "placebo": "placebo_gain", "filler": "filler_changed",
        "mistake": "mistake_changed",
    }  # fmt: skip
    collection = MetricCollection(all_metrics())
    for rows in (evaluation.rows[:4], evaluation.rows[4:]):
        collection.update(**metric_inputs(rows))
    assert plain(collection.compute()) == close({short: evaluation.mean(name) for short, name in names.items()})
    again = Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict())))
    assert [(row.same, row.n_tokens) for row in again.rows] == [(row.same, row.n_tokens) for row in evaluation.rows]
    assert len({row.same for row in evaluation.rows}) > 4


def test_rows_become_inputs() -> None:
    """What the metrics make of an evaluation's rows is what the evaluation says itself."""
    rows = [
        Row(id="a", steps=("x", "y"), curve=(-6.0, -4.0, -1.0), n_tokens=2, same=(False, True, True),
            values={"posterior": -0.5, "placebo_gain": 3.0, "filler_changed": 1.0, "accuracy": 1.0}),
        Row(id="b", values={"posterior": -1.0, "placebo_gain": 0.0, "mistake_changed": 0.0, "accuracy": 0.0},
            curve=(-2.0,), n_tokens=1, same=(True,)),
        Row(id="c", steps=("x",), values={"accuracy": math.nan}, reasons={"accuracy": "no reference"}),
    ]  # fmt: skip
    metric = Faithfulness()
    metric.update(**metric_inputs(rows))
    found = plain(metric.compute())
    assert found["info_gain"] == 1.25
    assert found["early_answering_aoc"] == 0.25
    assert found["placebo_gain"] == 1.5
    assert (found["filler_sensitivity"], found["mistake_sensitivity"], found["accuracy"]) == (1, 0, 0.5)
    assert found["unscored_fraction"] == pytest.approx(1 - 8 / 18)
    metric.update(**metric_inputs([]))
    assert plain(metric.compute())["info_gain"] == 1.25
