"""How often does the guard cry wolf over a whole run, and what does it miss? Thousands of simulated runs.

    python -m benchmarks.false_alarms    # tables, about ten minutes on one core
    python -m benchmarks.figures         # the same, and the figures of docs/statistics.md

A simulated run reads five quantities (the alarms rest on as many when there is a second problem set) of ``n`` problems
at a baseline and at 100 looks. Problems differ, readings are noisy, and the noise of a problem may persist from look to
look. A *finding* is one look at which any quantity surely fell; an *alarm* is two in a row. Bounds, levels and smallest
effects are the library's. One more table runs all shipped rules through the library's own decision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from reasoning_guard.decision import decide
from reasoning_guard.evaluation import Evaluation, Row
from reasoning_guard.rules import EFFECTS, NATS, RULES, TENTH
from reasoning_guard.statistics import Effect, mean_bounds, spend

ALPHA, LOOKS, WITHIN = 0.05, 100, (5, 20, 100)
QUANTITIES = len({name for rule in RULES if rule.severity == "alarm" for name in (*rule.falls, *rule.rises)})
COINS = ("accuracy", "finished", "mistake_changed", "placebo_changed", "chain_holds")
SIZES = (32, 128, 512)
FALLS = (0.1, 0.2, 0.4, 0.7, 1.0)
POWER_SIZES = (16, 32, 64, 128, 256, 512)
NO_EFFECT = Effect(0.0, 0.0)
COUNTED = ("smallest effect as shipped", "any fall counts")

Array = np.ndarray
World = Callable[[np.random.Generator, Array, float], Array]


@dataclass(frozen=True)
class Kind:
    """A kind of quantity: how readings come from noise ``[runs, looks + 1, n]`` and a fall, and its smallest effect."""

    read: World
    effect: Effect


def coins(rng: np.random.Generator, noise: Array, fall: float) -> Array:
    """0/1 values, 95 % ones at the baseline; half of what decides is the problem's own."""
    own = rng.standard_normal((noise.shape[0], 1, noise.shape[2]), dtype=np.float32)
    share = np.full((1, noise.shape[1], 1), 0.95 * (1 - fall))
    share[:, 0] = 0.95
    return ((own + noise) / np.sqrt(2) < stats.norm.ppf(share)).astype(np.float32)


def skewed(rng: np.random.Generator, noise: Array, fall: float) -> Array:
    """Nats with a long right tail: log-normal over problems, log-normal noise."""
    own = rng.standard_normal((noise.shape[0], 1, noise.shape[2]), dtype=np.float32)
    return np.exp(0.7 * own + 0.5 * noise) * _kept(noise, fall)


def heavy(rng: np.random.Generator, noise: Array, fall: float) -> Array:
    """Nats of mean 3 with Student-t noise of 2.5 degrees of freedom: outliers on both sides."""
    own = rng.standard_normal((noise.shape[0], 1, noise.shape[2]), dtype=np.float32)
    spread = np.sqrt(0.8 * rng.standard_gamma(1.25, size=noise.shape, dtype=np.float32))
    return 3 * _kept(noise, fall) + own + noise / spread


def lopsided(rng: np.random.Generator, noise: Array, fall: float) -> Array:
    """Nats of mean 3 where training takes a little from most problems and gives much to a few (skewness 6)."""
    drift = rng.lognormal(0, 1, size=(noise.shape[0], 1, noise.shape[2])) - np.exp(0.5)
    drift = np.broadcast_to(drift / 2.16, noise.shape).astype(np.float32) * (np.arange(noise.shape[1]) > 0)[:, None]
    return 3 * _kept(noise, fall) + drift + 0.3 * noise


KINDS = {
    "coins": Kind(coins, TENTH),
    "skewed": Kind(skewed, NATS),
    "heavy": Kind(heavy, NATS),
    "lopsided": Kind(lopsided, NATS),
}
SYMMETRIC = ("coins", "skewed", "heavy")
"""The kinds whose differences are symmetric around 0 where nothing has changed."""


def _kept(noise: Array, fall: float) -> Array:
    """``[1, looks + 1, 1]``: 1 at the baseline, ``1 - fall`` after it."""
    kept = np.full((1, noise.shape[1], 1), 1 - fall, dtype=np.float32)
    kept[:, 0] = 1
    return kept


