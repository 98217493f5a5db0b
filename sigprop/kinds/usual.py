"""What the usual names of an architecture mean, as compositions of kinds."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sigprop._checks import check_one_of
from sigprop._precision import is_traced
from sigprop.kinds.batch_norm import BatchNorm
from sigprop.kinds.dense import Bias, Dense
from sigprop.kinds.dropout import Dropout
from sigprop.kinds.kind import Kind, bound, rewritten
from sigprop.kinds.norm import Norm
from sigprop.kinds.pointwise import Pointwise
from sigprop.kinds.sequence import Sequence
from sigprop.kinds.skip import Skip
from sigprop.kinds.weight_norm import WeightNorm

__all__ = ["NORMS", "Composition", "compose", "sharing_masks"]

NORMS: dict[str | None, Kind] = {
    "layer_norm": Norm(),
    "rms_norm": Norm(centred=False),
    "batch_norm": BatchNorm(),
    "post_layer_norm": Norm(),
    "post_rms_norm": Norm(centred=False),
}
"""The norms of a signal by name; ``post_`` ones act on what a layer gives."""


@dataclass(frozen=True)
class Composition:
    """The kinds of a network; static.

    Attributes
    ----------
    first
        From x⁰ to z¹.
    layer
        From z^l to z^{l+1}, l = 1..depth - 1.
    last
        From z^depth to the features: how a layer enters, up to its first weights, but for dropout.
    """

    first: Kind
    layer: Kind
    last: Kind

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of all numbers that are read."""
        kinds = (self.first, self.layer, self.last)
        return tuple(dict.fromkeys(name for kind in kinds for name in kind.numbers))


def compose(architecture: Any, masks: str = "independent") -> Composition:
    """The kinds of an architecture, bound to its activation.

    plain: φ(N(z)), dropout, W h + b; residual: z + α W h, then + b; a ``post_`` norm on the whole.

    Parameters
    ----------
    architecture
        An `Architecture`: its ``block``, ``norm`` and ``dropout``, or its own ``layer``.
    masks
        "independent" or "shared": whether all inputs lose the same units to dropout.

    Examples
    --------
    >>> from sigprop.architecture import Architecture
    >>> net = Architecture(4, 8, "tanh", 1.0, block="residual", norm="layer_norm")
    >>> [type(kind).__name__ for kind in compose(net).layer.kinds]
    ['Skip', 'Bias']
    >>> compose(net).numbers
    ('weight_var', 'bias_var', 'branch_scale')
    """
    check_one_of("masks", masks, ("independent", "shared"))
    own = getattr(architecture, "layer", None)
    layer = bound(_usual(architecture) if own is None else own, architecture.activation)
    if masks == "shared":
        layer = sharing_masks(layer)
    dense = WeightNorm if architecture.norm == "weight_norm" else Dense
    first = dense(units=architecture.width)
    return Composition(first, layer, entry(layer))


def _usual(net: Any) -> Kind:
    found = () if net.norm not in NORMS else (NORMS[net.norm],)
    enter, leave = ((), found) if str(net.norm).startswith("post_") else (found, ())
    mask = (Dropout(),) if _may_drop(net.dropout) else ()
    dense = WeightNorm if net.norm == "weight_norm" else Dense
    branch = (*enter, Pointwise(), *mask)
    if net.block == "plain":
        return Sequence(*branch, dense(), *leave)
    return Sequence(Skip(Sequence(*branch, dense(bias_var=None))), Bias(), *leave)


def _may_drop(dropout) -> bool:
    return is_traced(dropout) or bool(np.any(np.asarray(dropout)))


def sharing_masks(kind: Kind) -> Kind:
    """``kind`` with all inputs of a call losing the same units to dropout."""
    shared = lambda one: replace(one, shared=True) if isinstance(one, Dropout) else one  # noqa: E731
    return rewritten(kind, shared)


def entry(layer: Kind) -> Kind:
    """How a layer enters: its kinds up to the first that has weights, but for what is random."""
    if isinstance(layer, Skip):
        return entry(layer.branch)
    if not isinstance(layer, Sequence):
        return Sequence() if _has_weights(layer) else layer
    entering = []
    for kind in layer.kinds:
        if _has_weights(kind):
            inner = entry(kind) if isinstance(kind, Skip | Sequence) else Sequence()
            entering.append(inner)
            break
        if not kind.random:
            entering.append(kind)
    return Sequence(*entering)


def _has_weights(kind: Kind) -> bool:
    return bool(kind.mixes((1, 1)))
