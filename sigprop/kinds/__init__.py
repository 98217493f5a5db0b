"""Kinds of layers: each says in one file what is drawn, how it acts, what it does to covariances.

`compose` makes the kinds of an architecture; a composition of your own goes into
``Architecture(layer=...)``.
"""

from sigprop.kinds.batch_norm import BatchNorm
from sigprop.kinds.dense import Bias, Dense
from sigprop.kinds.dropout import Dropout
from sigprop.kinds.gated import Gated
from sigprop.kinds.gauss import Gauss
from sigprop.kinds.kind import Kind, Mix, Shape, rewritten
from sigprop.kinds.norm import Norm
from sigprop.kinds.pointwise import Pointwise
from sigprop.kinds.sequence import Sequence
from sigprop.kinds.skip import Skip
from sigprop.kinds.state import NoTheory, State
from sigprop.kinds.usual import Composition, compose, sharing_masks
from sigprop.kinds.weight_norm import WeightNorm

__all__ = [
    "BatchNorm",
    "Bias",
    "Composition",
    "Dense",
    "Dropout",
    "Gated",
    "Gauss",
    "Kind",
    "Mix",
    "NoTheory",
    "Norm",
    "Pointwise",
    "Sequence",
    "Shape",
    "Skip",
    "State",
    "WeightNorm",
    "compose",
    "rewritten",
    "sharing_masks",
]
