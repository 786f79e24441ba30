"""The sentence at the top: what happened to accuracy and to the reasoning, and whether the guard spoke up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoning_guard.decision import baseline_of, can_judge
from reasoning_guard.report.measures import INFORMATIVE, NEEDED, USED, Group, measure
from reasoning_guard.report.numbers import number
from reasoning_guard.report.series import LEVEL, Timeline
from reasoning_guard.rules import RULES

if TYPE_CHECKING:
    from reasoning_guard.alerts import Alert

GONE = 0.2
"""A measure of which less than this share is left counts as gone, for the choice of words only."""
NEGLIGIBLE = 0.1
"""A measure whose interval reaches below this (nats, or share) is not called alive, for the choice of words only."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the page says first about a run.

    Attributes:
        sentence: One sentence.
        state: "alarm", "notice", "quiet", or "empty" if there is nothing to compare yet.
        label: The state in a few words.
    """

    sentence: str
    state: str
    label: str


def verdict(history: Timeline, alerts: Sequence[Alert], rules: Sequence[str] = ()) -> Verdict:
    """Sum up a run's history and alerts in one sentence.

    Args:
        history: The run in numbers.
        alerts: What the guard said, in any order.
        rules: Names of the rules that watched. Whether a user's own rules had the data to judge is not known here.
    """
    gravest = min(alerts, key=gravity, default=None)
    if gravest is not None:
        sentence = f"{_accuracy(history)} {_consequence(history, gravest)}: {when(gravest)}."
        return Verdict(sentence, gravest.severity, when(gravest).capitalize())
    first, last = history.first, history.last
    failed = sum(s.failure is not None for s in history.snapshots)
    blind = f", {failed} more failed" if failed else ""
    if first is None or last is None:
        none = f"All evaluations so far failed ({failed})" if failed else "No evaluation was recorded"
        return Verdict(f"{none}: there is nothing to compare yet.", "empty", "No verdict")
    if baseline_of([first]) is None:
        found = "Accuracy is near chance so far, where nothing can be read off the reasoning"
        return Verdict(f"{found}: there is nothing to compare yet.", "empty", "No verdict")
    looks = sum(s.failure is None and s.step >= first.step for s in history.snapshots)
    if looks < 2:
        found = f"Only the baseline was evaluated{blind}"
        return Verdict(f"{found}: there is nothing to compare yet.", "empty", "No verdict")
    if not can_judge([first, last]) and not {*rules} - {rule.name for rule in RULES}:
        found = "but no alarm has the data to judge the reasoning: that there is none says nothing"
        return Verdict(f"{_accuracy(history)} {found}.", "empty", "Not judged")
    told = f"no alarm in {looks} evaluations{blind}"
    return Verdict(f"{_accuracy(history)}{_kept(history)}: {told}.", "quiet", "No alarm")


def gravity(alert: Alert) -> tuple[bool, int]:
    """Return a sort key: alarms before notices, earlier ones first."""
    return alert.severity != "alarm", alert.since


def when(alert: Alert) -> str:
    """Say in words at which time an alert holds."""
    if alert.open:
        return f"{alert.severity} since step {alert.since:,}"
    return f"{alert.severity} from step {alert.since:,} to {alert.step:,}"


def _accuracy(history: Timeline) -> str:
    ends, change = history.ends("accuracy"), history.difference("accuracy")
    if ends is None or change is None:
        apart = all(e is not None and e.values("accuracy") for e in (history.first, history.last))
        return f"Accuracy was not measured{' on the same problems' if apart else ''},"
    before, after = (number(e.mean, share=True) for e in ends)
    graded = len(history.first.values("accuracy")) if history.first else change.n
    some = f" on {change.n:,} of {graded:,} problems" if change.n < graded else ""
    if before == after:
        return f"Accuracy stayed at {before}{some},"
    if change.lower > 0 or change.upper < 0:
        return f"Accuracy {'rose' if change.mean > 0 else 'fell'} from {before} to {after}{some},"
    return f"Accuracy did not surely change{some} ({before}, then {after}),"


def _consequence(history: Timeline, alert: Alert) -> str:
    words = _WORDS.get(alert.rule)
    return words(history, alert) if words else f"and the rule {alert.rule} was broken"


def _memorisation(history: Timeline, alert: Alert) -> str:
    elsewhere = [c for c in alert.changes if c.name == "accuracy" and c.set != next(iter(history.sets), "")]
    each = [f"{c.set} ({number(c.baseline, share=True)} to {number(c.current, share=True)})" for c in elsewhere]
    return f"but accuracy elsewhere fell, on {_listed(each)}" if each else "but accuracy elsewhere fell"


def _length(history: Timeline, alert: Alert) -> str:
    moved = {change.name: change.difference for change in alert.changes}
    if moved.get("tokens", 0.0) < 0 and moved.get("finished", 0.0) >= 0:
        return "and its traces became much shorter"
    return "and its traces became much longer, or no longer end"


def _entropy(history: Timeline, alert: Alert) -> str:
    fell = any(change.name == "token_entropy" and change.difference < 0 for change in alert.changes)
    return f"and the model writes with far {'less' if fell else 'more'} entropy, which bought no accuracy"


def _trap(history: Timeline, changed: Sequence[str]) -> str:
    used = [name for name in changed if _in(USED, name)] or fallen(history, USED)
    informative = [name for name in changed if _in(INFORMATIVE, name)] or fallen(history, INFORMATIVE)
    if not used:
        return "the reasoning stopped telling the answer" if informative else "the reasoning lost its part in it"
    if any(_left(history, name) < GONE for name in used):
        return "the model stopped using its reasoning"
    return "the model uses its reasoning less"


_WORDS: Mapping[str, Callable[[Timeline, Alert], str]] = {
    "accuracy_trap": lambda history, alert: f"and {_trap(history, [change.name for change in alert.changes])}",
    "collapse": lambda history, alert: "and the reasoning fell with it",
    "memorisation": _memorisation,
    "known_early": lambda history, alert: "and the model now knows the answer before it writes the reasoning",
    "length": _length,
    "verbalisation": lambda history, alert: "and the model voices far less doubt than it did",
    "entropy": _entropy,
}
"""What each shipped rule's alert comes to, behind what accuracy did."""


