"""Which random numbers a pass uses: keys of seeds and cells, and the draws they make."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sigprop import activations
from sigprop.kinds.norm import inverse_root
from sigprop.kinds.weight_norm import unit_rows
from sigprop.networks import MLP
from sigprop.networks.initialisers import (
    RandomKey,
    cotangent,
    unit_bias,
    unit_weight,
)
from sigprop.propagation.plan import BlockPlan, Plan

__all__ = ["Draws", "cell_key", "draw", "draw_on_devices", "of_network", "of_segment", "seed_key"]


def seed_key(key: RandomKey, seed: int | Int[Array, ""]) -> RandomKey:
    """The key of seed number ``seed``: an `MLP` made from it holds the weights that seed measures.

    Examples
    --------
    >>> bool(jnp.all(jax.random.key_data(seed_key(jax.random.key(7), 0))
    ...              == jax.random.key_data(jax.random.fold_in(jax.random.key(7), 0))))
    True
    """
    return jax.random.fold_in(key, seed)


def cell_key(
    key: RandomKey, weight_var: ArrayLike, bias_var: ArrayLike, *others: ArrayLike
) -> RandomKey:
    """The key of the cell (weight_var, bias_var) when draws are independent.

    A function of the seed's key and the bits of the numbers in float32, so that a cell's network
    does not depend on which grid, chunk or device it is measured in. Blocks that are not plain have
    dropout and branch_scale as ``others``.

    Examples
    --------
    >>> a, b = (cell_key(jax.random.key(7), w, 0.0) for w in (1.0, 1.5))
    >>> bool(jnp.all(jax.random.key_data(a) == jax.random.key_data(b)))
    False
    """
    for value in (weight_var, bias_var, *others):
        number = jnp.asarray(value).astype(jnp.float32) + 0.0  # -0.0 is 0.0
        key = jax.random.fold_in(key, lax.bitcast_convert_type(number, jnp.uint32))
    return key


class Draws(NamedTuple):
    """The unit draws of one network, before any variance.

    ``hidden`` is None when the weights of layers 2..depth are drawn again wherever they are used;
    while a segment of layers is worked on, it may hold those of the segment alone.
    """

    key: RandomKey
    first: Float[Array, "width in_features"]
    hidden: Float[Array, "hidden width width"] | None
    biases: Float[Array, "depth width"]
    cotangent: Float[Array, "inputs width"]
    norm: tuple[Float[Array, "hidden width"], Float[Array, "hidden width"]] | None = None

    def norm_of(self, layer: Int[Array, ""]) -> tuple[Array, Array] | None:
        """A learned scale and shift of the norm that belongs to ``layer``, 2..depth."""
        if self.norm is None:
            return None
        scale, shift = self.norm
        at = lambda v: lax.dynamic_index_in_dim(v, layer - 2, keepdims=False)  # noqa: E731
        return at(scale), at(shift)

    def weight(self, plan: Plan, layer: Int[Array, ""]) -> Float[Array, "width width"]:
        """The unit draw of ``layer``, 2..depth."""
        if self.hidden is not None and plan.hidden_layers > 0:
            index = (layer - 2) % self.hidden.shape[0]  # segments follow one another
            return lax.dynamic_index_in_dim(self.hidden, index, keepdims=False)
        return _hidden_weight(plan, self.key, layer)


def _hidden_weight(plan: Plan, key: RandomKey, layer) -> Float[Array, "width width"]:
    return _weight(plan, key, layer, plan.width)


def _weight(plan: Plan, key: RandomKey, layer, fan_in: int) -> Float[Array, "width fan_in"]:
    weight = unit_weight(key, layer, plan.distribution, plan.width, fan_in, plan.dtype)
    return unit_rows(weight) if plan.block.unit_rows else weight


def draw(plan: Plan, key: RandomKey) -> Draws:
    """The draws of the network that ``key`` makes."""
    layers = jnp.arange(2, plan.depth + 1)
    hidden = lax.map(partial(_hidden_weight, plan, key), layers) if plan.held else None
    return _around(plan, key, hidden)


def _around(plan: Plan, key: RandomKey, hidden) -> Draws:
    bias = partial(unit_bias, key, fan_out=plan.width, dtype=plan.dtype)
    return Draws(
        key=key,
        first=_weight(plan, key, 1, plan.in_features),
        hidden=hidden,
        biases=jax.vmap(bias)(jnp.arange(1, plan.depth + 1)),
        cotangent=cotangent(key, plan.inputs, plan.width, plan.dtype),
    )


def draw_on_devices(plan: Plan, key: RandomKey) -> Draws:
    """As `draw`: every device draws its share of the layers, then all hold all of them.

    Networks that differ in activation or block alone share one compiled program.
    """
    drawing = dataclasses.replace(
        plan,
        activation=activations.get("linear"),
        block=BlockPlan(unit_rows=plan.block.unit_rows),
        cells_per_block=1,
        segment=1,
        segment_held=False,
    )
    return _draw_on_devices(drawing, key)


@partial(jax.jit, static_argnums=0)
def _draw_on_devices(plan: Plan, key: RandomKey) -> Draws:
    if not plan.held:
        return _around(plan, key, None)
    share = -(-plan.hidden_layers // plan.devices)
    # Beyond the last layer a device repeats it, and the copies are cut off again.
    layers = jnp.minimum(jnp.arange(share * plan.devices) + 2, max(plan.depth, 2))
    axis = PartitionSpec("cells")
    drawn = jax.shard_map(
        lambda key, layers: lax.map(partial(_hidden_weight, plan, key), layers),
        mesh=plan.mesh,
        in_specs=(PartitionSpec(), axis),
        out_specs=axis,
    )(key, layers)
    everywhere = NamedSharding(plan.mesh, PartitionSpec())
    hidden = lax.with_sharding_constraint(drawn[: plan.hidden_layers], everywhere)
    return _around(plan, key, hidden)


def of_segment(plan: Plan, draws: Draws, segment: Int[Array, ""]) -> Draws:
    """With the weights of one segment held, if there is room; runs on each device.

    Devices that share the draws draw a part each.
    """
    if plan.held or not plan.segment_held:
        return draws
    parts = 1 if plan.independent else plan.devices
    share = -(-plan.segment // parts)
    part = jnp.asarray(0) if parts == 1 else lax.axis_index("cells")
    layers = segment * plan.segment + part * share + jnp.arange(share) + 2
    hidden = lax.map(
        partial(_hidden_weight, plan, draws.key), jnp.minimum(layers, max(plan.depth, 2))
    )
    if parts > 1:
        hidden = lax.all_gather(hidden, "cells", tiled=True)[: plan.segment]
    return draws._replace(hidden=hidden)


def of_network(plan: Plan, network: MLP, key: RandomKey) -> Draws:
    """The network's own W and b, as they act, in the place of unit draws."""
    weights, biases = network.hidden.effective()
    first, first_bias = network.first.effective()
    return Draws(
        key=key,
        first=first,
        hidden=weights,
        biases=jnp.concatenate([first_bias[None], biases]),
        cotangent=cotangent(key, plan.inputs, plan.width, plan.dtype),
        norm=_learned(network),
    )


def _learned(network: MLP):
    """Scale and shift behind the norms of layers 2..depth; held statistics become part of them."""
    layers, _ = network.norms()
    if not layers:
        return None
    scale, shift, *held = layers
    if held:
        mean, variance = held
        scale = scale * inverse_root(variance)
        shift = shift - scale * mean
    return scale, shift
