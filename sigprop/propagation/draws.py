"""Which random numbers a pass uses: keys of seeds and cells, and the draws they make."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sigprop.networks import MLP
from sigprop.networks.initialisers import RandomKey, cotangent, layer_draws
from sigprop.propagation.plan import Drawing, Plan

__all__ = ["Draws", "cell_key", "draw", "draw_on_devices", "of_network", "of_segment", "seed_key"]

Arrays = dict[str, Array]


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
    """The unit draws of one network, before any variance, and what it has trained.

    ``hidden`` is None when the draws of layers 2..depth are made again wherever they are used;
    while a segment of layers is worked on, it may hold those of the segment alone.
    """

    key: RandomKey
    first: Arrays
    hidden: Arrays | None
    cotangent: Float[Array, "inputs places width"]
    trained: tuple[Arrays, Arrays] | None = None  # of the first layer, stacked of the others

    def layer(self, drawing: Drawing, layer: Int[Array, ""]) -> Arrays:
        """The unit draws of ``layer``, 2..depth."""
        if self.hidden is None or drawing.depth == 1:
            return _drawn(drawing, self.key, layer)
        length = jax.tree.leaves(self.hidden)[0].shape[0]
        return _at(self.hidden, (layer - 2) % length)  # segments follow one another

    def trained_by(self, layer: Int[Array, ""]) -> Arrays:
        """What ``layer``, 2..depth, has trained; empty where it is as at the start."""
        return {} if self.trained is None else _at(self.trained[1], layer - 2)


def _at(stack: Arrays, index: Int[Array, ""]) -> Arrays:
    at = partial(lax.dynamic_index_in_dim, index=index, keepdims=False)
    return jax.tree.map(at, stack)


def _drawn(drawing: Drawing, key: RandomKey, layer, mixes=None) -> Arrays:
    """The draws of a layer, as they act but for their scale."""
    mixes = dict(drawing.hidden if mixes is None else mixes)
    drawn = layer_draws(key, layer, mixes, drawing.distribution, drawing.dtype)
    prepared = {name: mix.prepared for name, mix in mixes.items() if mix.prepared is not None}
    return drawn | {name: prepare(drawn[name]) for name, prepare in prepared.items()}


def draw(drawing: Drawing, key: RandomKey) -> Draws:
    """The draws of the network that ``key`` makes."""
    layers = jnp.arange(2, drawing.depth + 1)
    hidden = lax.map(partial(_drawn, drawing, key), layers) if drawing.held else None
    return _around(drawing, key, hidden)


def _around(drawing: Drawing, key: RandomKey, hidden: Arrays | None) -> Draws:
    return Draws(
        key=key,
        first=_drawn(drawing, key, 1, drawing.first),
        hidden=hidden,
        cotangent=_cotangent(drawing, key),
    )


def _cotangent(drawing: Drawing, key: RandomKey) -> Array:
    places, width = drawing.shape
    vectors = cotangent(key, drawing.inputs, places * width, drawing.dtype)
    return vectors.reshape(drawing.inputs, places, width)


@partial(jax.jit, static_argnums=0)
def draw_on_devices(drawing: Drawing, key: RandomKey) -> Draws:
    """As `draw`: every device draws its share of the layers, then all hold all of them."""
    if not drawing.held:
        return _around(drawing, key, None)
    hidden, devices = drawing.depth - 1, drawing.mesh.size
    share = -(-hidden // devices)
    # Beyond the last layer a device repeats it, and the copies are cut off again.
    layers = jnp.minimum(jnp.arange(share * devices) + 2, max(drawing.depth, 2))
    axis = PartitionSpec("cells")
    drawn = jax.shard_map(
        lambda key, layers: lax.map(partial(_drawn, drawing, key), layers),
        mesh=drawing.mesh,
        in_specs=(PartitionSpec(), axis),
        out_specs=axis,
    )(key, layers)
    everywhere = NamedSharding(drawing.mesh, PartitionSpec())
    held = lambda v: lax.with_sharding_constraint(v[:hidden], everywhere)  # noqa: E731
    return _around(drawing, key, jax.tree.map(held, drawn))


def of_segment(plan: Plan, draws: Draws, segment: Int[Array, ""]) -> Draws:
    """With the weights of one segment held, if there is room; runs on each device.

    Devices that share the draws draw a part each.
    """
    drawing = plan.drawing
    if drawing.held or not plan.segment_held:
        return draws
    parts = 1 if plan.independent else plan.devices
    share = -(-plan.segment // parts)
    part = jnp.asarray(0) if parts == 1 else lax.axis_index("cells")
    layers = segment * plan.segment + part * share + jnp.arange(share) + 2
    layers = jnp.minimum(layers, max(plan.depth, 2))
    hidden = lax.map(partial(_drawn, drawing, draws.key), layers)
    if parts > 1:
        gathered = partial(lax.all_gather, axis_name="cells", tiled=True)
        hidden = jax.tree.map(lambda v: gathered(v)[: plan.segment], hidden)
    return draws._replace(hidden=hidden)


def of_network(drawing: Drawing, network: MLP, key: RandomKey) -> Draws:
    """The network's own arrays, as they act, in the place of unit draws."""
    first, hidden = network.first, network.hidden
    return Draws(
        key=key,
        first=first.acting(),
        hidden=hidden.acting(),
        cotangent=_cotangent(drawing, key),
        trained=(first.trained(), hidden.trained()),
    )
