"""Which remedy cures which failing run: patients, treatments, their theory, runs and verdicts."""

from sigprop.studies.remedies.patients import PATIENTS, Budget, Patient, Setup, patient
from sigprop.studies.remedies.remedies import Remedies
from sigprop.studies.remedies.treatments import REMEDIES, NotApplicable, treated
from sigprop.studies.remedies.verdicts import Verdict, remedies_table, with_verdicts

__all__ = [
    "PATIENTS",
    "REMEDIES",
    "Budget",
    "NotApplicable",
    "Patient",
    "Remedies",
    "Setup",
    "Verdict",
    "patient",
    "remedies_table",
    "treated",
    "with_verdicts",
]
