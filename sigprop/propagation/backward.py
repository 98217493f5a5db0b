"""The backward pass of one network: cotangents, renormalised at every layer, logs carried."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sigprop.kinds import Mix
from sigprop.propagation.draws import Draws
from sigprop.propagation.forward import WayBack
from sigprop.propagation.one_layer import flat
from sigprop.propagation.plan import Plan
from sigprop.propagation.scaled import LogSum, Products, log_norms, log_weighted_sum, products

__all__ = ["Cotangent", "of_first", "start", "step"]

PerInput = Float[Array, " inputs"]


class Cotangent(NamedTuple):
    """∂loss/∂z^l = exp(scale) · g, input by input."""

    g: Float[Array, "inputs places width"]
    log_norm: PerInput  # of g
    scale: LogSum


def start(plan: Plan, draws: Draws, last: Int[Array, ""]) -> Cotangent:
    """At z^depth: the drawn vectors, or 0 if the ``last`` finite layer comes earlier."""
    g = draws.cotangent * (last == plan.depth).astype(plan.dtype)
    return _cotangent(g, LogSum.of(jnp.zeros(plan.inputs, plan.dtype)))


def _cotangent(g: Array, scale: LogSum) -> Cotangent:
    return Cotangent(g, log_norms(g.reshape(len(g), -1)), scale)


def step(
    plan: Plan, draws: Draws, last: Int[Array, ""], after: Cotangent, way: WayBack, layer
) -> tuple[Cotangent, tuple[Array, Array]]:
    """From ∂loss/∂z^{l+1} to ∂loss/∂z^l, l = ``layer``, with `_log_gradients` between."""
    unit, scale = _renormalised(plan, after)
    g, of_maps = way.pull(unit)
    gradients = _log_gradients(plan.drawing.hidden, way.rows, of_maps, scale.value)
    if not plan.log_scale:  # a network that diverges at the next layer starts here
        here = draws.cotangent * (last == layer).astype(plan.dtype)
        g = jnp.where(last > layer, g, here)
        scale = jax.tree.map(lambda s: jnp.where(last > layer, s, jnp.zeros_like(s)), scale)
    return _cotangent(g, scale), gradients


def of_first(plan: Plan, cotangent: Cotangent, way: WayBack) -> tuple[Array, Array]:
    """`_log_gradients` of the first layer."""
    unit, scale = _renormalised(plan, cotangent)
    return _log_gradients(plan.drawing.first, way.rows, way.pull(unit)[1], scale.value)


def _renormalised(plan: Plan, after: Cotangent) -> tuple[Array, LogSum]:
    """The cotangent of norm 1, and the scale it then has."""
    log_norm = after.log_norm
    if plan.joint:  # what will be added up needs one scale
        log_norm = jnp.broadcast_to(jnp.max(log_norm), log_norm.shape)
    alive = jnp.isfinite(log_norm)
    factor = jnp.where(alive, jnp.exp(-log_norm), jnp.zeros_like(log_norm))
    return after.g * factor[:, None, None], after.scale.plus(jnp.where(alive, log_norm, 0))


def _log_gradients(
    mixes: Iterable[tuple[str, Mix]],
    rows: dict[str, Products | None],
    of_maps: dict[str, Array],
    scale: PerInput,
) -> tuple[Array, Array]:
    """Logs of the squared norms of the gradients of all drawn weights, and of all drawn biases.

    The gradient of the summed loss with respect to W is Σ_a δ_a x_aᵀ over rows a, with δ the
    cotangents of W x; its squared norm Σ_ab (δ_a·δ_b)(x_a·x_b) needs dot products only, never the
    matrix. A bias acts on ones.
    """
    found = {True: [], False: []}
    for name, mix in mixes:
        if mix.rows or mix.constant:
            square = _by_products(rows[name], of_maps[name], scale)
        else:
            square = 2 * (log_norms(of_maps[name].reshape(1, -1))[0] + scale[0])
        found[mix.constant].append(square)
    return _log_sum(found[False], scale), _log_sum(found[True], scale)


def _by_products(rows: Products | None, delta: Array, scale: PerInput) -> Array:
    got = products(flat(delta))
    log_scale = got.scale + jnp.repeat(scale, len(got.scale) // len(scale))
    if rows is None:
        return log_weighted_sum(got.values, log_scale)
    return log_weighted_sum(got.values * rows.values, log_scale + rows.scale)


def _log_sum(logs: list[Array], like: Array) -> Array:
    """Log of the sum of exponentials; -inf of none."""
    if len(logs) > 1:
        return jax.nn.logsumexp(jnp.stack(logs))
    return logs[0] if logs else jnp.full((), -jnp.inf, like.dtype)
