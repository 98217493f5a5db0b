"""Gradients of any model: their norms layer by layer, and whether they are right.

Nothing here needs a sigprop network.
"""

from sigprop.gradients.check_report import CheckStatus, GradientReport, Verdict
from sigprop.gradients.checking import check
from sigprop.gradients.finite_ntk import empirical_ntk
from sigprop.gradients.norms_by_layer import LayerNorms, layer_norms, log_square_norms

__all__ = [
    "CheckStatus",
    "GradientReport",
    "LayerNorms",
    "Verdict",
    "check",
    "empirical_ntk",
    "layer_norms",
    "log_square_norms",
]
