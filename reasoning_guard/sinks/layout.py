"""Arrange the charts on TensorBoard's custom-scalars page: what to look at first comes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reasoning_guard.evaluation import Evaluation
from reasoning_guard.rules import AXES, names_of

BANDS = "guard_intervals/"
"""Ends of intervals are in a group of scalars of their own, out of the way of the values."""

HEADLINE = ("accuracy", "info_gain")
GAINS = ("placebo_gain", "filler_gain", "reference/placebo_gain")
LEVELS = ("prior", "posterior", "reference/posterior")
BANDED = frozenset((*HEADLINE, *names_of(*AXES), *GAINS, *LEVELS))
"""Values whose 95 % intervals are drawn."""

_SUFFIXES = ("filler_suffix", "repeated_suffix", "shuffled_suffix")
_EFFECTS = ("direct_effect", "necessity", "leakage")

_PAGE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Reasoning guard": {"accuracy and InfoGain": HEADLINE},
    "Faithfulness": {
        **{axis: tuple(names) for axis, names in AXES.items()},
        "gain over placebo and filler": GAINS,
        "prior and posterior": LEVELS,
    },
    "Calibration": {
        "confidence and accuracy": ("confidence", "accuracy"),
        "Brier score and calibration error": ("brier", "ece"),
    },
    "Behaviour": {
        "length": ("tokens",),
        "steps": ("n_steps",),
        "finished and answered": ("finished", "answered"),
        "hedging words per 1,000 tokens": ("hedges_per_1000",),
        "entropy and drift": ("token_entropy", "reference/surprise"),
    },
    "Closer look": {
        "changed by filler": tuple(f"{kind}_changed" for kind in ("filler", *_SUFFIXES)),
        "links and mistakes that are followed": ("links_followed", "answer_link", "mistake_followed"),
        "mistakes without going on": ("mistake_cut_changed", "mistake_kept_changed"),
        "mediation": _EFFECTS,
        "mediation, bounded": tuple(f"{effect}_js" for effect in _EFFECTS),
        "hints": ("hint_followed", "hint_other", "hint_verbalised"),
        "gain for the question": ("backward_gain",),
        "controls": ("null_changed", "null_gain", "paraphrase_changed", "paraphrase_gain"),
    },
    "Cost": {
        "seconds an evaluation": ("seconds", *(f"seconds_{part}" for part in ("generation", "scoring", "rest"))),
        "share of problems not scored": ("unscored_fraction",),
    },
}
_ALWAYS = {"ece", "seconds", "unscored_fraction"}
"""Scalars that belong to an evaluation, not to a row."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        tags: Names of the scalars.
        bands: Whether their 95 % intervals are drawn around them.
    """

    tags: tuple[str, ...]
    bands: bool = False

    def series(self) -> Iterator[tuple[str, str, str]]:
        """Return value, lower and upper tag of each line."""
        for tag in self.tags:
            yield tag, *band_tags(tag)


Layout = Mapping[str, Mapping[str, Chart]]
"""From category to title to chart."""


def band_tags(tag: str) -> tuple[str, str]:
    """Return the tags under which the ends of a value's interval are written.

    >>> band_tags("eval/guard/accuracy")
    ('guard_intervals/accuracy/lower', 'guard_intervals/accuracy/upper')
    """
    name = BANDS + tag.partition("guard/")[2]
    return f"{name}/lower", f"{name}/upper"


def layout(evaluation: Evaluation, prefix: str = "") -> dict[str, dict[str, Chart]]:
    """Choose charts for the values that an evaluation holds.

    Args:
        evaluation: Any evaluation of the run.
        prefix: What the host puts before the names of scalars, e.g. ``"eval/"``.

    Returns:
        From category to title to chart, in the order in which people look: accuracy and InfoGain, faithfulness,
        calibration, behaviour, the rest of the suite as far as it was asked, cost.
    """
    known = {*evaluation.names(), *_ALWAYS, *(f"seconds_{part}" for part in evaluation.seconds)}
    page: dict[str, dict[str, Chart]] = {}
    for category, charts in _PAGE.items():
        held = {title: [name for name in names if name in known] for title, names in charts.items()}
        drawn = {title: _chart(names, prefix) for title, names in held.items() if names}
        page |= {category: drawn} if drawn else {}
    others = [f"{prefix}guard/{set}/accuracy" for set in evaluation.sets[1:]]
    if others and "accuracy" in known:
        page["Reasoning guard"]["accuracy by set"] = Chart((f"{prefix}guard/accuracy", *others), bands=True)
    return page


def _chart(names: Sequence[str], prefix: str) -> Chart:
    return Chart(tuple(f"{prefix}guard/{name}" for name in names), bands=all(name in BANDED for name in names))
