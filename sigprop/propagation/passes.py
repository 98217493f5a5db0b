"""One network, all cells: blocks of cells spread over the devices, layers scanned in segments."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sigprop.networks.initialisers import RandomKey
from sigprop.propagation import backward, forward
from sigprop.propagation.backward import Cotangent, CotangentReading
from sigprop.propagation.draws import Draws, cell_key, draw, of_segment
from sigprop.propagation.forward import SignalReading
from sigprop.propagation.plan import Plan
from sigprop.propagation.signal import Cells, Signal

__all__ = ["Passed", "run_independent", "run_shared"]

Numbers = Float[Array | np.ndarray, " cells"]


class Passed(NamedTuple):
    """The readings of all blocks of cells."""

    log_variance: Float[Array, "*block layer inputs cells"]
    one_minus_correlation: Float[Array, "*block layer cells"]
    log_gradient_z: Float[Array, "*block layer inputs cells"]
    log_gradient_w: Float[Array, "*block layer cells"]
    log_gradient_b: Float[Array, "*block layer cells"]
    finite_layers: Int[Array, "*block cells"]  # how many come before the first non-finite one


@partial(jax.jit, static_argnums=0)
def run_shared(
    plan: Plan,
    draws: Draws,
    cells: Cells,
    inputs: Float[Array | np.ndarray, "inputs in_features"],
) -> Passed:
    """Measure every cell with the same draws; cells are counted in whole `Plan.padded` blocks."""
    blocks = jax.tree.map(lambda v: v.reshape(-1, plan.cells_per_block), cells)
    on_device = lambda draws, blocks, inputs: lax.map(  # noqa: E731
        partial(_block, plan, inputs, draws), blocks
    )
    return _over_devices(plan, on_device)(draws, blocks, inputs)


@partial(jax.jit, static_argnums=0)
def run_independent(
    plan: Plan,
    key: RandomKey,
    coordinates: tuple[Numbers, ...],
    cells: Cells,
    inputs: Float[Array | np.ndarray, "inputs in_features"],
) -> Passed:
    """Measure every cell with draws of its own, made from its coordinates."""

    def cell(key, inputs, own):
        coordinates, cells = own
        draws = draw(plan, cell_key(key, *coordinates))
        return _block(plan, inputs, draws, jax.tree.map(lambda v: v[None], cells))

    on_device = lambda key, own, inputs: lax.map(partial(cell, key, inputs), own)  # noqa: E731
    return _over_devices(plan, on_device)(key, (coordinates, cells), inputs)


def _over_devices(plan: Plan, on_device):
    """Shard the second argument's leading axis over the devices."""
    split, whole = PartitionSpec("cells"), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=plan.mesh,
        in_specs=(whole, split, whole),
        out_specs=split,
        check_vma=False,
    )


def _block(plan: Plan, inputs, draws: Draws, cells: Cells) -> Passed:
    """Forward and backward through all layers, for the cells of one block."""
    signal, first = forward.enter(plan, draws, cells, inputs)
    starts, (readings, traces) = _forward(plan, draws, cells, signal)
    readings = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, readings)
    last = jnp.sum(readings.alive.astype(jnp.int32), axis=0)
    cotangents = _backward(plan, draws, cells, last, starts, traces)
    gradients = backward.log_gradients(
        plan, cells, last, *cotangents, readings.x_products, readings.x_scale
    )
    return _masked(plan, readings, gradients, last)


def _masked(plan: Plan, readings: SignalReading, gradients, last: Int[Array, " cells"]) -> Passed:
    """From a cell's first non-finite layer on there is nothing to read: nan, or inf variance."""
    finite = jnp.arange(plan.depth)[:, None] < last
    keep = lambda v, finite: jnp.where(finite, v, jnp.full_like(v, jnp.nan))  # noqa: E731
    variance = readings.log_variance
    at = jnp.clip(last, 0, plan.depth - 1)[None, None]
    frozen = jnp.take_along_axis(variance, jnp.broadcast_to(at, (1, *variance.shape[1:])), axis=0)
    frozen = jnp.where(jnp.isfinite(frozen), jnp.full_like(frozen, jnp.nan), frozen)
    of_z, of_weight, of_bias = gradients
    return Passed(
        log_variance=jnp.where(finite[:, None], variance, frozen),
        one_minus_correlation=keep(readings.one_minus_correlation, finite),
        log_gradient_z=keep(of_z, finite[:, None]),
        log_gradient_w=keep(of_weight, finite),
        log_gradient_b=keep(of_bias, finite),
        finite_layers=last,
    )


