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
from sigprop.propagation.backward import Cotangent
from sigprop.propagation.draws import Draws, cell_key, draw, of_segment
from sigprop.propagation.forward import Cell, Signal
from sigprop.propagation.plan import Plan

__all__ = ["Passed", "run_independent", "run_shared"]

Numbers = Float[Array | np.ndarray, " cells"]


class Passed(NamedTuple):
    """The readings of all cells."""

    log_variance: Float[Array, "*cells layer inputs"]
    one_minus_correlation: Float[Array, "*cells layer"]
    log_gradient_z: Float[Array, "*cells layer inputs"]
    log_gradient_w: Float[Array, "*cells layer"]
    log_gradient_b: Float[Array, "*cells layer"]
    finite_layers: Int[Array, "*cells"]  # how many come before the first non-finite one


@partial(jax.jit, static_argnums=0)
def run_shared(
    plan: Plan,
    draws: Draws,
    cells: Cell,
    inputs: Float[Array | np.ndarray, "inputs in_features"],
) -> Passed:
    """Measure every cell with the same draws; cells are counted in whole `Plan.padded` blocks.

    A block of cells is one `jax.vmap`: what they share, the draws, is not mapped, and a layer of
    all of them one multiply.
    """
    blocks = jax.tree.map(lambda v: v.reshape(-1, plan.cells_per_block), cells)

    def on_device(draws, blocks, inputs):
        block = jax.vmap(partial(_network, plan, inputs, draws))
        return lax.map(block, blocks)

    passed = _over_devices(plan, on_device)(draws, blocks, inputs)
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), passed)


@partial(jax.jit, static_argnums=0)
def run_independent(
    plan: Plan,
    key: RandomKey,
    coordinates: tuple[Numbers, ...],
    cells: Cell,
    inputs: Float[Array | np.ndarray, "inputs in_features"],
) -> Passed:
    """Measure every cell with draws of its own, made from its coordinates."""

    def cell(key, inputs, own):
        coordinates, cell = own
        return _network(plan, inputs, draw(plan.drawing, cell_key(key, *coordinates)), cell)

    on_device = lambda key, own, inputs: lax.map(partial(cell, key, inputs), own)  # noqa: E731
    return _over_devices(plan, on_device)(key, (coordinates, cells), inputs)


def _over_devices(plan: Plan, on_device):
    """Shard the second argument's leading axis over the devices."""
    split, whole = PartitionSpec("cells"), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=plan.drawing.mesh,
        in_specs=(whole, split, whole),
        out_specs=split,
        check_vma=False,
    )


def _network(plan: Plan, inputs, draws: Draws, cell: Cell) -> Passed:
    """Forward and backward through all layers of one network."""
    with jax.default_matmul_precision(plan.precision):
        signal, first, way_first = forward.enter(plan, draws, cell, inputs)
        starts, (readings, ways) = _forward(plan, draws, cell, signal)
        readings = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, readings)
        last = jnp.sum(readings.alive.astype(jnp.int32))
        cotangent, (of_z, gradients) = _backward(plan, draws, cell, last, starts, ways)
        of_first = backward.of_first(plan, cotangent, way_first)
    gradients = [jnp.concatenate([a[None], b]) for a, b in zip(of_first, gradients)]
    signals = readings.log_variance, readings.one_minus_correlation
    return _masked(plan, signals, (of_z, *gradients), last)


def _masked(plan: Plan, signals, gradients, last: Int[Array, ""]) -> Passed:
    """From the first non-finite layer on there is nothing to read: nan, or inf variance."""
    finite = jnp.arange(plan.depth) < last
    keep = lambda v, finite: jnp.where(finite, v, jnp.full_like(v, jnp.nan))  # noqa: E731
    (variance, angle), (of_z, of_weight, of_bias) = signals, gradients
    frozen = variance[jnp.clip(last, 0, plan.depth - 1)]
    frozen = jnp.where(jnp.isfinite(frozen), jnp.full_like(frozen, jnp.nan), frozen)
    return Passed(
        log_variance=jnp.where(finite[:, None], variance, frozen),
        one_minus_correlation=keep(angle, finite),
        log_gradient_z=keep(of_z, finite[:, None]),
        log_gradient_w=keep(of_weight, finite),
        log_gradient_b=keep(of_bias, finite),
        finite_layers=last,
    )


