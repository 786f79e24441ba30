"""Statements about a model: intervals, paired changes, equal lengths, controls."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.faithfulness import change, estimate, newcombe, normalised_by, wilson
from reasoning_guard.gate import floors, gate, gated_sets
from reasoning_guard.probes import branch_probes
from reasoning_guard.problems import Problem


def evaluation(values: Mapping[str, Sequence[float]], steps: Sequence[int] = (), set: str = "id") -> Evaluation:
    n = len(next(iter(values.values())))
    rows = [
        Row(
            id=f"p{i}",
            set=set,
            values={name: column[i] for name, column in values.items()},
            reasons={name: "why not" for name, column in values.items() if math.isnan(column[i])},
            steps=("x",) * (steps[i] if steps else 1),
        )
        for i in range(n)
    ]
    return Evaluation(step=0, rows=tuple(rows))


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (3, 10), (50, 128), (127, 128)])
def test_wilson_is_the_inverse_of_the_score_test(k: int, n: int) -> None:
    for level in (0.05, 0.2):
        for end in wilson(k, n, level):
            if 0 < end < 1:
                z = abs(k / n - end) / math.sqrt(end * (1 - end) / n)
                assert z == pytest.approx(stats.norm.isf(level / 2), abs=1e-6)
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


def test_a_share_has_wilsons_interval_and_a_mean_a_bootstrap() -> None:
    rng = random.Random(0)
    shares = [float(rng.random() < 0.7) for _ in range(80)]
    found = estimate(evaluation({"a_changed": shares}), "a_changed")
    assert (found.value, found.n) == (pytest.approx(fmean(shares)), 80)
    assert (found.lower, found.upper) == pytest.approx(wilson(int(sum(shares)), 80))
    gains = [rng.gauss(3, 1) for _ in range(80)]
    found = estimate(evaluation({"a": gains}), "a")
    error = np.std(gains, ddof=1) / math.sqrt(80)
    assert found.value == pytest.approx(fmean(gains))
    assert found.lower == pytest.approx(fmean(gains) - 1.96 * error, abs=0.05)
    assert found.upper == pytest.approx(fmean(gains) + 1.96 * error, abs=0.05)


def test_a_gain_that_is_nothing_everywhere_is_no_share() -> None:
    found = estimate(evaluation({"null_gain": [0.0] * 9, "null_changed": [0.0] * 9}), "null_gain")
    assert (found.lower, found.value, found.upper) == (0, 0, 0)
    assert estimate(evaluation({"null_changed": [0.0] * 9}), "null_changed").upper > 0.2


def test_what_cannot_be_scored_is_counted_with_its_reason() -> None:
    found = estimate(evaluation({"a": [1.0, math.nan, 0.0]}), "a")
    assert (found.n, found.unscored, found.reason) == (2, 1, "why not")
    nothing = estimate(evaluation({"a": [math.nan] * 3}), "a")
    assert math.isnan(nothing.value)
    assert str(nothing) == "NaN (why not)"
    assert str(estimate(evaluation({"a": [1.0, 1.0]}), "b")) == "NaN (not measured)"


def test_chance_level_reads_nan_with_the_reason_for_every_gated_value() -> None:
    """A model that guesses changes its answer whenever anything changes; that is not faithfulness."""
    problems = [Problem(prompt=str(i), answer="1", id=f"p{i}") for i in range(40)]
    names = [name for probe in branch_probes() for name in probe.gated]
    assert {"chain_holds", "placebo_changed", "filler_suffix_changed", "mistake_cut_followed"} <= {*names}
    guessing = evaluation({"accuracy": [1.0] + [0.0] * 39, **{name: [1.0] * 40 for name in names}})
    floor = floors(problems)
    rows = gate(guessing.rows, gated_sets(guessing.rows, floor), floor, branch_probes())
    read = Evaluation(step=0, rows=tuple(rows))
    for name in names:
        found = estimate(read, name)
        assert math.isnan(found.value)
        assert "near chance, where a broken model looks perfectly faithful" in found.reason


def test_a_change_is_paired() -> None:
    rng = random.Random(1)
    hard = [rng.gauss(0, 10) for _ in range(60)]
    before = evaluation({"a": hard})
    after = evaluation({"a": [value - 0.5 + rng.gauss(0, 0.1) for value in hard]})
    found = change(before, after, "a")
    assert found.value == pytest.approx(-0.5, abs=0.05)
    assert found.upper - found.lower < 0.1, "how hard a problem is cancels out"
    gap = evaluation({"a": [math.nan, *hard[1:]]})
    assert change(gap, after, "a").n == 59
    assert math.isnan(change(before, evaluation({"b": [1.0]}), "a").value)


def test_of_a_single_problem_there_is_no_interval() -> None:
    one = evaluation({"a": [1.0], "b_changed": [1.0], "c_changed": [0.0]})
    for found in (estimate(one, "a"), change(one, one, "a"), normalised_by(one, "b_changed", "c_changed")):
        assert math.isfinite(found.value)
        assert math.isnan(found.lower)
        assert math.isnan(found.upper)
        assert str(found).endswith("(no interval)")
    share = estimate(one, "b_changed")
    assert (share.lower, share.upper) == wilson(1, 1), "Wilson's needs no second one"


@pytest.mark.parametrize("n", [1, 3, 20])
def test_a_few_answers_that_all_stayed_do_not_prove_that_none_moves(n: int) -> None:
    same = evaluation({"a_changed": [1.0] * n})
    found = change(same, same, "a_changed")
    assert found.value == 0
    assert found.upper == -found.lower == pytest.approx(1 - wilson(n, n)[0])
    lost = change(same, evaluation({"a_changed": [0.0] * n}), "a_changed")
    assert (lost.value, lost.lower) == (-1, -1)
    assert lost.upper > -1


def test_a_paired_change_of_shares_has_newcombes_interval() -> None:
    """36 right in both, 12 in the second only, 2 in the first only: an example of his (table II)."""
    before, after = ([*both] for both in zip(*[(1.0, 1.0)] * 36, *[(0.0, 1.0)] * 12, *[(1.0, 0.0)] * 2, strict=True))
    found = change(evaluation({"accuracy": before}), evaluation({"accuracy": after}), "accuracy")
    assert (found.value, found.lower, found.upper) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)


@pytest.mark.parametrize(("n", "was", "kept", "gained"), [(12, 0.9, 0.9, 0.5), (30, 0.6, 0.8, 0.2), (30, 0.97, 1.0, 0)])
def test_newcombes_interval_keeps_its_level_where_few_were_asked(
    n: int, was: float, kept: float, gained: float
) -> None:
    rng, truth = np.random.default_rng(0), was * kept + (1 - was) * gained - was
    missed = 0
    for _ in range(1000):
        before = rng.random(n) < was
        after = np.where(before, rng.random(n) < kept, rng.random(n) < gained)
        lower, upper = newcombe(before.astype(float), after.astype(float))
        missed += not lower <= truth <= upper
    assert missed / 1000 <= 0.065


def test_lengths_are_held_equal() -> None:
    """A value that depends on the length alone has not changed when only lengths have."""
    rng = random.Random(2)
    was, now = ([rng.choice(lengths) for _ in range(200)] for lengths in ((2, 2, 4), (2, 4, 4, 6)))
    before = evaluation({"a": [float(n) for n in was]}, was)
    after = evaluation({"a": [float(n) for n in now]}, now)
    assert change(before, after, "a").lower > 0.5
    matched = change(before, after, "a", match_lengths=True)
    assert (matched.value, matched.lower, matched.upper) == (0, 0, 0)
    lower = evaluation({"a": [n - 1.0 if n == 2 else float(n) for n in now]}, now)
    share = sum(n == 2 for n in was) / sum(n in (2, 4) for n in was)
    assert change(before, lower, "a", match_lengths=True).value == pytest.approx(-share)
    nothing = change(evaluation({"a": [1.0]}, [1]), evaluation({"a": [1.0]}, [2]), "a", match_lengths=True)
    assert math.isnan(nothing.value)


def test_only_problems_of_lengths_that_both_have_are_counted() -> None:
    def at(steps: Sequence[int]) -> Evaluation:
        rows = [Row(id=str(i), values={"x": 0.1 * i}, steps=("s ;",) * n) for i, n in enumerate(steps)]
        return Evaluation(step=0, rows=tuple(rows))

    some = change(at([2, 2, 3, 4]), at([2, 5, 5, 5]), "x", match_lengths=True)
    assert some.n == 2
    assert math.isfinite(some.value)
    none = change(at([2, 2]), at([3, 3]), "x", match_lengths=True)
    assert (none.n, none.reason) == (0, "no number of steps occurs in both")
    assert math.isnan(none.value)
    assert change(at([2, 2]), at([3, 3]), "x").n == 2


def test_a_control_is_taken_off() -> None:
    rng = random.Random(3)
    filler = [float(rng.random() < 0.6) for _ in range(300)]
    control = [float(rng.random() < 0.2) for _ in range(300)]
    found = normalised_by(evaluation({"a": filler, "c": control}), "a", "c")
    assert found.value == pytest.approx((fmean(filler) - fmean(control)) / (1 - fmean(control)))
    assert found.lower < found.value < found.upper
    same = normalised_by(evaluation({"a": control, "c": control}), "a", "c")
    assert same.value == pytest.approx(0)
    hopeless = normalised_by(evaluation({"a": [1.0, 1.0], "c": [1.0, 1.0]}), "a", "c")
    assert math.isnan(hopeless.value)
    assert hopeless.reason == "the control changes every answer"


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """200 draws of 60 problems: a bootstrap of a mean misses a little more often than its level."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        found = change(evaluation({"a": [0.0] * 60}), evaluation({"a": rng.normal(1, 1, 60).tolist()}), "a", level=0.1)
        missed += not found.lower <= 1 <= found.upper
    assert 0.05 <= missed / 200 <= 0.17
