"""Probes: what can be asked about a trace. One file for each family.

:func:`default_probes` is what a guard asks at every evaluation: what the alarms rest on, and what is nearly free.
:func:`all_probes` is the complete suite, for a closer look at a model. ``docs/faithfulness.md`` says which probe reads
what rightly, and what each costs.
"""

from reasoning_guard.probes.backward import BackwardProbe
from reasoning_guard.probes.base import Probe, ProbeContext, Reading
from reasoning_guard.probes.behaviour import AccuracyProbe, BehaviourProbe
from reasoning_guard.probes.calibration import CalibrationProbe
from reasoning_guard.probes.controls import NullProbe, PlaceboProbe
from reasoning_guard.probes.corrupters import Alteration, Corrupter, corrupt
from reasoning_guard.probes.drift import DriftProbe
from reasoning_guard.probes.early_answering import EarlyAnsweringProbe
from reasoning_guard.probes.filler import FillerProbe
from reasoning_guard.probes.hints import Hint, HintProbe, suggestion
from reasoning_guard.probes.information import InfoGainProbe, PreCommitmentProbe
from reasoning_guard.probes.links import LinkProbe
from reasoning_guard.probes.mediation import MediationProbe
from reasoning_guard.probes.mistakes import MistakeProbe
from reasoning_guard.probes.paraphrase import ParaphraseProbe, Paraphraser


def default_probes() -> list[Probe]:
    """Return the probes that a guard asks by default: all three axes, accuracy, calibration and behaviour."""
    return [
        AccuracyProbe(),
        InfoGainProbe(),
        PreCommitmentProbe(),
        EarlyAnsweringProbe(),
        PlaceboProbe(),
        FillerProbe(),
        LinkProbe(),
        MistakeProbe(),
        CalibrationProbe(),
        DriftProbe(),
        BehaviourProbe(),
    ]


def branch_probes() -> list[Probe]:
    """Return every probe that needs only branches: one shared pass answers them all, and nothing is generated."""
    return [
        InfoGainProbe(),
        PreCommitmentProbe(),
        EarlyAnsweringProbe(),
        PlaceboProbe(),
        NullProbe(),
        FillerProbe(),
        FillerProbe(after=0.875),
        FillerProbe("repeated", after=0.875),
        FillerProbe("shuffled", after=0.875),
        LinkProbe(),
        MistakeProbe(then="answer"),
        MistakeProbe(then="keep"),
        MediationProbe(),
        BackwardProbe(),
    ]


def all_probes(*, paraphraser: Paraphraser | None = None, hint: Hint = suggestion) -> list[Probe]:
    """Return the complete suite.

    Args:
        paraphraser: Says steps in other words. Without one there is no paraphrase control.
        hint: Puts a hint toward a wrong answer into a problem.

    Returns:
        Every probe. Three of them generate: mistakes from which the model goes on, hints, and the paraphraser.
    """
    paraphrase: list[Probe] = [] if paraphraser is None else [ParaphraseProbe(paraphraser)]
    others = [CalibrationProbe(), DriftProbe(), BehaviourProbe()]
    return [AccuracyProbe(), *branch_probes(), *paraphrase, MistakeProbe(), HintProbe(hint), *others]


__all__ = [
    "AccuracyProbe",
    "Alteration",
    "BackwardProbe",
    "BehaviourProbe",
    "CalibrationProbe",
    "Corrupter",
    "DriftProbe",
    "EarlyAnsweringProbe",
    "FillerProbe",
    "HintProbe",
    "InfoGainProbe",
    "LinkProbe",
    "MediationProbe",
    "MistakeProbe",
    "NullProbe",
    "ParaphraseProbe",
    "Paraphraser",
    "PlaceboProbe",
    "PreCommitmentProbe",
    "Probe",
    "ProbeContext",
    "Reading",
    "all_probes",
    "branch_probes",
    "corrupt",
    "default_probes",
]
