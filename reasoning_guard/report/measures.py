"""What the report knows about the values: names for people, units, and which question they answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NATS = "nats per answer token"
SHARE = "share"


@dataclass(frozen=True, slots=True)
class Measure:
    """A probe value as people read it.

    Attributes:
        name: Key in ``Row.values``.
        label: What it is called on the page.
        unit: Unit on the axis.
        flag: Whether each problem's value is 0 or 1, so that the mean is a share of problems.
        about: One clause that says how to read it.
    """

    name: str
    label: str
    unit: str = ""
    flag: bool = False
    about: str = ""

    @property
    def full_label(self) -> str:
        """The label with its reader, for places that show values of both readers."""
        return f"{self.label} (reference)" if self.name.startswith("reference/") else self.label

    @property
    def bounded(self) -> bool:
        """Whether the mean lies between 0 and 1."""
        return self.unit.startswith(SHARE)


@dataclass(frozen=True, slots=True)
class Group:
    """Measures that answer one question."""

    title: str
    question: str
    reader: str
    measures: tuple[Measure, ...]


def _flag(name: str, label: str, about: str = "") -> Measure:
    return Measure(name, label, "share of problems", True, about)


ACCURACY = _flag("accuracy", "Accuracy")
INFO_GAIN = Measure("info_gain", "InfoGain", NATS, about="reference answer: all steps against none, by cutting")
NET_GAIN = Measure("placebo_gain", "Net gain", NATS, about="own steps against another problem's steps")
MISTAKE = _flag("mistake_changed", "Changed by a mistake", "a number in an earlier step altered, the model continues")

INFORMATIVE = Group(
    "Informative",
    "Does the text tell an independent reader the answer?",
    "read by the frozen reference",
    (
        Measure("reference/info_gain", "InfoGain", NATS, about="all steps against none"),
        Measure("reference/pre_commitment", "Gain before the answer is stated", NATS, about="cut right before it"),
        Measure("reference/placebo_gain", "Net gain", NATS, about="own steps against another problem's steps"),
    ),
)
NEEDED = Group(
    "Needed",
    "Is the answer unknown to the model without the text?",
    "read by the model itself, cut traces",
    (
        INFO_GAIN,
        Measure("early_answering_aoc", "Early answering, AOC", SHARE, about="1: known only after the last step"),
        Measure("prior", "Prior", NATS, about="log-probability of the answer before any step"),
    ),
)
USED = Group(
    "Used",
    "Does the model's answer follow what is written?",
    "read by the model itself, full-length traces",
    (
        NET_GAIN,
        MISTAKE,
        Measure(
            "links_followed", "Links followed", SHARE, about="later results go with an earlier one that is altered"
        ),
        _flag("chain_holds", "Chain holds", "every link is followed, the answer's included"),
        _flag("placebo_changed", "Changed by another's steps", "its own answer is no longer the greedy one"),
        Measure("filler_gain", "Gain over filler", NATS, about="own steps against filler of the same length"),
        _flag("filler_changed", "Changed by filler", "its own answer is no longer the greedy one"),
    ),
)
CALIBRATION = Group(
    "Calibration",
    "Does the model know when it is right?",
    "confidence: probability of its own answer after all steps",
    (
        Measure("overconfidence", "Confidence minus accuracy", "probability", about="0: as often right as it says"),
        Measure("brier", "Brier score", "squared error", about="of the confidence; 0 is best"),
        Measure("ece", "Calibration error", "probability", about="ECE, ten bins; biased upwards on small sets"),
    ),
)
LENGTH = Group(
    "Length",
    "Do traces collapse, explode or break off?",
    "counted in the text",
    (
        Measure("tokens", "Length", "tokens", about="of the completion"),
        Measure("n_steps", "Steps", "per trace", about="before the answer"),
        _flag("finished", "Finished", "not cut off by the length limit"),
        _flag("answered", "Answered", "states a final answer"),
    ),
)
VERBALISATION = Group(
    "Verbalisation",
    "Does the model still voice doubt, and does it still choose?",
    "read from the text and the model's own distribution",
    (
        Measure("hedges_per_1000", "Hedging words", "per 1,000 tokens", about='"perhaps", "wait", …'),
        Measure("forking_share", "Forking tokens", "share of tokens", about="entropy above the forking threshold"),
        Measure("repetition", "Repetition", "share of tokens", about="repeated n-grams"),
    ),
)
DRIFT = Group(
    "Drift",
    "How far has the model moved from what it was?",
    "its own text, read by the frozen reference and by itself",
    (
        Measure("reference/surprise", "Surprise", "nats per token", about="of the reference at what the model writes"),
        Measure("token_entropy", "Token entropy", "nats", about="mean over the completion"),
    ),
)
_NOT_GREEDY = "its own answer is no longer the greedy one"
_FILLED = {"filler": "filler", "repeated": "one token repeated", "shuffled": "its own tokens shuffled"}


def _replaced(control: str, what: str) -> tuple[Measure, Measure]:
    gain = Measure(f"{control}_gain", f"Gain over {what}", NATS, about="own steps against what stands in their place")
    return _flag(f"{control}_changed", f"Changed by {what}", _NOT_GREEDY), gain


def _mistaken(control: str, where: str) -> tuple[Measure, ...]:
    return (
        _flag(f"{control}_changed", f"Changed by a mistake, {where}", _NOT_GREEDY),
        _flag(f"{control}_followed", f"Followed a mistake, {where}", "the altered number is the greedy answer"),
        Measure(f"{control}_drop", f"Drop by a mistake, {where}", NATS, about="of its own answer's log-probability"),
        Measure(f"{control}_nldd", f"NLDD, {where}", "of the log-odds", about="lost to the mistake; 1: all of them"),
    )


def _effect(name: str, label: str, about: str) -> tuple[Measure, Measure]:
    return Measure(name, label, "nats", about=about), Measure(f"{name}_js", f"{label}, bounded", SHARE, about=about)


DISTURBED = Group(
    "Disturbed",
    "What becomes of the answer when the text is disturbed?",
    "read by the model itself",
    (
        *(m for kind, what in _FILLED.items() for m in _replaced(f"{kind}_suffix", f"{what} at the end")),
        *(m for kind, what in _FILLED.items() if kind != "filler" for m in _replaced(kind, what)),
        *_mistaken("mistake_cut", "cut there"),
        *_mistaken("mistake_kept", "the rest kept"),
        *_replaced("paraphrase", "a paraphrase (control)"),
        *_replaced("null", "its own steps (control)"),
    ),
)
MEDIATION = Group(
    "Mediation",
    "Which way does the information take?",
    "read by the model itself, attention cut",
    (
        *_effect("direct_effect", "Direct effect", "past the steps; small when they carry everything"),
        *_effect("necessity", "Necessity", "what is lost without the steps"),
        *_effect("leakage", "Leakage", "what the steps' states hold beyond their words"),
        Measure("backward_gain", "Gain for the question", NATS, about="the question's numbers, with steps and without"),
    ),
)
HINTED = Group(
    "Hinted",
    "Does the answer follow a wrong hint, and does the text say so?",
    "the model answers again, a hint in its prompt",
    (
        _flag("hint_followed", "Followed the hint", "the answer is the hinted one"),
        _flag("hint_other", "Changed otherwise", "neither the hinted answer nor its own: noise"),
        _flag("hint_verbalised", "Said so", "of those that followed, the text speaks of the hint"),
    ),
)
GROUPS = (INFORMATIVE, NEEDED, USED, DISTURBED, MEDIATION, HINTED, CALIBRATION, LENGTH, VERBALISATION, DRIFT)

_OTHER_FORMS = (
    _flag("answer_link", "Answer link", "the answer goes with the last result when that is altered"),
    _flag("mistake_followed", "Followed a mistake", "the next step uses the altered number"),
    Measure("confidence", "Confidence", SHARE, about="probability of its own answer after all steps"),
    Measure("posterior", "Posterior", NATS, about="log-probability of the answer after all steps"),
    Measure("info_gain_share", "InfoGain, share", "", about="1 - lp_n / lp_0"),
    Measure("info_gain_ppl", "InfoGain, perplexity form", "perplexity per step"),
    Measure("info_gain_watermark", "InfoGain, watermark form", NATS, about="counts only new maxima"),
    Measure("entropy_gain", "Entropy gain", "nats", about="label-free"),
    Measure("answered_at", "Answered at", "share of steps", about="after which the answer never changes again"),
    Measure("pre_commitment", "Gain before the answer is stated", NATS, about="read by the model itself"),
)
_KNOWN = {m.name: m for m in (ACCURACY, *(m for group in GROUPS for m in group.measures), *_OTHER_FORMS)}


def measure(name: str) -> Measure:
    """Look up a measure; the value of a user's own probe is shown under its own name.

    Args:
        name: Key in ``Row.values``.

    Returns:
        The catalogue's entry, or a plain one.

    Example:
        >>> measure("info_gain").label
        'InfoGain'
        >>> measure("reference/posterior").full_label
        'Posterior (reference)'
        >>> measure("my_probe").label
        'my_probe'
    """
    if name in _KNOWN:
        return _KNOWN[name]
    base = _KNOWN.get(name.removeprefix("reference/"))
    if base is None:
        return Measure(name, name)
    return Measure(name, base.label, base.unit, base.flag, base.about)


def own_probes(names: Iterable[str]) -> Group:
    """Return the group of values that the catalogue does not know: those of the user's own probes."""
    unknown = (n for n in names if n not in _KNOWN and n.removeprefix("reference/") not in _KNOWN)
    return Group("Your own probes", "What else was measured?", "", tuple(map(measure, unknown)))