# ------------------------------------------------------------------- segments of layers
# With one segment the forward scan stores what the way back through every layer needs (φ'(z), if
# plain). With several it stores the signal at the start of each, and each is run forward once more
# just before it is run backward.


def _forward(plan: Plan, draws: Draws, cell: Cell, signal: Signal):
    """Readings of layers 2..depth, with what `_backward` needs: segments' starts, or ways."""
    if plan.segments == 1:
        _, (readings, ways) = _segment_forward(plan, draws, cell, signal, jnp.asarray(0))
        return None, (_joined(plan, readings, 1), ways)

    def one(signal, segment):
        own = of_segment(plan, draws, segment)
        end, (readings, _) = _segment_forward(plan, own, cell, signal, segment, pulled=False)
        return end, (signal, readings)

    _, (starts, readings) = lax.scan(one, signal, jnp.arange(plan.segments))
    return starts, (_joined(plan, readings, 2), None)


def _backward(plan: Plan, draws, cell, last, starts, ways):
    """The cotangent of z¹; logs of |∂z^l|² of all layers, of |∂W^l|² and |∂b^l|² from 2 on."""
    cotangent = backward.start(plan, draws, last)
    final = _log_square(cotangent)
    if plan.segments == 1:
        back = partial(_segment_backward, plan, draws, last)
        cotangent, (of_z, gradients) = back(cotangent, ways, jnp.asarray(0))
        of_z, gradients = _joined(plan, (of_z, gradients), 1)
    else:

        def one(cotangent, segment):
            start, index = segment
            own = of_segment(plan, draws, index)
            ways = _segment_forward(plan, own, cell, start, index)[1][1]
            return _segment_backward(plan, own, last, cotangent, ways, index)

        segments = (starts, jnp.arange(plan.segments))
        cotangent, readings = lax.scan(one, cotangent, segments, reverse=True)
        of_z, gradients = _joined(plan, readings, 2)
    return cotangent, (jnp.concatenate([of_z, final[None]]), gradients)


def _log_square(cotangent: Cotangent) -> Array:
    return 2 * (cotangent.scale.value + cotangent.log_norm)


def _segment_forward(plan: Plan, draws, cell, signal: Signal, segment, pulled: bool = True):
    def one(signal, layer):
        act = forward.hidden(plan, draws, cell, layer + 2)
        signal, reading, way = forward.step(plan, act, signal, pulled)
        return signal, (reading, way)

    return lax.scan(one, signal, _hidden_layers(plan, segment))


def _segment_backward(plan: Plan, draws, last, cotangent: Cotangent, ways, segment):
    def one(cotangent, own):
        layer, way = own
        before, gradients = backward.step(plan, draws, last, cotangent, way, layer + 1)
        exists = layer < plan.hidden_layers  # the last segment may go beyond them
        before = jax.tree.map(partial(jnp.where, exists), before, cotangent)
        return before, (_log_square(before), gradients)

    layers = (_hidden_layers(plan, segment), ways)
    return lax.scan(one, cotangent, layers, reverse=True)


def _hidden_layers(plan: Plan, segment):
    return segment * plan.segment + jnp.arange(plan.segment)


def _joined(plan: Plan, readings, axes: int):
    """Readings stacked by segment and layer as one stack of the layers that exist."""
    flat = lambda v: v.reshape(-1, *v.shape[axes:])[: plan.hidden_layers]  # noqa: E731
    return jax.tree.map(flat, readings)