# ------------------------------------------------------------------- segments of layers
# With one segment the forward scan stores the trace of every layer (φ'(z), if plain). With several
# it stores the signal at the start of each, and each is run forward once more just before it is run
# backward.


def _forward(plan: Plan, draws: Draws, cells: Cells, signal: Signal):
    """Readings of layers 2..depth, with what `_backward` needs: segments' starts, or traces."""
    if plan.segments == 1:
        _, (readings, traces) = _segment_forward(plan, draws, cells, signal, jnp.asarray(0))
        return None, (_joined(plan, readings, 1), traces)

    def one(signal, segment):
        own = of_segment(plan, draws, segment)
        end, (readings, _) = _segment_forward(plan, own, cells, signal, segment, traces=False)
        return end, (signal, readings)

    _, (starts, readings) = lax.scan(one, signal, jnp.arange(plan.segments))
    return starts, (_joined(plan, readings, 2), None)


def _backward(plan: Plan, draws, cells, last, starts, traces):
    """Readings of layers 1..depth: of z^l, and of what arrives there before a norm acts on it."""
    cotangent, final = backward.start(plan, draws, last)
    if plan.segments == 1:
        back = partial(_segment_backward, plan, draws, cells, last)
        _, readings = back(cotangent, traces, jnp.asarray(0))
        readings = _joined(plan, readings, 1)
    else:

        def one(cotangent, segment):
            start, index = segment
            own = of_segment(plan, draws, index)
            _, (_, traces) = _segment_forward(plan, own, cells, start, index)
            return _segment_backward(plan, own, cells, last, cotangent, traces, index)

        segments = (starts, jnp.arange(plan.segments))
        _, readings = lax.scan(one, cotangent, segments, reverse=True)
        readings = _joined(plan, readings, 2)
    of_z, arrived = readings
    of_z = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), of_z, final)
    if arrived is None:
        return of_z, of_z
    return of_z, jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b]), of_z, arrived)


def _segment_forward(plan: Plan, draws, cells, signal: Signal, segment, traces: bool = True):
    def one(signal, hidden):
        signal, reading, trace = forward.step(plan, draws, cells, signal, hidden + 2)
        return signal, (reading, trace if traces else None)

    return lax.scan(_within(plan, one), signal, _hidden_layers(plan, segment))


def _segment_backward(
    plan: Plan, draws, cells, last, cotangent: Cotangent, traces, segment
) -> tuple[Cotangent, tuple[CotangentReading, CotangentReading | None]]:
    def one(cotangent, layer):
        hidden, trace = layer
        return backward.step(plan, draws, cells, last, cotangent, trace, hidden + 1)

    layers = (_hidden_layers(plan, segment), traces)
    return lax.scan(_within(plan, one), cotangent, layers, reverse=True)


def _hidden_layers(plan: Plan, segment):
    return segment * plan.segment + jnp.arange(plan.segment)


def _within(plan: Plan, one):
    """``one`` as it is, or skipping what lies beyond the last layer if segments overshoot it."""
    if plan.segments * plan.segment == plan.hidden_layers:
        return one

    def guarded(carry, layer):
        hidden = layer[0] if isinstance(layer, tuple) else layer
        nothing = jax.eval_shape(one, carry, layer)[1]
        skip = lambda carry, layer: (  # noqa: E731
            carry,
            jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), nothing),
        )
        return lax.cond(hidden < plan.hidden_layers, one, skip, carry, layer)

    return guarded


def _joined(plan: Plan, readings, axes: int):
    """Readings stacked by segment and layer as one stack of the layers that exist."""
    flat = lambda v: v.reshape(-1, *v.shape[axes:])[: plan.hidden_layers]  # noqa: E731
    return jax.tree.map(flat, readings)
