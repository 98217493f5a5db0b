"""Flax (NNX) networks: initialisers and the deep multilayer perceptron."""

from sigprop.networks import initialisers
from sigprop.networks.mlp import MLP, Affine

__all__ = ["MLP", "Affine", "initialisers"]
