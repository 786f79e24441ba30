"""The decision: all evaluations in, alerts out. A pure function, so that a resumed run decides as the first one did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile

from reasoning_guard.alerts import Alert, worst_problems
from reasoning_guard.errors import warn_once
from reasoning_guard.evaluation import Evaluation
from reasoning_guard.rules import EFFECTS, RULES, Comparison, Finding, Rule, column, expand
from reasoning_guard.statistics import MINIMUM_PAIRS, Effect, spend


def decide(
    evaluations: Iterable[Evaluation],
    rules: Sequence[Rule] = RULES,
    *,
    alpha: float = 0.05,
    patience: int = 2,
    effects: Mapping[str, Effect] = EFFECTS,
) -> list[Alert]:
    """Replay a run and say what its guard must say.

    Each evaluation after the baseline (see :func:`baseline_of`) is a look; a failed one is none. A finding becomes an
    alert when it holds at ``patience`` looks in a row, and stays one alert from then on.

    Args:
        evaluations: The evaluations in the order of their steps.
        rules: What must not happen.
        alpha: Chance of any false alarm over the whole run; false notices have the same chance of their own.
        patience: Looks in a row at which a finding must hold.
        effects: Smallest change that matters, by value name.

    Returns:
        One alert a cause, the earliest first.
    """
    made = _from_baseline(evaluations)
    if not made:
        return []
    baseline, *looks = made
    alerts: dict[str, Alert] = {}
    streaks: dict[str, int] = {}
    for number, current in enumerate(looks, start=1):
        comparison = Comparison(baseline=baseline, current=current, level=spend(alpha, number), effects=effects)
        found = _findings(comparison, rules)
        streaks = {key: streaks.get(key, 0) + 1 for key in found}
        for key, (rule, finding) in found.items():
            if streaks[key] >= patience:
                since = looks[number - streaks[key]].step
                told = alerts[key].told if key in alerts else current.step
                alerts[key] = _alert(key, rule, finding, (since, told), baseline, current)
        alerts = {key: alert if key in found else replace(alert, open=False) for key, alert in alerts.items()}
    return list(alerts.values())


def baseline_of(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """The evaluation that later ones are compared with: the first at which the model answers better than by chance.

    A base model that does not know the answer format yet gets nothing right at step 0. Dependence on the text means
    nothing there (:mod:`reasoning_guard.gate`), and a baseline of nothing would let every rule rest for the whole run.

    Args:
        evaluations: The evaluations in the order of their steps.

    Returns:
        The baseline, or None as long as there is none.
    """
    return next(iter(_from_baseline(evaluations)), None)


def _from_baseline(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    sound = (e for e in evaluations if e.failure is None and e.rows)
    return list(dropwhile(lambda e: e.sets[0] in e.gated, sound))


def resting(evaluations: Iterable[Evaluation], rules: Sequence[Rule] = RULES) -> dict[str, str]:
    """Rules that lack the data to judge the latest evaluation, and what they lack.

    Args:
        evaluations: The evaluations in the order of their steps.
        rules: The rules to look at.

    Returns:
        Rule name to reason; empty before there is a baseline.
    """
    made = [e for e in evaluations if e.failure is None and e.rows]
    looks = _from_baseline(made)
    if made and not looks:
        return dict.fromkeys((rule.name for rule in rules), "accuracy is near chance, so there is no baseline yet")
    reasons = {rule.name: _lack(rule, looks[0], looks[-1]) for rule in rules} if looks else {}
    return {name: reason for name, reason in reasons.items() if reason}


def _lack(rule: Rule, baseline: Evaluation, latest: Evaluation) -> str:
    def has(name: str) -> bool:
        return len(column(baseline, name).keys() & column(latest, name).keys()) >= MINIMUM_PAIRS

    watched = expand((*rule.falls, *rule.rises), baseline)
    if not watched and (rule.falls or rule.rises):
        return "it compares problem sets, and there is only one; give a second, e.g. a column `set` with id and ood"
    missing = [name for name in rule.needs if not has(name)]
    if not missing and watched and not any(map(has, watched)):
        missing = [f"any of {', '.join(watched)}"]
    both = f"both at step {baseline.step} and at step {latest.step}"
    return f"fewer than {MINIMUM_PAIRS} problems have {' and '.join(missing)} {both}" if missing else ""


def _findings(look: Comparison, rules: Sequence[Rule]) -> dict[str, tuple[Rule, Finding]]:
    """What the rules find in one look, by key; the questions of a severity share its level equally."""
    found: dict[str, tuple[Rule, Finding]] = {}
    for severity in ("alarm", "notice"):
        asking = [rule for rule in rules if rule.severity == severity]
        comparison = replace(look, level=look.level / _questions(look.baseline, asking))
        for rule in asking:
            if finding := _check(rule, comparison):
                found["/".join(filter(None, (rule.name, finding.topic)))] = (rule, finding)
    return found


def _check(rule: Rule, comparison: Comparison) -> Finding | None:
    """What ``rule`` finds; a rule that raises is left out, the others go on."""
    try:
        return rule.check(comparison)
    except Exception as error:
        warn_once(f"rule {rule.name} failed and is left out: {type(error).__name__}: {error}", key=f"rule {rule.name}")
        return None


def _questions(baseline: Evaluation, rules: Sequence[Rule]) -> int:
    """How many different statements about a change may raise one of ``rules``; at least 1."""
    asked = {("fell", name) for rule in rules for name in expand(rule.falls, baseline)}
    asked |= {("rose", name) for rule in rules for name in expand(rule.rises, baseline)}
    return max(1, sum(len(column(baseline, name)) >= MINIMUM_PAIRS for _, name in asked))


def _alert(
    key: str, rule: Rule, finding: Finding, when: tuple[int, int], baseline: Evaluation, current: Evaluation
) -> Alert:
    return Alert(
        key=key,
        rule=rule.name,
        severity=rule.severity,
        step=current.step,
        since=when[0],
        told=when[1],
        against=baseline.step,
        message=finding.message,
        changes=finding.changes + finding.beside,
        causes=finding.causes,
        worst=worst_problems(baseline, current, finding.changes),
        advice=finding.advice,
    )
