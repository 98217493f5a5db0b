"""Gradients of any model: their norms layer by layer, and whether they are right.

Nothing here needs a sigprop network.
"""

from sigprop.gradients.layer_norms import LayerNorms, layer_norms, log_square_norms

__all__ = ["LayerNorms", "layer_norms", "log_square_norms"]
