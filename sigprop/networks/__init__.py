"""Flax (NNX) networks: initialisers, layers of any kind, and the deep multilayer perceptron."""

from sigprop.networks import initialisers
from sigprop.networks.layer import Layer
from sigprop.networks.mlp import MLP, Statistics

__all__ = ["MLP", "Layer", "Statistics", "initialisers"]
