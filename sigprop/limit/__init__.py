"""Infinite width of any program, by reading it: exactly where that closes."""

from sigprop.limit.gain import CriticalGain, critical_gain
from sigprop.limit.layers import layer_covariance
from sigprop.limit.predicting import predict
from sigprop.limit.record import Place, Prediction
from sigprop.limit.refusals import Refusal

__all__ = [
    "CriticalGain",
    "Place",
    "Prediction",
    "Refusal",
    "critical_gain",
    "layer_covariance",
    "predict",
]
