"""The doctor: one call on one's own model, and what would repair it."""

from sigprop.diagnosis.doctor import diagnose
from sigprop.diagnosis.report import Diagnosis
from sigprop.diagnosis.statistics import LayerReading

__all__ = ["Diagnosis", "LayerReading", "diagnose"]
