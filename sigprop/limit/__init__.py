"""Infinite width of any program, by reading it: exactly where that closes."""

from sigprop.limit.predicting import predict
from sigprop.limit.record import Place, Prediction
from sigprop.limit.refusals import Refusal

__all__ = ["Place", "Prediction", "Refusal", "predict"]
