"""E[f(m + s z)], z ~ N(0, 1), for f with any number of cuts, in bounded memory.

Few cuts: one rule over all of them at once, of a static shape. Many (a staircase, a fast wave, a
singularity closed in on): panel after panel over those within reach of m, so that the time goes
with how much of f the Gaussian sees, and the memory with nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.activations import Activation
from sigprop.gaussian.panels import (
    STANDARD_CUTS,
    WIDE_CUTS,
    grows_fast,
    panel_rule,
    resolving_cuts,
    standard_rule,
    uniform_rule,
)

__all__ = ["detailed", "line_sums", "positive", "shared_sums", "window_sums"]

Scalar = Float[Array, ""]
_FEW = 48  # cuts of one static rule
_WINDOW = 32  # panels at a time
_SMOOTH = 2.5  # widths of a smoothing Gaussian that one panel resolves
# Around a kink the smoothed function turns on the scale s of the smoothing: cut there as well.
_KINK_SPREAD = (-8.0, -4.0, -1.5, 1.5, 4.0, 8.0)


def detailed(activation: Activation) -> bool:
    """Whether the activation has more cuts, or a farther reach, than one rule holds."""
    return grows_fast(activation) or len(resolving_cuts(activation)) > _FEW


def line_sums(
    activation: Activation,
    f: Callable[[Float[Array, "nodes"]], Float[Array, "... nodes"]],
    centre: Scalar,
    deviation: Scalar,
    nodes: int | None = None,
) -> Float[Array, "..."]:
    """E[f(z)] for f of z made of φ(centre + deviation z); ``nodes`` as in `uniform_rule`."""
    if nodes is not None:
        return _by_rule(f, uniform_rule(nodes, deviation.dtype))
    cuts = (jnp.asarray(resolving_cuts(activation), deviation.dtype) - centre) / positive(deviation)
    if detailed(activation):
        return window_sums(f, cuts, grows_fast(activation))
    return _by_rule(f, standard_rule(cuts))


def shared_sums(
    bends: list[tuple[Activation, Scalar, Scalar]],
    shared: Scalar,
    own: Scalar,
    f: Callable[[Float[Array, "nodes"]], Float[Array, "... nodes"]],
    nodes: int | None = None,
) -> Float[Array, "..."]:
    """E[f(w)] for f of w made of φ smoothed over ``own``, of the (φ, variance, sign) in bends."""
    if nodes is not None:
        return _by_rule(f, uniform_rule(nodes, shared.dtype))
    cuts = [
        sign * _bends(activation, jnp.sqrt(q * own)) / positive(jnp.sqrt(q * shared))
        for activation, q, sign in bends
    ]
    if any(detailed(activation) for activation, *_ in bends):
        wide = any(grows_fast(activation) for activation, *_ in bends)
        # Smoothed, nothing bends on a scale below that of the smoothing.
        pitch = _SMOOTH * jnp.sqrt(own) / positive(jnp.sqrt(shared))
        return window_sums(f, jnp.sort(jnp.concatenate(cuts)), wide, pitch)
    return _by_rule(f, standard_rule(jnp.concatenate(cuts)))


def _by_rule(f, rule):
    z, weights = rule
    return jnp.sum(weights * f(z), axis=-1)


def _bends(activation: Activation, s: Scalar) -> Float[Array, "cuts"]:
    """Points x where E_y[φ(x + s y)] changes its character."""
    kinks = jnp.asarray(np.reshape(activation.kinks, (-1, 1)), s.dtype)
    spread = kinks + s * jnp.asarray(_KINK_SPREAD, s.dtype)
    return jnp.concatenate([jnp.asarray(resolving_cuts(activation), s.dtype), spread.ravel()])


def window_sums(
    f: Callable[[Float[Array, "nodes"]], Float[Array, "... nodes"]],
    cuts: Float[Array, "cuts"],
    wide: bool,
    pitch: Scalar | None = None,
) -> Float[Array, "..."]:
    """E[f(z)] with panels cut at ``cuts`` (ascending), a window of them at a time.

    With a ``pitch`` that leaves fewer panels than the cuts do, at its multiples instead.
    """
    fixed = jnp.asarray(WIDE_CUTS if wide else STANDARD_CUTS, cuts.dtype)
    reach = fixed[-1]
    # Flanked so that every window is full, and the last one ends beyond reach.
    flank = jnp.full(_WINDOW + 1, jnp.inf, cuts.dtype)
    padded = jnp.concatenate([-flank[:1], cuts, flank])
    start = jnp.searchsorted(padded, -reach, side="right") - 1
    count = jnp.searchsorted(padded, reach) - start
    steps = jnp.arange(_WINDOW + 1, dtype=jnp.int32)
    even = jnp.zeros((), bool)
    if pitch is not None:
        pitch = jnp.maximum(pitch, 2 * reach / 1e6)
        even = 2 * reach / pitch < count.astype(cuts.dtype)

    def window(k):
        edges = jax.lax.dynamic_slice(padded, (start + k * _WINDOW,), (_WINDOW + 1,))
        if pitch is not None:
            evenly = -reach + (k * _WINDOW + steps).astype(cuts.dtype) * pitch
            edges = jnp.where(even, evenly, edges)
        return jnp.clip(edges, -reach, reach)

    def unfinished(state):
        return window(state[0])[0] < reach

    def add(state):
        k, total = state
        edges = window(k)
        edges = jnp.sort(jnp.concatenate([edges, jnp.clip(fixed, edges[0], edges[-1])]))
        z, weights = panel_rule(edges)
        # Panels of no width may stand where f is not finite.
        return k + 1, total + jnp.sum(jnp.where(weights > 0, weights * f(z), 0.0), axis=-1)

    like = jax.eval_shape(f, jax.ShapeDtypeStruct((1,), cuts.dtype))
    nothing = jnp.zeros(like.shape[:-1], like.dtype)
    return jax.lax.while_loop(unfinished, add, (jnp.zeros((), jnp.int32), nothing))[1]


def positive(s: Scalar) -> Scalar:
    """``s``, or the least number that may be divided by."""
    return jnp.maximum(s, np.asarray(np.finfo(s.dtype).tiny ** 0.5, s.dtype))