def persistent(rng: np.random.Generator, shape: tuple[int, int, int], correlation: float) -> Array:
    """Standard normal noise ``[runs, looks + 1, n]``, from look to look with the given correlation."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for look in range(1, shape[1]):
        noise[:, look] = correlation * noise[:, look - 1] + np.sqrt(1 - correlation**2) * noise[:, look]
    return noise


def falls(values: Array, effects: Sequence[Effect], first: int = 1) -> Array:
    """``[effects, runs, looks]``: where one quantity surely fell, the first look after the baseline being ``first``."""
    baseline = values[:, 0].astype(np.float64)
    smallest = np.array([[effect.at(float(mean)) for mean in baseline.mean(axis=-1)] for effect in effects])
    levels = [spend(ALPHA, first + k) / QUANTITIES for k in range(values.shape[1] - 1)]
    uppers = [mean_bounds(values[:, k + 1] - baseline, level)[1] for k, level in enumerate(levels)]
    return np.stack([upper < -smallest for upper in uppers], axis=-1)


def simulate(
    kind: Kind,
    n: int,
    runs: int,
    *,
    fall: float = 0.0,
    effects: Sequence[Effect] = (),
    correlation: float = 0.0,
    looks: int = LOOKS,
    first: int = 1,
    seed: int = 0,
) -> list[Array]:
    """For each of ``effects`` (default the kind's own) ``[runs, looks]``: where any of the quantities surely fell."""
    effects = effects or (kind.effect,)
    rng, parts = np.random.default_rng(seed), []
    chunk = max(1, 10_000_000 // (n * (looks + 1)))
    for start in range(0, runs, chunk):
        shape = (min(chunk, runs - start), looks + 1, n)
        found = np.zeros((len(effects), shape[0], looks), dtype=bool)
        for _ in range(QUANTITIES):
            values = kind.read(rng, persistent(rng, shape, correlation), fall)
            found |= falls(values, effects, first)
        parts.append(found)
    return list(np.concatenate(parts, axis=1))


def alarms(found: Array) -> Array:
    """Two findings in a row, noted at the second."""
    return np.concatenate([np.zeros_like(found[:, :1]), found[:, 1:] & found[:, :-1]], axis=1)


def share_within(events: Array, looks: int) -> float:
    """Share of runs with an event among the first ``looks`` looks."""
    return float(events[:, :looks].any(axis=1).mean())


Findings = dict[tuple[str, int, float], list[Array]]


def false_alarms(runs: int, kinds: Sequence[str], effects: Sequence[Effect] = (), *, fallen: bool = False) -> Findings:
    """The findings for each of ``effects`` and for the kind's own, by kind, n and correlation.

    Nothing has changed, or all have ``fallen`` by exactly their smallest effect.
    """

    def found(name: str, n: int, correlation: float) -> list[Array]:
        kind = KINDS[name]
        fall = kind.effect.relative if fallen else 0.0
        return simulate(kind, n, runs, fall=fall, effects=(*effects, kind.effect), correlation=correlation)

    cells = [(name, n, correlation) for name in kinds for n in SIZES for correlation in (0.0, 0.9)]
    return {cell: found(*cell) for cell in cells}


def show(title: str, findings: dict[tuple[str, int, float], Array]) -> None:
    """Print how many runs raise a finding and an alarm."""
    print(f"\n{title}\n{'':<10}{'n':>5}{'corr.':>7} |" + "".join(f"{f'finding by {w}':>16}" for w in WITHIN), end=" |")
    print("".join(f"{f'alarm by {w}':>14}" for w in WITHIN))
    for (name, n, correlation), found in findings.items():
        shares = "".join(f"{share_within(found, w):>16.4f}" for w in WITHIN)
        alarm = "".join(f"{share_within(alarms(found), w):>14.4f}" for w in WITHIN)
        print(f"{name:<10}{n:>5}{correlation:>7} |{shares} |{alarm}", flush=True)


Power = dict[tuple[str, int, float, int, str], float]


def power_table(runs: int) -> Power:
    """Print how many falls are alarmed within five looks, for a fall at once and one after twenty looks."""
    power: Power = {}
    for name, n, fall, first in product(SYMMETRIC, POWER_SIZES, FALLS, (1, 21)):
        kind = KINDS[name]
        both = simulate(kind, n, runs, fall=fall, effects=(kind.effect, NO_EFFECT), looks=5, first=first)
        for what, found in zip(COUNTED, both, strict=True):
            power[name, n, fall, first, what] = share_within(alarms(found), 5)
    for what in COUNTED:
        print(f"\nAlarm within five looks of a fall, {what}")
        print(f"{'':<10}{'n':>5} |" + "".join(f"{f'-{fall:.0%} at once':>16}{'after 20':>10}" for fall in FALLS))
        for name, n in product(SYMMETRIC, POWER_SIZES):
            cells = "".join(f"{power[name, n, f, 1, what]:>16.2f}{power[name, n, f, 21, what]:>10.2f}" for f in FALLS)
            print(f"{name:<10}{n:>5} |{cells}", flush=True)
    return power


def shipped_table(runs: int) -> None:
    """Print how many whole runs of 20 looks raise any alarm and any notice: all shipped rules, by ``decide`` itself."""
    print(f"\nNothing has changed, all {len(RULES)} rules, two problem sets, 20 looks")
    print(f"{'':<28}{'n':>5} |{'alarm':>10}{'notice':>10} |{'one look: alarm':>18}{'notice':>10}")
    anything = {name: NO_EFFECT for name in (*EFFECTS, *(f"{name}@*" for name in EFFECTS))}
    for title, effects in (("smallest effect as shipped", EFFECTS), ("any fall or rise counts", anything)):
        for n in (32, 128):
            counts = np.zeros(4)
            for seed in range(runs):
                looks = unchanged_run(n, 20, seed)
                raised = [{a.severity for a in decide(looks, patience=k, effects=effects)} for k in (2, 1)]
                counts += [severity in kinds for kinds in raised for severity in ("alarm", "notice")]
            alarm, notice, one_alarm, one_notice = counts / runs
            print(
                f"{title:<28}{n:>5} |{alarm:>10.4f}{notice:>10.4f} |{one_alarm:>18.4f}{one_notice:>10.4f}", flush=True
            )


def unchanged_run(n: int, looks: int, seed: int) -> list[Evaluation]:
    """A baseline and looks at which nothing has changed: ``n`` problems in each of two sets, every watched value."""
    rng = np.random.default_rng(seed)
    names = sorted({name.partition("@")[0] for rule in RULES for name in (*rule.falls, *rule.rises, *rule.needs)})
    means = {"tokens": 60.0, "hedges_per_1000": 12.0}
    columns = {}
    for name in names:
        noise = persistent(rng, (1, looks + 1, 2 * n), 0.5)
        columns[name] = coins(rng, noise, 0)[0] if name in COINS else means.get(name, 1.0) * skewed(rng, noise, 0)[0]
    ids = [(f"p{i}", "id" if i < n else "ood") for i in range(2 * n)]
    return [
        Evaluation(
            step=k,
            rows=tuple(
                Row(id=id, set=set, values={name: float(column[k, i]) for name, column in columns.items()})
                for i, (id, set) in enumerate(ids)
            ),
        )
        for k in range(looks + 1)
    ]


def level_tables(runs: int) -> dict[tuple[str, int, float], Array]:
    """Print who raises anything where nothing has changed; return the findings where any fall counts."""
    both = false_alarms(runs, SYMMETRIC, (NO_EFFECT,))
    hardest = {cell: found for cell, (found, _) in both.items()}
    show("Nothing has changed, any fall counts", hardest)
    show("Nothing has changed (smallest effect as shipped)", {cell: found for cell, (_, found) in both.items()})
    return hardest


def edge_table(runs: int) -> None:
    """Print who raises anything where everything has fallen by exactly the smallest effect."""
    at_the_edge = false_alarms(runs, list(KINDS), fallen=True)
    show("Fallen by exactly the smallest effect", {cell: found for cell, (found,) in at_the_edge.items()})


def main() -> None:
    """Run the simulation and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs a cell (default %(default)s)")
    runs = parser.parse_args().runs
    level_tables(runs)
    power_table(runs)
    edge_table(runs)
    shipped_table(max(1, runs // 8))


if __name__ == "__main__":
    main()
