"""N(z) of the rows of a block, and its transposed Jacobian: over units, or over the inputs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.kinds.norm import inverse_root
from sigprop.propagation.signal import PerInput, Rows, as_rows, unit_of

__all__ = ["Norm", "Normalised", "normalise", "pull_back"]


class Norm(NamedTuple):
    """Which norm: (z − mean)/std, or z/rms, over the units of a row or over the inputs."""

    over_inputs: bool
    centred: bool

    @property
    def axis(self) -> int:
        """Of an array (inputs, cells, width)."""
        return 0 if self.over_inputs else 2


class Normalised(NamedTuple):
    """N(z), and what it was divided by: z has deviation exp(unit) / inverse around its mean."""

    n: Rows
    inverse: Float[Array, "inputs_or_1 cells width_or_1"]
    unit: PerInput


def normalise(norm: Norm, z: Rows, size: PerInput) -> Normalised:
    """N(z); ``size`` is the log of every row's root mean square.

    In units of that size squares neither vanish nor overflow, whatever the size of z. What does not
    vary at all is mapped to 0.
    """
    unit = unit_of(size, 0.0)
    if norm.over_inputs:  # one unit for all that are averaged
        unit = jnp.broadcast_to(jnp.max(unit, axis=0, keepdims=True), unit.shape)
    scaled = _by_input(z * as_rows(jnp.exp(-unit)), size)
    if norm.centred:
        scaled = scaled - jnp.mean(scaled, axis=norm.axis, keepdims=True)
    inverse = inverse_root(jnp.mean(jnp.square(scaled), axis=norm.axis, keepdims=True))
    return Normalised((scaled * inverse).reshape(z.shape), inverse, unit)


def pull_back(norm: Norm, normalised: Normalised, g: Rows) -> tuple[Rows, PerInput]:
    """The cotangent of z from that of N(z), and the log of a factor to multiply it by.

    (g − mean(g) − n mean(n g)) / std, with means over what N averages over; without mean(g) for
    rms norm.
    """
    n, cotangent = (_by_input(v, normalised.unit) for v in (normalised.n, g))
    mean = lambda v: jnp.mean(v, axis=norm.axis, keepdims=True)  # noqa: E731
    pulled = cotangent - n * mean(n * cotangent)
    if norm.centred:
        pulled = pulled - mean(cotangent)
    return (pulled * normalised.inverse).reshape(g.shape), -normalised.unit


def _by_input(rows, per_input):
    return rows.reshape(*per_input.shape, rows.shape[-1])
