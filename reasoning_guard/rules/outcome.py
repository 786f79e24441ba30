"""Rules about what is written and what comes out: accuracy elsewhere, length, hedging, entropy.

Only lost accuracy is an alarm. It is a harm by itself, and the user gave the second set to say what must not be lost.
The others say where to look, since fine-tuning may change length, tone and certainty for good reasons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reasoning_guard.rules.base import Comparison, Finding, Rule, Severity
from reasoning_guard.statistics import Change

_ONE_IN_TWENTY = 1.645
"""Standard errors beyond which one in twenty normal values lies, on one side."""


@dataclass(frozen=True, kw_only=True)
class Memorisation(Rule):
    """Accuracy is lower on another set and not lower on the first. Rests without a second set.

    Accuracy on the first set need not be higher: if it was good from the start, it has no room for a sure rise, and
    what is lost elsewhere is lost all the same. If accuracy falls equally on both, the first set shows it. The rule
    fires only if a fall is sure, so it is wrong only if that fall is. It spends only one question for each set.
    """

    name: str = "memorisation"
    falls: tuple[str, ...] = ("accuracy@*",)
    needs: tuple[str, ...] = ("accuracy",)

    def check(self, comparison: Comparison) -> Finding | None:
        """See :class:`Rule`."""
        first_set = comparison.change("accuracy")
        if first_set is None or not comparison.not_lower("accuracy"):
            return None
        lower = tuple(each for each in comparison.fallen(self.falls) if _parts_from(first_set, each))
        if not lower:
            return None
        falls = f"falls on {', '.join(change.set for change in lower)}"
        rises = comparison.rose("accuracy")
        first = f"rises on the first set and {falls}" if rises else f"{falls} and is not lower on the first set"
        return Finding(
            message=f"accuracy {first}",
            changes=lower,
            beside=comparison.changes("accuracy"),
            advice="training examples that resemble the first set too closely; a shortcut that only they have; fewer "
            "epochs, a lower learning rate, more varied data",
        )


def _parts_from(first: Change, elsewhere: Change) -> bool:
    """Say whether accuracy surely fell more elsewhere: a small first set may have had a fall that it can't show.

    If both fell alike, one in twenty passes by chance. This test only ever holds an alarm back, so it spends no level.
    """
    error = math.hypot(first.standard_error, elsewhere.standard_error)
    return first.difference - elsewhere.difference > _ONE_IN_TWENTY * error


@dataclass(frozen=True, kw_only=True)
class Length(Rule):
    """Traces have shrunk to half their length, or grown by half, or run into the length limit.

    At the limit, the length cannot rise any more, so a fall of ``finished`` counts as well.
    """

    name: str = "length"
    severity: Severity = "notice"
    falls: tuple[str, ...] = ("tokens", "finished")
    rises: tuple[str, ...] = ("tokens",)

    def check(self, comparison: Comparison) -> Finding | None:
        """See :class:`Rule`."""
        longer = comparison.risen(("tokens",)) + comparison.fallen(("finished",))
        if longer:
            return Finding(
                message="traces have become much longer, or no longer end",
                changes=longer,
                beside=comparison.changes("repetition"),
                advice="repetition; a reward that pays for length; a missing end token in the training data",
                topic="explosion",
            )
        shorter = comparison.fallen(("tokens",))
        if not shorter:
            return None
        return Finding(
            message="traces have become much shorter",
            changes=shorter,
            beside=comparison.changes("n_steps"),
            advice="training examples with short or no reasoning; a length penalty",
            topic="collapse",
        )


@dataclass(frozen=True, kw_only=True)
class Verbalisation(Rule):
    """The model no longer voices doubt ("wait", "perhaps", "check"), though it did at the baseline.

    Kim et al. (arXiv 2603.24472) saw self-distillation silence such words, and accuracy elsewhere fall with them. A
    model that hedged less than twice in 1,000 tokens at the baseline cannot raise this rule.
    """

    name: str = "verbalisation"
    severity: Severity = "notice"
    falls: tuple[str, ...] = ("hedges_per_1000",)

    def check(self, comparison: Comparison) -> Finding | None:
        """See :class:`Rule`."""
        lower = comparison.fallen(self.falls)
        if not lower:
            return None
        return Finding(
            message="the model voices far less doubt than it did",
            changes=lower,
            beside=comparison.changes("accuracy"),
            advice="whether training chains had their doubts and checks removed; accuracy on problems from elsewhere",
        )


@dataclass(frozen=True, kw_only=True)
class Entropy(Rule):
    """The model writes with far less or far more entropy, and accuracy is not higher for it.

    Training trades entropy for accuracy (Cui et al., arXiv 2505.22617), so a fall that buys accuracy is normal. A fall
    that buys none leaves nothing to explore with. Above 90 % accuracy there is little to explore for.
    """

    name: str = "entropy"
    severity: Severity = "notice"
    falls: tuple[str, ...] = ("token_entropy",)
    rises: tuple[str, ...] = ("token_entropy",)
    needs: tuple[str, ...] = ("accuracy",)

    def check(self, comparison: Comparison) -> Finding | None:
        """See :class:`Rule`."""
        lower, higher = comparison.fallen(self.falls), comparison.risen(self.rises)
        solved = any(change.current > 0.9 for change in comparison.changes("accuracy"))
        if not (lower or higher) or comparison.rose("accuracy") or (lower and solved):
            return None
        sure = "surely " if comparison.seems_higher("accuracy") else ""
        return Finding(
            message=f"entropy has {'collapsed' if lower else 'exploded'} and accuracy is not {sure}higher for it",
            changes=lower or higher,
            beside=comparison.changes("accuracy"),
            advice="the learning rate, the sampling temperature; in reinforcement learning the KL or entropy bonus",
            topic="collapse" if lower else "explosion",
        )