def _kept(history: Timeline) -> str:
    lost = [measure(name).full_label for name in fallen(history, USED, INFORMATIVE)]
    if lost:
        return f" and {_listed(list(dict.fromkeys(lost)))} fell, within what the rules allow"
    used = [_alive(history, m.name) for m in USED.measures if history.ends(m.name) is not None]
    if any(used):
        return f" and the model {'still uses its reasoning' if all(used) else 'uses its reasoning no less than before'}"
    if any(_alive(history, m.name) for m in INFORMATIVE.measures):
        return " and its reasoning still tells the answer"
    return " and no measure of reasoning fell" if fallen(history, NEEDED) == [] else ""


def fallen(history: Timeline, *groups: Group) -> list[str]:
    """Return names in ``groups`` that surely fell from the baseline to the last evaluation, problem by problem.

    The more measures are asked, the likelier one of them falls by chance. So their intervals share one error of 5 %.
    """
    asked = [m.name for group in groups for m in group.measures if history.ends(m.name) is not None]
    level = 1 - (1 - LEVEL) / max(1, len(asked))
    changes = ((name, history.difference(name, level=level)) for name in asked)
    return [name for name, change in changes if change is not None and change.upper < 0]


def _left(history: Timeline, name: str) -> float:
    ends = history.ends(name)
    return ends[1].mean / ends[0].mean if ends and ends[0].mean > 0 else 1.0


def _alive(history: Timeline, name: str) -> bool:
    ends = history.ends(name)
    return ends is not None and ends[1].lower > NEGLIGIBLE


def _in(group: Group, name: str) -> bool:
    return any(m.name == name for m in group.measures)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
