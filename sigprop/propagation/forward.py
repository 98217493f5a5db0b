"""The forward pass of a block of cells: signals, their sizes and angles, what backward needs."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sigprop.propagation import blocks
from sigprop.propagation.blocks import Trace
from sigprop.propagation.draws import Draws
from sigprop.propagation.plan import Plan
from sigprop.propagation.scaled import LogSum, pair_products, squared_norms
from sigprop.propagation.signal import (
    Cells,
    PerCell,
    PerInput,
    Signal,
    as_rows,
    log_rms,
    unit_of,
)

__all__ = ["Cells", "SignalReading", "enter", "step"]


class SignalReading(NamedTuple):
    """What layer l shows: z^l, and the x^{l-1} it takes in (for its weights' gradient)."""

    log_variance: PerInput
    one_minus_correlation: PerCell
    alive: Bool[Array, " cells"]
    x_products: Float[Array, "pairs cells"]
    x_scale: PerInput


def enter(
    plan: Plan, draws: Draws, cells: Cells, inputs: Float[Array, "inputs in_features"]
) -> tuple[Signal, SignalReading]:
    """Layer 1, whose multiply is the same for every cell."""
    shape = (plan.inputs, cells.first_scale.shape[0])
    spread = lambda column: jnp.broadcast_to(column.reshape(-1, 1), shape)  # noqa: E731
    largest = jnp.max(jnp.abs(inputs), axis=-1, keepdims=True)
    largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    x = inputs / largest
    products = pair_products(x, plan.inputs)
    size = spread(log_rms(products[: plan.inputs, 0], plan.in_features))
    scale = LogSum.of(spread(jnp.log(largest)))
    gain = jnp.log(cells.first_scale) + 0.5 * jnp.log(jnp.asarray(plan.in_features, x.dtype))
    expected = jnp.logaddexp(2 * (gain + size + scale.value), 2 * cells.log_bias_scale) / 2
    before = Signal(
        z=x,
        size=size,
        scale=scale,
        z_unit=jnp.zeros(shape, x.dtype) if plan.log_scale else unit_of(expected, 0.0),
        x_unit=jnp.zeros(shape, x.dtype),
        alive=jnp.ones(shape[1:], bool),
    )
    y = _multiply(plan, x, draws.first)
    y = jnp.broadcast_to(y[:, None], (*shape, plan.width)).reshape(-1, plan.width)
    after = _arrive(plan, cells.first_scale, cells.log_bias_scale, before, y, draws.biases[0])
    x_products = jnp.broadcast_to(products, (products.shape[0], shape[1]))
    return after, _reading(plan, after, x_products, scale.value)


def step(
    plan: Plan, draws: Draws, cells: Cells, signal: Signal, layer: Int[Array, ""]
) -> tuple[Signal, SignalReading, Trace]:
    """From z^{l-1} to z^l, l = ``layer``; also what the way back needs."""
    x, slope, before = blocks.enter(plan, draws, cells, signal, layer)
    if not plan.log_scale:  # a homogeneous activation in log scale cannot diverge
        alive = as_rows(jnp.tile(signal.alive, (plan.inputs, 1)))
        x, slope = (jnp.where(alive, v, jnp.zeros_like(v)) for v in (x, slope))
    products = pair_products(x * as_rows(jnp.exp(-signal.x_unit)), plan.inputs)
    x_unit = unit_of(log_rms(products[: plan.inputs], plan.width) + signal.x_unit, signal.x_unit)
    y = _multiply(plan, x, draws.weight(plan, layer))
    bias = lax.dynamic_index_in_dim(draws.biases, layer - 1, keepdims=False)
    skip = signal.z if plan.block.residual else None
    own = signal._replace(x_unit=x_unit, z_unit=_expected_unit(plan, cells, signal, x_unit))
    arrived = _arrive(plan, cells.hidden_scale, cells.log_bias_scale, own, y, bias, skip)
    z, after = blocks.leave(plan, draws, arrived, layer)
    if z is not None:
        still = arrived._replace(z_unit=jnp.zeros_like(arrived.z_unit))
        arrived = _settle(plan, still, z, arrived.scale)
    x_scale = signal.scale.value + signal.x_unit
    return arrived, _reading(plan, arrived, products, x_scale), Trace(slope, before, after)


def _expected_unit(plan: Plan, cells: Cells, signal: Signal, x_unit: PerInput) -> PerInput:
    """Of the next z: as that of this one, unless a norm has taken its size away."""
    if plan.block.norm_before is None:
        return signal.z_unit
    gain = jnp.log(cells.hidden_scale) + 0.5 * jnp.log(jnp.asarray(plan.width, x_unit.dtype))
    expected = jnp.logaddexp(2 * (gain + x_unit), 2 * cells.log_bias_scale)
    if plan.block.residual:
        expected = jnp.logaddexp(expected, 2 * signal.z_unit)
    return unit_of(expected / 2, signal.z_unit)


def _arrive(plan, weight_scale, log_bias_scale, before: Signal, y, bias, skip=None) -> Signal:
    """Z = weight_scale · y + bias_scale · bias (+ skip) in the new scale."""
    if plan.log_scale:
        # The larger of the two terms decides the scale, so that neither factor overflows.
        growth = jnp.maximum(before.size, log_bias_scale - before.scale.value)
        growth = jnp.where(jnp.isfinite(growth), growth, jnp.zeros_like(growth))
        scale, factor = before.scale.plus(growth), jnp.exp(-growth)
    else:
        scale = LogSum.of(jnp.zeros_like(before.size))
        factor = jnp.exp(before.scale.value)
    bias_factor = jnp.exp(log_bias_scale - scale.value)
    z = y * as_rows(weight_scale * factor) + bias * as_rows(bias_factor)
    if skip is not None:
        z = z + skip * as_rows(factor)
    return _settle(plan, before, z, scale)


def _settle(plan: Plan, before: Signal, z, scale: LogSum) -> Signal:
    """The signal whose rows are z, its squares taken in the units of the one before."""
    norms = squared_norms(z * as_rows(jnp.exp(-before.z_unit)), plan.inputs)
    size = before.z_unit + log_rms(norms, plan.width)
    return Signal(
        z=z,
        size=size,
        scale=scale,
        z_unit=before.z_unit if plan.log_scale else unit_of(size, before.z_unit),
        x_unit=before.x_unit,
        alive=before.alive & jnp.all(jnp.isfinite(norms), axis=0),
    )


def _reading(plan: Plan, signal: Signal, x_products, x_scale) -> SignalReading:
    return SignalReading(
        log_variance=2 * (signal.scale.value + signal.size),
        one_minus_correlation=_one_minus_correlation(plan, signal),
        alive=signal.alive,
        x_products=x_products,
        x_scale=x_scale,
    )


def _one_minus_correlation(plan: Plan, signal: Signal) -> PerCell:
    """|a/|a| − b/|b||² / 2: where 1 − c is small, 1 − a·b/(|a||b|) would be rounding error."""
    if plan.inputs < 2:
        return jnp.full_like(signal.size[0], jnp.nan)
    # A vanished or infinite row has no direction: 0 · inf gives nan.
    unit = signal.z * as_rows(jnp.exp(-signal.size))
    a, b = unit.reshape(plan.inputs, -1, plan.width)[:2]
    return jnp.sum(jnp.square(a - b), axis=-1) / (2 * plan.width)


def _multiply(plan: Plan, x, weight):
    """W x for every row x, without transposing W in memory."""
    return lax.dot_general(x, weight, (((1,), (1,)), ((), ())), precision=plan.precision)
