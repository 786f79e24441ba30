"""Probes: what can be asked about a trace. One file a family; :func:`default_probes` is what a guard asks."""

from reasoning_guard.probes.base import Probe, ProbeContext, Reading
from reasoning_guard.probes.behaviour import AccuracyProbe, BehaviourProbe
from reasoning_guard.probes.calibration import CalibrationProbe
from reasoning_guard.probes.controls import FillerProbe, PlaceboProbe
from reasoning_guard.probes.drift import DriftProbe
from reasoning_guard.probes.early_answering import EarlyAnsweringProbe
from reasoning_guard.probes.information import InfoGainProbe, PreCommitmentProbe
from reasoning_guard.probes.links import LinkProbe
from reasoning_guard.probes.mediation import MediationProbe
from reasoning_guard.probes.mistakes import MistakeProbe


def default_probes() -> list[Probe]:
    """The probes of a guard that was not told otherwise: all three axes, accuracy, calibration and behaviour."""
    return [
        AccuracyProbe(),
        InfoGainProbe(),
        PreCommitmentProbe(),
        EarlyAnsweringProbe(),
        PlaceboProbe(),
        FillerProbe(),
        MistakeProbe(),
        CalibrationProbe(),
        DriftProbe(),
        BehaviourProbe(),
    ]


__all__ = [
    "AccuracyProbe",
    "BehaviourProbe",
    "CalibrationProbe",
    "DriftProbe",
    "EarlyAnsweringProbe",
    "FillerProbe",
    "InfoGainProbe",
    "LinkProbe",
    "MediationProbe",
    "MistakeProbe",
    "PlaceboProbe",
    "PreCommitmentProbe",
    "Probe",
    "ProbeContext",
    "Reading",
    "default_probes",
]
