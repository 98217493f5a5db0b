"""The forward pass of a block of cells: signals, their sizes and angles, and what backward needs.

Rows are (input, cell) pairs, inputs outermost; every cell of the block shares the draws, so that a
layer is one matrix multiply.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from sigprop.propagation.draws import Draws
from sigprop.propagation.plan import Plan
from sigprop.propagation.scaled import LogSum, pair_products, squared_norms

__all__ = ["Cells", "Signal", "SignalReading", "as_rows", "enter", "step"]

Rows = Float[Array, "rows width"]
PerCell = Float[Array | np.ndarray, " cells"]
PerInput = Float[Array, "inputs cells"]

# Units are kept where exp and its inverse are normal numbers in float32.
_LARGEST_LOG_UNIT = 80.0


class Cells(NamedTuple):
    """What sets one cell apart from the others: the scales of its weights and biases."""

    first_scale: PerCell  # sqrt(weight_var / in_features)
    hidden_scale: PerCell  # sqrt(weight_var / width)
    log_bias_scale: PerCell  # log sqrt(bias_var), -inf without bias


class Signal(NamedTuple):
    """The state at layer l: z^l = exp(scale) · z, row by row.

    ``scale`` leaves 0 only for homogeneous activations. ``z_unit`` and ``x_unit`` are logs of the
    typical size of an entry, as far as known beforehand (from the layer before). Squares are taken
    in these units, so that they neither vanish nor overflow before z itself does.
    """

    z: Rows
    size: PerInput  # log of the root mean square of z
    scale: LogSum
    z_unit: PerInput
    x_unit: PerInput
    alive: Bool[Array, " cells"]  # every layer so far finite


class SignalReading(NamedTuple):
    """What layer l shows: z^l, and the x^{l-1} it takes in (for its weights' gradient)."""

    log_variance: PerInput
    one_minus_correlation: PerCell
    alive: Bool[Array, " cells"]
    x_products: Float[Array, "pairs cells"]
    x_scale: PerInput


def as_rows(per_input: Shaped[Array, "inputs cells"]) -> Shaped[Array, "rows 1"]:
    """One number for each row."""
    return per_input.reshape(-1, 1)


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
    size = spread(_log_rms(products[: plan.inputs, 0], plan.in_features))
    scale = LogSum.of(spread(jnp.log(largest)))
    gain = jnp.log(cells.first_scale) + 0.5 * jnp.log(jnp.asarray(plan.in_features, x.dtype))
    expected = jnp.logaddexp(2 * (gain + size + scale.value), 2 * cells.log_bias_scale) / 2
    before = Signal(
        z=x,
        size=size,
        scale=scale,
        z_unit=jnp.zeros(shape, x.dtype) if plan.log_scale else _unit(expected, 0.0),
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
) -> tuple[Signal, SignalReading, Rows]:
    """From z^{l-1} to z^l, l = ``layer``; also φ'(z^{l-1}) for the way back."""
    x, slope = plan.activation.value_and_derivative(signal.z)
    if not plan.log_scale:  # a homogeneous activation in log scale cannot diverge
        alive = as_rows(jnp.tile(signal.alive, (plan.inputs, 1)))
        x, slope = (jnp.where(alive, v, jnp.zeros_like(v)) for v in (x, slope))
    products = pair_products(x * as_rows(jnp.exp(-signal.x_unit)), plan.inputs)
    x_unit = _unit(_log_rms(products[: plan.inputs], plan.width) + signal.x_unit, signal.x_unit)
    y = _multiply(plan, x, draws.weight(plan, layer))
    bias = lax.dynamic_index_in_dim(draws.biases, layer - 1, keepdims=False)
    after = _arrive(plan, cells.hidden_scale, cells.log_bias_scale, signal, y, bias, x_unit)
    x_scale = signal.scale.value + signal.x_unit
    return after, _reading(plan, after, products, x_scale), slope


def _arrive(plan, weight_scale, log_bias_scale, before: Signal, y, bias, x_unit=None) -> Signal:
    """Z = weight_scale · y + bias_scale · bias in the new scale."""
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
    norms = squared_norms(z * as_rows(jnp.exp(-before.z_unit)), plan.inputs)
    size = before.z_unit + _log_rms(norms, plan.width)
    return Signal(
        z=z,
        size=size,
        scale=scale,
        z_unit=before.z_unit if plan.log_scale else _unit(size, before.z_unit),
        x_unit=before.x_unit if x_unit is None else x_unit,
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


def _log_rms(squared_norm, width: int):
    return 0.5 * jnp.log(squared_norm / width)


def _unit(size, otherwise):
    """``size`` where it can serve as a unit, ``otherwise`` where a row has vanished."""
    clipped = jnp.clip(size, -_LARGEST_LOG_UNIT, _LARGEST_LOG_UNIT)
    return jnp.where(jnp.isfinite(size), clipped, jnp.asarray(otherwise, size.dtype))


def _multiply(plan: Plan, x, weight):
    """W x for every row x, without transposing W in memory."""
    return lax.dot_general(x, weight, (((1,), (1,)), ((), ())), precision=plan.precision)
