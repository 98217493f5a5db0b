"""The stable fixed point of the correlation map at a fixed variance.

C(c) = (σ_w² E[φφ] + σ_b²)/q* is convex on [0, 1] with C(1) = 1 (all its Taylor coefficients are
squares: Poole et al. 2016), so c* = 1 if its slope there, χ₁, is at most 1, and otherwise there is
exactly one other fixed point, which is stable. It is the root in ε = 1 - c of

    ψ(ε) = σ_w² E[(φ(u) - φ(v))²]/(2 q* ε) = 1,     ψ(0) = χ₁,   ψ decreasing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.activations import Activation
from sigprop.gaussian import pair

__all__ = ["correlation_deficit"]

Scalar = Float[Array, ""]
_COARSE_NODES = 48
_MOST_STEPS = 60
_SMALLEST_ROUGH = 1e-12
_SMALLEST = 1e-3  # of √ε; below, ψ is its own limit to the accuracy that 1 - ε can show


def correlation_deficit(
    activation: Activation, weight_var: Scalar, variance: Scalar, nodes: int | None = None
) -> Scalar:
    """ε* = 1 - c* of a chaotic cell (χ₁ > 1) with finite q*; differentiates implicitly."""
    root = _solve(activation, nodes, *map(jax.lax.stop_gradient, (weight_var, variance)))
    return _attached(activation, nodes, root, weight_var, variance)


def _solve(activation, nodes, weight_var, variance):
    """A coarse root from a few nodes, then Newton on the exact ψ from there."""
    # Of φ that jumps or is infinitely steep ψ rises to infinity, and its root may lie anywhere.
    smallest = _SMALLEST_ROUGH if activation.infinite_slope else _SMALLEST
    one, least = jnp.ones_like(variance), jnp.full_like(variance, smallest)
    coarse_tolerance = np.asarray(1e-5, variance.dtype)
    # Newton's next step would be the square of this one: below rounding.
    fine_tolerance = np.asarray(np.finfo(variance.dtype).eps ** 0.5 / 4, variance.dtype)
    ratio = functools.partial(_ratio, activation, weight_var, variance)
    rough = _newton(
        functools.partial(ratio, nodes=_COARSE_NODES), least, one, one, coarse_tolerance
    )
    return _newton(functools.partial(ratio, nodes=nodes), least, one, rough, fine_tolerance) ** 2


def _ratio(activation, weight_var, variance, t, nodes):
    """ψ - 1 at ε = t² and its derivative in t; t keeps it smooth for kinked φ too."""
    e = t * t
    lost, slope = pair.deficit_and_slope(activation, variance, e, nodes)
    gain = weight_var / (variance * e)
    return gain * lost - 1, 2 * gain * (variance * slope * e - lost) / t


def _newton(function, low, high, start, tolerance):
    """Root of a decreasing function in [low, high], or the end it lies beyond."""

    def unfinished(state):
        steps, _, _, _, change = state
        return (steps < _MOST_STEPS) & (change > tolerance)

    def improve(state):
        steps, a, b, t, _ = state
        value, slope = function(t)
        a, b = jnp.where(value > 0, t, a), jnp.where(value > 0, b, t)
        newton = t - value / slope
        # An infinite slope has told nothing: such a step stands still wherever it is.
        inside = (newton > a) & (newton < b) & jnp.isfinite(slope)
        # Convex ψ: a step that leaves the bracket at the top means the root is the end itself.
        middle = jnp.where(a < b / 100, jnp.sqrt(a * b), (a + b) / 2)
        beyond = (newton >= b) & jnp.isfinite(slope)
        following = jnp.where(inside, newton, jnp.where(beyond, b, middle))
        following = jnp.where(value == 0, t, following)
        # Only a Newton step bounds the error that is left; others end by standing still.
        settled = inside | (following == t)
        return steps + 1, a, b, following, jnp.where(settled, jnp.abs(following - t) / t, 1.0)

    state = (jnp.zeros((), jnp.int32), low, high, start, jnp.ones_like(start))
    return jax.lax.while_loop(unfinished, improve, state)[3]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attached(activation, nodes, root, weight_var, variance):
    """``root``, with the derivatives of the implicit function ε q* = σ_w² deficit(q*, ε)."""
    return root


@_attached.defjvp
def _attached_jvp(activation, nodes, primals, tangents):
    root, weight_var, variance = primals
    _, weight_var_dot, variance_dot = tangents
    e = _attached(activation, nodes, root, weight_var, variance)

    def after(weight_var, variance):
        return weight_var * pair.deficit(activation, variance, e, nodes) / variance

    _, moved = jax.jvp(after, (weight_var, variance), (weight_var_dot, variance_dot))
    slope = weight_var * pair.slope_product(activation, variance, variance, e, nodes)
    return e, moved / (1 - slope)
