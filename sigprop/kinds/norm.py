"""Layer norm and RMS norm: every input divided by its own size over the units."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.kinds.kind import Kind

__all__ = ["Norm", "inverse_root", "normalise"]


@dataclass(frozen=True)
class Norm(Kind):
    """γ ⊙ N(x) + β, with N(x) = (x - mean)/std over units, or x/rms.

    γ and β are trained and start at 1 and 0. Nothing is added to the divisor; what has none is
    mapped to β. Layer norm: Ba, Kiros and Hinton 2016; RMS norm: Zhang and Sennrich 2019.

    Attributes
    ----------
    centred
        Whether the mean is taken out: layer norm; without, RMS norm.
    """

    centred: bool = True

    def trained(self, shape):
        """Scale and shift of every unit."""
        return {"scale": jnp.ones(shape[1]), "shift": jnp.zeros(shape[1])}

    def apply(self, mix, trained, x, *, numbers, key=None):
        """γ ⊙ N(x) + β."""
        return trained["scale"] * normalise(x, -1, self.centred) + trained["shift"]

    def covariance(self, gauss, state, numbers):
        """Variance 1, angles as they were: over many units the size of an input is its rms."""
        if self.centred:  # the mean over units of a centred signal vanishes
            state.demand("gaussian", "layer norm")
        return state.normalised()


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def normalise(x: Array, axes: int | tuple[int, ...], centred: bool) -> Array:
    """(x - mean)/std or x/rms over ``axes``, for x of any size; what does not vary becomes 0.

    Examples
    --------
    >>> normalise(jnp.asarray([3e-30, -3e-30]), -1, True).round(6).tolist()
    [1.0, -1.0]
    """
    return _normalise(x, axes, centred)[0]


def _normalise(x, axes, centred: bool) -> tuple[Array, Array]:
    """N(x), and what x was multiplied by."""
    # A power of two takes the size away without rounding: squares neither vanish nor overflow.
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, jnp.ones_like(largest)))
    unit = jnp.ldexp(jnp.ones_like(largest), -jnp.maximum(exponent, jnp.finfo(x.dtype).minexp))
    x = x * unit
    if centred:
        x = x - jnp.mean(x, axis=axes, keepdims=True)
    inverse = inverse_root(jnp.mean(jnp.square(x), axis=axes, keepdims=True))
    return x * inverse, inverse * unit


@normalise.defjvp
def _normalise_jvp(axes, centred: bool, primals, tangents):
    """(ẋ - mean ẋ - n mean(n ẋ)) / std: of all that N computes, the way back needs n alone."""
    (x,), (x_dot,) = primals, tangents
    n, factor = _normalise(x, axes, centred)
    x_dot = x_dot * factor
    if centred:
        x_dot = x_dot - jnp.mean(x_dot, axis=axes, keepdims=True)
    return n, x_dot - n * jnp.mean(n * x_dot, axis=axes, keepdims=True)


def inverse_root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1/sqrt(v), and 0 (with derivative 0) for v = 0: what has no size is left at 0.

    Examples
    --------
    >>> inverse_root(jnp.asarray([4.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    positive = square > 0
    root = jax.lax.rsqrt(jnp.where(positive, square, jnp.ones_like(square)))
    return jnp.where(positive, root, jnp.zeros_like(root))
