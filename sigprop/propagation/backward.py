"""The backward pass of a block of cells: cotangents, renormalised at every layer, logs carried."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sigprop.propagation.blocks import Trace
from sigprop.propagation.draws import Draws
from sigprop.propagation.normalisation import pull_back
from sigprop.propagation.plan import Plan
from sigprop.propagation.scaled import LogSum, log_weighted_sum, pair_products
from sigprop.propagation.signal import Cells, PerInput, Rows, as_rows

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
    trace: Trace,
    layer: Int[Array, ""],
) -> tuple[Cotangent, tuple[CotangentReading, CotangentReading | None]]:
    """From ∂loss/∂z^{l+1} to ∂loss/∂z^l, l = ``layer``: φ'(z^l) ⊙ Wᵀ ∂loss/∂z^{l+1} if plain.

    Where a norm comes after, the cotangent of what it acts on is read as well: that is what the
    gradients of W^{l+1} and b^{l+1} are made of.
    """
    delta, before_norm, arrived = after.g, after.scale, None
    if plan.block.norm_after is not None and trace.after is not None:
        learned = draws.norm_of(layer + 1)
        delta = delta if learned is None else delta * learned[0]
        delta, gain = pull_back(plan.block.norm_after, trace.after, delta)
        before_norm = before_norm.plus(gain)
        arrived = CotangentReading(pair_products(delta, plan.inputs), before_norm.value)
    factor, log_norm = _renormalised(plan, after)
    scale = before_norm.plus(log_norm)
    weight = draws.weight(plan, layer + 1)
    pulled = lax.dot_general(delta, weight, (((1,), (0,)), ((), ())), precision=plan.precision)
    g = pulled * trace.slope * as_rows(factor * cells.hidden_scale)
    g, scale = _joined(plan, trace, g, delta * as_rows(factor), scale)
    if not plan.log_scale:  # cells that diverge at the next layer start here
        here = jnp.broadcast_to((last == layer).astype(plan.dtype), factor.shape)
        on_the_way = as_rows(jnp.broadcast_to(last > layer, factor.shape))
        g = jnp.where(on_the_way, g, _drawn(plan, draws, here))
        scale = jax.tree.map(lambda s: jnp.where(last > layer, s, jnp.zeros_like(s)), scale)
    cotangent, reading = _read(plan, g, scale)
    return cotangent, (reading, arrived)


def _renormalised(plan: Plan, after: Cotangent) -> tuple[PerInput, PerInput]:
    """What to multiply rows by to give them norm 1, and the log of what that takes from them."""
    square = after.squared_norm
    if plan.block.couples_inputs:  # rows that will be mixed need one scale
        square = jnp.broadcast_to(jnp.sum(square, axis=0, keepdims=True), square.shape)
    norm = jnp.sqrt(square)
    dead = ~(norm > 0)
    norm = jnp.where(dead, jnp.ones_like(norm), norm)
    factor = jnp.where(dead, jnp.zeros_like(norm), 1 / norm)
    return factor, jnp.log(norm)


def _joined(plan: Plan, trace: Trace, branch, skipped, scale: LogSum) -> tuple[Rows, LogSum]:
    """The branch's cotangent pulled through the norm before it, and what came past the branch."""
    gain = None
    if plan.block.norm_before is not None and trace.before is not None:
        branch, gain = pull_back(plan.block.norm_before, trace.before, branch)
    if not plan.block.residual:
        return branch, scale if gain is None else scale.plus(gain)
    if gain is None:
        return branch + skipped, scale
    # The larger of the two decides the scale, so that neither factor overflows.
    larger = jnp.maximum(gain, jnp.zeros_like(gain))
    g = branch * as_rows(jnp.exp(gain - larger)) + skipped * as_rows(jnp.exp(-larger))
    return g, scale.plus(larger)


def _drawn(plan: Plan, draws: Draws, here: PerInput) -> Rows:
    vectors = draws.cotangent[:, None] * here[:, :, None]
    return vectors.reshape(-1, plan.width)


def _read(plan: Plan, g: Rows, scale: LogSum) -> tuple[Cotangent, CotangentReading]:
    products = pair_products(g, plan.inputs)
    cotangent = Cotangent(g, products[: plan.inputs], scale)
    return cotangent, CotangentReading(products, scale.value)


def log_gradients(
    plan: Plan,
    cells: Cells,
    last: Int[Array, " cells"],
    reading: CotangentReading,
    arrived: CotangentReading,
    x_products: Float[Array, "layer pairs cells"],
    x_scale: Float[Array, "layer inputs cells"],
) -> tuple[
    Float[Array, "layer inputs cells"], Float[Array, "layer cells"], Float[Array, "layer cells"]
]:
    """Logs of the squared gradient norms of every layer: of z (each input), of W, of b.

    ``arrived`` are the cotangents δ of what W^l x + b^l is added to; without a norm after it, those
    of z^l. The gradient of the summed loss with respect to W^l is α Σ_a δ_a x_aᵀ (α only from layer
    2 on); its squared norm α² Σ_ab (δ_a·δ_b)(x_a·x_b) needs dot products only, never the matrix.
    """
    of_z = 2 * reading.scale + jnp.log(reading.products[:, : plan.inputs])
    of_weight = log_weighted_sum(arrived.products * x_products, arrived.scale + x_scale)
    of_bias = log_weighted_sum(arrived.products, arrived.scale)
    if plan.block.couples_inputs and not plan.block.residual:
        # A bias moves all inputs alike, and the next norm takes it out again: rounding is left.
        unfelt = jnp.arange(1, plan.depth + 1)[:, None] < last
        of_bias = jnp.where(unfelt, jnp.full_like(of_bias, -jnp.inf), of_bias)
    if plan.block.residual:
        branch = jnp.broadcast_to(2 * jnp.asarray(cells.log_branch_scale), of_weight[1:].shape)
        of_weight = of_weight.at[1:].add(branch)
    return of_z, of_weight, of_bias
