"""The decision: from all evaluations to alerts, as a pure function, so a resumed run decides as the first one did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reasoning_guard.alerts import Alert, worst_problems
from reasoning_guard.errors import ConfigurationError, warn_once
from reasoning_guard.evaluation import Evaluation, from_baseline
from reasoning_guard.rules import EFFECTS, RULES, Comparison, Finding, Rule, column, expand
from reasoning_guard.statistics import MINIMUM_PAIRS, Effect, spend


def decide(
    evaluations: Iterable[Evaluation],
    rules: Sequence[Rule] = RULES,
    *,
    alpha: float = 0.05,
    patience: int = 2,
    effects: Mapping[str, Effect] = EFFECTS,
    strict: bool = False,
) -> list[Alert]:
    """Replay a run and return the alerts that its guard must raise.

    Each evaluation after the baseline (see :func:`baseline_of`) is a look, except a failed one. A finding becomes an
    alert when it holds at ``patience`` looks in a row, and stays one alert from then on. Findings of one severity that
    rest on the same fall count as one row of looks, whichever rule makes them. Whether accuracy is surely lower beside
    the fall decides which rule it is, not for how long the reasoning has been bad.

    An alert is over at the first look at which its finding does not hold. A look that cannot tell ends nothing. That is
    a look at which none of the values that moved has data, or at which a value that the rule needs is missing.

    Args:
        evaluations: The evaluations in the order of their steps.
        rules: What must not happen.
        alpha: Chance of any false alarm over the whole run; false notices have the same chance of their own.
        patience: Number of looks in a row at which a finding must hold.
        effects: Smallest change that matters, by value name.
        strict: Raise if a rule raises. Otherwise that rule is left out, with a warning the first time, and the others
            go on.

    Returns:
        One alert for each cause, the earliest first.

    Raises:
        ConfigurationError: A rule failed, and ``strict``.
    """
    made = from_baseline(evaluations)
    if not made:
        return []
    baseline, *looks = made
    alerts: dict[str, Alert] = {}
    rows: dict[str, _Row] = {}
    for number, current in enumerate(looks, start=1):
        comparison = Comparison(baseline=baseline, current=current, level=spend(alpha, number), effects=effects)
        found = _findings(comparison, rules, strict)
        before, rows = rows, {}
        for key, (rule, finding) in found.items():
            row = rows[key] = _Row.of(key, rule, finding, comparison, before)
            if row.length >= patience:
                told = alerts[key].told if key in alerts else current.step
                alerts[key] = _alert(key, rule, finding, (row.since, told), baseline, current)
        told_already = {key for key, alert in alerts.items() if alert.open}
        unseen = {key: row for key, row in before.items() if key in told_already and row.is_unseen(comparison)}
        rows = unseen | rows
        alerts = {key: alert if key in rows else replace(alert, open=False) for key, alert in alerts.items()}
    return list(alerts.values())


@dataclass(frozen=True, slots=True)
class _Row:
    """An unbroken row of looks at which a finding, or another that rests on the same fall, held.

    Attributes:
        severity: Severity of its findings.
        moved: What the findings rest on, as rules name it, and whether it fell.
        needs: Values that the latest finding could not do without.
        since: Step of the first look.
        length: Number of looks.
    """

    severity: str
    moved: frozenset[tuple[str, bool]]
    needs: tuple[str, ...]
    since: int
    length: int

    @staticmethod
    def of(key: str, rule: Rule, finding: Finding, look: Comparison, before: Mapping[str, _Row]) -> _Row:
        """Return the row that a finding continues or begins; ``before`` holds the rows of the look before."""
        first = look.baseline.sets[0]
        names = ((c, c.name if c.set == first else f"{c.name}@{c.set}") for c in finding.changes)
        moved = frozenset((name, c.difference < 0) for c, name in names if name not in rule.needs)
        kin = [row for k, row in before.items() if k == key or (row.severity == rule.severity and row.moved & moved)]
        since = min((row.since for row in kin), default=look.current.step)
        return _Row(rule.severity, moved, rule.needs, since, 1 + max((row.length for row in kin), default=0))

    def is_unseen(self, look: Comparison) -> bool:
        """Say whether this look lacks all that the row rests on, or any value that its rule needs."""
        gone = bool(self.moved) and all(look.change(name) is None for name, _ in self.moved)
        return gone or any(look.change(name) is None for name in self.needs)


def baseline_of(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """Return the baseline: the first evaluation at which the model answers better than by chance.

    Later evaluations are compared with it. A base model that does not know the answer format yet gets nothing right at
    step 0. Dependence on the text means nothing there (:mod:`reasoning_guard.gate`), and such a baseline would let
    every rule rest for the whole run.

    Args:
        evaluations: The evaluations in the order of their steps.

    Returns:
        The baseline, or None as long as there is none.
    """
    return next(iter(from_baseline(evaluations)), None)


def resting(evaluations: Iterable[Evaluation], rules: Sequence[Rule] = RULES) -> dict[str, str]:
    """Return the rules that lack the data to judge the latest evaluation, and what they lack.

    Args:
        evaluations: The evaluations in the order of their steps.
        rules: The rules to look at.

    Returns:
        Rule name to reason; empty before there is a baseline.
    """
    made = [e for e in evaluations if e.failure is None and e.rows]
    looks = from_baseline(made)
    if made and not looks:
        return dict.fromkeys((rule.name for rule in rules), "accuracy is near chance, so there is no baseline yet")
    reasons = {rule.name: _lack(rule, looks[0], looks[-1]) for rule in rules} if looks else {}
    return {name: reason for name, reason in reasons.items() if reason}


def can_judge(evaluations: Iterable[Evaluation], rules: Sequence[Rule] = RULES) -> bool:
    """Say whether any alarm has the data to judge the reasoning at the latest evaluation.

    If none has, silence means nothing. Accuracy says nothing about the reasoning, and at chance nothing does.

    Args:
        evaluations: The evaluations in the order of their steps.
        rules: The rules to look at.
    """
    looks = from_baseline(evaluations)
    if len(looks) < 2 or looks[-1].sets[0] in looks[-1].gated:
        return False
    alarms = [rule for rule in rules if rule.severity == "alarm" and not _asks_accuracy_alone(rule)]
    return any(not _lack(rule, looks[0], looks[-1]) for rule in alarms)


def _asks_accuracy_alone(rule: Rule) -> bool:
    return {name.partition("@")[0] for name in (*rule.falls, *rule.rises)} == {"accuracy"}


def _lack(rule: Rule, baseline: Evaluation, latest: Evaluation) -> str:
    def has(name: str) -> bool:
        return len(column(baseline, name).keys() & column(latest, name).keys()) >= MINIMUM_PAIRS

    watched = expand((*rule.falls, *rule.rises), baseline)
    if not watched and (rule.falls or rule.rises):
        return "it compares problem sets, and there is only one; give a second, e.g. a column `set` with id and ood"
    lacking = [name for name in rule.needs if not has(name)]
    missing = list(lacking)
    at_chance = latest.sets[0] in latest.gated
    if not missing and watched and not any(map(has, watched)) and not (rule.judges_chance and at_chance):
        lacking = list(dict.fromkeys(watched))
        missing = [f"any of {', '.join(lacking)}"]
    both = f"both at step {baseline.step} and at step {latest.step}"
    where = f"at step {latest.step}" if latest is baseline else both
    why = ", since accuracy is near chance" if at_chance else _unanswered(lacking, latest)
    return f"fewer than {MINIMUM_PAIRS} problems have {' and '.join(missing)} {where}{why}" if missing else ""


def _unanswered(lacking: Sequence[str], evaluation: Evaluation) -> str:
    """Say how many problems lack values because they have no reference answer."""
    for name in lacking:
        plain, _, set = name.partition("@")
        rows = [row for row in evaluation.rows if row.set == (set or evaluation.sets[0])]
        without = sum("no reference answer" in row.reasons.get(plain, "") for row in rows)
        if without and len(column(evaluation, name)) + without >= MINIMUM_PAIRS:
            return f", since {without} of {len(rows)} have no reference answer"
    return ""


def _findings(look: Comparison, rules: Sequence[Rule], strict: bool) -> dict[str, tuple[Rule, Finding]]:
    """Return what the rules find in one look, by key. The questions of a severity share its level equally."""
    found: dict[str, tuple[Rule, Finding]] = {}
    for severity in ("alarm", "notice"):
        asking = [rule for rule in rules if rule.severity == severity]
        comparison = replace(look, level=look.level / _questions(look.baseline, asking))
        for rule in asking:
            if finding := _check(rule, comparison, strict):
                found["/".join(filter(None, (rule.name, finding.topic)))] = (rule, finding)
    return found


def _check(rule: Rule, comparison: Comparison, strict: bool) -> Finding | None:
    """Return what ``rule`` finds. A rule that raises is left out, and the others go on."""
    try:
        return rule.check(comparison)
    except Exception as error:
        failed = f"rule {rule.name} failed"
        if strict:
            raise ConfigurationError(f"{failed}: {type(error).__name__}: {error}") from error
        warn_once(f"{failed} and is left out: {type(error).__name__}: {error}", key=f"rule {rule.name}")
        return None


def _questions(baseline: Evaluation, rules: Sequence[Rule]) -> int:
    """Count the different statements about a change that may raise one of ``rules``; at least 1."""
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
