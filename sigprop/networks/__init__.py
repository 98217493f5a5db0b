"""Flax (NNX) networks: initialisers, affine layers, and the deep multilayer perceptron."""

from sigprop.networks import initialisers
from sigprop.networks.affine import Affine, WeightNormalised
from sigprop.networks.mlp import MLP
from sigprop.networks.normalisation import Normalisation, Statistics

__all__ = ["MLP", "Affine", "Normalisation", "Statistics", "WeightNormalised", "initialisers"]
