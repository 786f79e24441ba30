from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.rules import TENTH
from reasoning_guard.statistics import MINIMUM_PAIRS, Change, Effect, mean_bounds, paired_change, spend

NAN = math.nan


def evaluation(values: dict[str, float], *, name: str = "gain", set: str = "id") -> Evaluation:
    return Evaluation(step=0, rows=tuple(Row(id=id, set=set, values={name: v}) for id, v in values.items()))


def change(lower: float, upper: float, baseline: float = 1.0) -> Change:
    middle = (lower + upper) / 2
    return Change(
        name="gain",
        set="id",
        n=32,
        baseline=baseline,
        current=baseline + middle,
        difference=middle,
        lower=lower,
        upper=upper,
        level=0.01,
        standard_error=0.1,
    )


def test_all_looks_together_spend_no_more_than_alpha() -> None:
    levels = [spend(0.05, look) for look in range(1, 20_001)]
    assert sum(levels) < 0.05
    assert sum(levels) == pytest.approx(0.05, rel=1e-3)
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize(("alpha", "look", "word"), [(0.0, 1, "alpha"), (1.0, 1, "alpha"), (0.05, 0, "look")])
def test_spend_refuses_what_has_no_meaning(alpha: float, look: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        spend(alpha, look)


@pytest.mark.parametrize("level", [0.05, 1e-3, 1e-5, 1e-8])
def test_a_t_test_against_a_bound_has_the_bounds_level_as_its_p_value(level: float) -> None:
    d = np.random.default_rng(0).standard_t(4, size=40)
    lower, upper, error = mean_bounds(d, level)
    assert stats.ttest_1samp(d, upper, alternative="less").pvalue == pytest.approx(level, rel=1e-6)
    assert stats.ttest_1samp(d, lower, alternative="greater").pvalue == pytest.approx(level, rel=1e-6)
    assert error == pytest.approx(stats.sem(d))


def test_bounds_of_many_samples_are_those_of_each() -> None:
    d = np.random.default_rng(1).normal(size=(3, 5, 20))
    together = mean_bounds(d, 0.01)
    for i in np.ndindex(3, 5):
        assert [float(bound[i]) for bound in together] == pytest.approx([float(b) for b in mean_bounds(d[i], 0.01)])


def test_pairs_are_made_by_id_and_only_of_finite_values() -> None:
    rng = np.random.default_rng(2)
    before = {f"p{i}": float(rng.normal(3, 2)) for i in range(40)}
    after = {id: v - 1 + float(rng.normal(0, 0.1)) for id, v in before.items()}
    shuffled = dict(sorted(after.items(), reverse=True))
    found = paired_change(
        evaluation({**before, "p0": NAN, "gone": 9.0}),
        evaluation({**shuffled, "p1": math.inf, "new": 9.0}),
        "gain",
        level=0.01,
    )
    assert found is not None
    ids = [f"p{i}" for i in range(2, 40)]
    expected = np.array([after[id] - before[id] for id in ids])
    assert found.n == 38
    assert found.difference == pytest.approx(expected.mean())
    assert found.baseline == pytest.approx(np.mean([before[id] for id in ids]))
    assert found.upper == pytest.approx(stats.t.interval(0.98, 37, expected.mean(), stats.sem(expected))[1])
    assert found.lower < found.difference < found.upper < 0


@pytest.mark.parametrize("usable", [0, 1, MINIMUM_PAIRS - 1])
def test_too_few_pairs_say_nothing(usable: int) -> None:
    values = {f"p{i}": 1.0 if i < usable else NAN for i in range(64)}
    assert paired_change(evaluation(values), evaluation(values), "gain", level=0.01) is None
    assert paired_change(evaluation(values), evaluation({}), "gain", level=0.01) is None


def test_changes_that_are_all_equal_have_their_bounds_on_them() -> None:
    ones, zeros = ({f"p{i}": value for i in range(MINIMUM_PAIRS)} for value in (1.0, 0.0))
    same = paired_change(evaluation(ones), evaluation(ones), "gain", level=1e-6)
    lost = paired_change(evaluation(ones), evaluation(zeros), "gain", level=1e-6)
    assert same is not None
    assert (same.lower, same.upper) == (0, 0)
    assert not same.fell(Effect(0, 0))
    assert lost is not None
    assert (lost.lower, lost.upper, lost.standard_error) == (-1, -1, 0)
    assert lost.fell(Effect(0.2))


def test_a_set_is_judged_by_itself() -> None:
    rows = [Row(id=f"{s}{i}", set=s, values={"gain": float(i)}) for s in ("id", "ood") for i in range(MINIMUM_PAIRS)]
    moved = [Row(id=r.id, set=r.set, values={"gain": r.values["gain"] - (r.set == "ood")}) for r in rows]
    both = Evaluation(step=0, rows=tuple(rows)), Evaluation(step=1, rows=tuple(moved))
    first, ood = (paired_change(*both, "gain", set=s, level=0.01) for s in (None, "ood"))
    assert first is not None
    assert ood is not None
    assert (first.set, first.difference) == ("id", 0)
    assert (ood.set, ood.difference) == ("ood", -1)


def test_a_change_counts_only_when_its_whole_interval_lies_beyond_the_smallest_effect() -> None:
    effect = Effect(relative=0.2, absolute=0.1)
    assert change(-0.5, -0.21).fell(effect)
    assert not change(-0.5, -0.19).fell(effect)
    assert change(0.21, 0.5).rose(effect)
    assert not change(0.19, 0.5).rose(effect)
    assert not change(-0.5, -0.21).rose(effect)


def test_the_absolute_floor_holds_where_the_baseline_is_near_zero() -> None:
    effect = Effect(relative=0.2, absolute=0.1)
    assert not change(-0.09, -0.05, baseline=0.01).fell(effect)
    assert change(-0.2, -0.11, baseline=0.01).fell(effect)
    assert effect.at(-3.0) == pytest.approx(0.6)


def whole_runs(differences: np.ndarray, alpha: float) -> float:
    """Share of runs with any look whose upper bound lies below 0; ``differences`` is ``[runs, looks, n]``."""
    falls = [mean_bounds(differences[:, k], spend(alpha, k + 1))[1] < 0 for k in range(differences.shape[1])]
    return float(np.any(falls, axis=0).mean())


@pytest.mark.parametrize("tails", ["normal", "heavy", "coins"])
@pytest.mark.parametrize("n", [32, 128])
def test_no_change_stays_below_alpha_over_a_run_even_without_a_smallest_effect(tails: str, n: int) -> None:
    rng = np.random.default_rng(3)
    shape, runs, looks = (1, n), 2000, 10
    noise = rng.standard_normal((runs, looks + 1, n)) + rng.standard_normal((runs, *shape))
    if tails == "heavy":
        noise = noise / np.sqrt(rng.gamma(1.25, 0.8, size=noise.shape))
    values = (noise > 0).astype(float) if tails == "coins" else noise
    share = whole_runs(values[:, 1:] - values[:, :1], alpha=0.05)
    assert share < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_real_fall_is_found() -> None:
    rng = np.random.default_rng(4)
    fallen = rng.normal(-1.0, 1.0, size=(200, 5, 64))
    assert whole_runs(fallen, alpha=0.05) > 0.99


@pytest.mark.parametrize(
    ("n", "fall", "least", "most"), [(100, 0.3, 0.9, 1.0), (200, 0.2, 0.7, 1.0), (100, 0.2, 0.0, 0.5)]
)
def test_what_one_comparison_sees_is_what_it_says_that_it_sees(n: int, fall: float, least: float, most: float) -> None:
    """As `compare` asks: one look, four questions, and 95 % ones of which half is the problem's own."""
    rng = np.random.default_rng(5)
    own, noise = rng.standard_normal((1000, 1, n)), rng.standard_normal((1000, 2, n))
    share = 0.95 * np.array([[1.0], [1.0 - fall]])
    before, after = ((own + noise) / math.sqrt(2) < stats.norm.ppf(share)).astype(float).swapaxes(0, 1)
    smallest = TENTH.relative * before.mean(axis=-1)
    found = float((mean_bounds(after - before, spend(0.05, 1) / 4)[1] < -smallest).mean())
    assert least <= found <= most
