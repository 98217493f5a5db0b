"""What the usual names of an architecture mean, as compositions of kinds."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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


class _Placed(NamedTuple):
    """What a named norm puts where: before the activation, behind the layer, in its weights."""

    before: tuple[Kind, ...] = ()
    behind: tuple[Kind, ...] = ()
    dense: type[Dense] = Dense


NORMS: dict[str | None, _Placed] = {
    None: _Placed(),
    "layer_norm": _Placed(before=(Norm(),)),
    "post_layer_norm": _Placed(behind=(Norm(),)),
    "rms_norm": _Placed(before=(Norm(centred=False),)),
    "post_rms_norm": _Placed(behind=(Norm(centred=False),)),
    "batch_norm": _Placed(before=(BatchNorm(),)),
    "weight_norm": _Placed(dense=WeightNorm),
}
"""What is normalised, by name: the activation's input, a layer's output (post_), the weights' rows.

A norm of one's own gets a name by a line here.
"""


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
    first = NORMS[architecture.norm].dense(units=architecture.width)
    return Composition(first, layer, entry(layer))


def _usual(net: Any) -> Kind:
    placed = NORMS[net.norm]
    mask = (Dropout(),) if _may_drop(net.dropout) else ()
    branch = (*placed.before, Pointwise(), *mask)
    if net.block == "plain":
        return Sequence(*branch, placed.dense(), *placed.behind)
    skip = Skip(Sequence(*branch, placed.dense(bias_var=None)))
    return Sequence(skip, Bias(), *placed.behind)


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
