"""The backward pass of a block of cells: cotangents, renormalised at every layer, logs carried."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sigprop.propagation.draws import Draws
from sigprop.propagation.forward import Cells, PerInput, Rows, as_rows
from sigprop.propagation.plan import Plan
from sigprop.propagation.scaled import LogSum, log_weighted_sum, pair_products

__all__ = ["Cotangent", "CotangentReading", "log_gradients", "start", "step"]


class Cotangent(NamedTuple):
    """∂loss/∂z^l = exp(scale) · g, row by row."""

    g: Rows
    squared_norm: PerInput  # |g|²
    scale: LogSum


class CotangentReading(NamedTuple):
    """Dot products between the inputs' cotangents at one layer, and the scales to multiply by."""

    products: Float[Array, "pairs cells"]
    scale: PerInput


def start(
    plan: Plan, draws: Draws, last: Int[Array, " cells"]
) -> tuple[Cotangent, CotangentReading]:
    """At z^depth: the drawn vectors, or 0 for a cell whose ``last`` finite layer comes earlier."""
    here = (last == plan.depth).astype(plan.dtype)
    here = jnp.broadcast_to(here, (plan.inputs, *here.shape))
    g = _drawn(plan, draws, here)
    return _read(plan, g, LogSum.of(jnp.zeros_like(here)))


def step(
    plan: Plan,
    draws: Draws,
    cells: Cells,
    last: Int[Array, " cells"],
    after: Cotangent,
    slope: Rows,
    layer: Int[Array, ""],
) -> tuple[Cotangent, CotangentReading]:
    """From ∂loss/∂z^{l+1} to ∂loss/∂z^l = φ'(z^l) ⊙ (W^{l+1})ᵀ ∂loss/∂z^{l+1}, l = ``layer``."""
    norm = jnp.sqrt(after.squared_norm)
    dead = ~(norm > 0)
    norm = jnp.where(dead, jnp.ones_like(norm), norm)
    factor = jnp.where(dead, jnp.zeros_like(norm), cells.hidden_scale / norm)
    scale = after.scale.plus(jnp.log(norm))
    weight = draws.weight(plan, layer + 1)
    pulled = lax.dot_general(after.g, weight, (((1,), (0,)), ((), ())), precision=plan.precision)
    g = pulled * slope * as_rows(factor)
    if not plan.log_scale:  # cells that diverge at the next layer start here
        here = jnp.broadcast_to((last == layer).astype(plan.dtype), norm.shape)
        on_the_way = as_rows(jnp.broadcast_to(last > layer, norm.shape))
        g = jnp.where(on_the_way, g, _drawn(plan, draws, here))
        scale = jax.tree.map(lambda s: jnp.where(last > layer, s, jnp.zeros_like(s)), scale)
    return _read(plan, g, scale)


def _drawn(plan: Plan, draws: Draws, here: PerInput) -> Rows:
    vectors = draws.cotangent[:, None] * here[:, :, None]
    return vectors.reshape(-1, plan.width)


def _read(plan: Plan, g: Rows, scale: LogSum) -> tuple[Cotangent, CotangentReading]:
    products = pair_products(g, plan.inputs)
    cotangent = Cotangent(g, products[: plan.inputs], scale)
    return cotangent, CotangentReading(products, scale.value)


def log_gradients(
    plan: Plan,
    reading: CotangentReading,
    x_products: Float[Array, "layer pairs cells"],
    x_scale: Float[Array, "layer inputs cells"],
) -> tuple[
    Float[Array, "layer inputs cells"], Float[Array, "layer cells"], Float[Array, "layer cells"]
]:
    """Logs of the squared gradient norms of every layer: of z (each input), of W, of b.

    The gradient of the summed loss with respect to W^l is Σ_a δ_a x_aᵀ; its squared norm
    Σ_ab (δ_a·δ_b)(x_a·x_b) needs dot products only, never the matrix.
    """
    of_z = 2 * reading.scale + jnp.log(reading.products[:, : plan.inputs])
    of_weight = log_weighted_sum(reading.products * x_products, reading.scale + x_scale)
    of_bias = log_weighted_sum(reading.products, reading.scale)
    return of_z, of_weight, of_bias
