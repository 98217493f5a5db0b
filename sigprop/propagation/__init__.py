"""Measured propagation of signals and gradients through finite networks."""

from sigprop.propagation.draws import cell_key, seed_key
from sigprop.propagation.measurement import Measurement, MeasurementStatus
from sigprop.propagation.measuring import measure

__all__ = ["Measurement", "MeasurementStatus", "cell_key", "measure", "seed_key"]
