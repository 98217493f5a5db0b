r"""Layer by layer at infinite width: a kind's covariances, and their derivative for gradients.

The squared gradient needs no rule of its own. Give two copies of one input covariances that differ
from its variance by X: behind a layer with Jacobian J they differ by E[J X Jᵀ] (Price 1958), and
its transpose takes E[g gᵀ] back through the layer. For inputs that do not feel each other that is a
number, χ. In a batch of B exchangeable ones it has two, of the parts of a symmetric matrix along
P = 1 - 11ᵀ/B and along 11ᵀ/B.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop._loops import scan
from sigprop.kinds import Gauss, Kind, State

__all__ = ["layers"]

Number = Float[Array, ""]


def layers(
    layer: Kind,
    gauss: Gauss,
    depth: int,
    numbers: Mapping[str, Number],
    variance0: Number,
    apart0: Number | None = None,
) -> tuple[Float[Array, " layer"], Float[Array, " layer"], Float[Array, " layer"]]:
    """Variance, 1 - c (nan without ``apart0``) and χ of layers 1..depth of one cell.

    Raises
    ------
    NoTheory
        If a kind in ``layer`` does not know what it does to its signal.
    """
    if layer.couples_inputs and apart0 is None:
        apart0 = _own_angle(layer, gauss, numbers, variance0)

    def step(state, _):
        after, gradient = _passed(layer, gauss, state, numbers)
        apart = state.cross[0, 0, 0] if len(state.cross) else jnp.full_like(variance0, jnp.nan)
        return after, (state.variance[0, 0], apart, gradient)

    _, (variance, apart, gradient) = scan(step, State.of(variance0, apart0), length=depth)
    return variance, apart, _coupled(gradient, gauss.batch) if layer.couples_inputs else gradient


def _passed(layer: Kind, gauss: Gauss, state: State, numbers):
    """The state behind a layer, and what it makes of what copies lack: a number, or a matrix."""
    same = jnp.zeros((1, 1, 1), state.variance.dtype)
    copies = same
    if layer.couples_inputs:
        copies = jnp.concatenate([same, state.variance[None] * state.cross])

    def behind(copies):
        after = gauss.settled(layer.covariance(gauss, replace(state, copies=copies), numbers))
        return after.copies[:, 0, 0], replace(after, copies=state.copies)

    if layer.couples_inputs:
        matrix, after = jax.jacfwd(behind, has_aux=True)(copies)
        return after, matrix[:, :, 0, 0]
    _, gain, after = jax.jvp(behind, (copies,), (jnp.ones_like(copies),), has_aux=True)
    return after, gain[0]


def _own_angle(layer: Kind, gauss: Gauss, numbers, variance0) -> Number:
    """1 - c as the layers leave it, whatever it was; 1 where they do not forget it."""

    def lack(apart):
        after = layer.covariance(gauss, State.of(variance0, apart), numbers)
        return after.lacking().cross[0, 0, 0]

    one = jnp.ones_like(variance0)
    found = lack(one)
    return jnp.where(found == lack(one / 2), found / variance0, one)


def _coupled(matrices: Float[Array, "layer 2 2"], batch: int | None) -> Float[Array, " layer"]:
    """χ of every layer for a batch whose cotangents are independent at the last one.

    A change X of the copies' covariance has entries s for one input and d for two; x = s - d along
    P, m = s + (B - 1) d along 11ᵀ/B. Traces of X G weigh them B - 1 to 1, which is what transposes.
    """
    share = 0.0 if batch is None else 1 / batch
    of_x, of_m = jnp.asarray([1 - share, -share]), jnp.asarray([share, share])
    x = lambda v: v[..., 0] - v[..., 1]  # noqa: E731
    if batch is None:  # the mean's part is 1/B of the whole
        return x(matrices[..., 0])
    along = x(matrices @ of_x.astype(matrices.dtype))
    m = lambda v: v[..., 0] + (batch - 1) * v[..., 1]  # noqa: E731
    from_x, from_m = (matrices @ v.astype(matrices.dtype) for v in (of_x, of_m))
    to_x = along, m(from_x) / (batch - 1)
    to_m = x(from_m) * (batch - 1), m(from_m)

    def backward(state, layer):
        (xx, mx), (xm, mm) = layer
        about_mean, mean = state
        after = xx * about_mean + mx * mean, xm * about_mean + mm * mean
        total = (1 - share) * after[0] + share * after[1]
        return (after[0] / total, after[1] / total), total

    ones = jnp.ones_like(along[0]), jnp.ones_like(along[0])
    before_last = jax.tree.map(lambda v: v[:-1], (to_x, to_m))
    _, chi = jax.lax.scan(backward, ones, before_last, reverse=True)
    # Of one more layer; no part of any gradient here.
    chi = jnp.concatenate([chi, along[-1:]])
    return jnp.where(jnp.isinf(along), along, chi)  # of φ that jumps, whatever the mean does
