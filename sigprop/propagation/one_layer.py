"""One layer of any kind: how it acts on a signal, and how cotangents come back through it.

The weights are not differentiated and not kept: on the way back a drawn map is the explicit
transpose of its multiply, with the weights fetched again, and of the rest `jax.vjp` keeps what it
needs. In the middle of every drawn map stands a probe, 0, whose cotangent is that of the map's
product: the gradient of the weights is made of it and of the rows that went in.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sigprop.kinds import Kind, Mix, Shape
from sigprop.propagation.scaled import Products, products

__all__ = ["Act", "act", "act_and_pull", "flat", "stored_bytes"]

Signal = Float[Array, "inputs _ _"]
Arrays = Mapping[str, ArrayLike]


class Act(NamedTuple):
    """What it takes for a layer to act.

    Attributes
    ----------
    kind
        The kind.
    mixes
        What it draws.
    weights
        ``weights(layer)``: the arrays of its maps, as they act but for their scales.
    layer
        Which one.
    scales
        Of every map; those of maps that act on ones (inputs,), others scalars.
    trained, numbers, key
        As `sigprop.kinds.Kind.apply` takes them.
    """

    kind: Kind
    mixes: Mapping[str, Mix]
    weights: Callable[[Any], Mapping[str, Array]]
    layer: Any
    scales: Arrays
    trained: Mapping[str, Array]
    numbers: Arrays
    key: Array | None


def act(own: Act, x: Signal) -> Signal:
    """What the layer makes of x."""
    weights = own.weights(own.layer)
    mix = {
        name: lambda x, name=name: _scale(own, name, x) * own.mixes[name].multiply(weights[name], x)
        for name in own.mixes
    }
    return _apply(own, mix, x)


def act_and_pull(own: Act, x: Signal) -> tuple[Signal, Callable, dict[str, Products | None]]:
    """As `act`; also what takes cotangents back, and the products of the rows that maps act on.

    ``pull(g)`` gives the cotangent of x and, by name, those of the maps' products (of a map without
    `Mix.rows`: of its draw).
    """
    probes = _probes(own, x)

    def probed(x, probes):
        entered = {}
        mix = {name: partial(_probed, own, name, probes[name], entered) for name in own.mixes}
        return _apply(own, mix, x), entered

    out, pull, entered = jax.vjp(probed, x, probes, has_aux=True)
    return out, pull, entered


def stored_bytes(
    kind: Kind, mixes: Mapping[str, Mix], inputs: int, shape: Shape, dtype: str
) -> int:
    """What `act_and_pull` keeps for the way back, in bytes."""

    def kept(x, scale, key):
        numbers: dict[str, ArrayLike] = {}
        numbers.update((name, scale) for name in kind.numbers)
        own = Act(
            kind=kind,
            mixes=mixes,
            weights=lambda _: {name: jnp.zeros(mix.shape, dtype) for name, mix in mixes.items()},
            layer=None,
            scales={
                name: jnp.ones(len(x)) if mix.constant else scale for name, mix in mixes.items()
            },
            trained={n: v.astype(dtype) for n, v in kind.trained(shape).items()},
            numbers=numbers,
            key=key if kind.random else None,
        )
        return act_and_pull(own, x)[1]

    scalar = jax.ShapeDtypeStruct((), dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    pull = jax.eval_shape(kept, jax.ShapeDtypeStruct((inputs, *shape), dtype), scalar, key)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))


def _apply(own: Act, mix, x: Signal) -> Signal:
    return own.kind.apply(mix, own.trained, x, numbers=own.numbers, key=own.key)


def _scale(own: Act, name: str, x: Signal) -> Array:
    scale = jnp.asarray(own.scales[name], x.dtype)
    return scale.reshape(-1, 1, 1) if own.mixes[name].constant else scale


def _probed(own: Act, name: str, probe: Array, entered: dict, x: Signal) -> Signal:
    """The map, with a probe; writes down the rows it acts on."""
    mix = own.mixes[name]
    if name in entered:
        raise ValueError(f"layer must use its drawn map {name!r} once, uses it again")
    entered[name] = products(flat(mix.rows(x))) if mix.rows else None
    if mix.constant:
        return _scale(own, name, x) * mix.multiply(own.weights(own.layer)[name], x) + probe
    if mix.rows is None:  # linear in the draw: the probe is added to it as it acts
        product = mix.multiply(own.weights(own.layer)[name], x)
        return _scale(own, name, x) * product + mix.multiply(probe, x)
    return _scale(own, name, x) * _multiply(own, name, x) + probe


def _multiply(own: Act, name: str, x: Signal) -> Signal:
    """The product, with the weights fetched again for the way back rather than kept."""
    multiply, weights = own.mixes[name].multiply, own.weights
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)

    @jax.custom_vjp
    def product(x, layer):
        return multiply(weights(layer)[name], x)

    def back(layer, g):
        transposed = jax.linear_transpose(partial(multiply, weights(layer)[name]), shape)
        return (*transposed(g), None)

    product.defvjp(lambda x, layer: (product(x, layer), layer), back)
    return product(x, own.layer)


def _probes(own: Act, x: Signal) -> dict[str, Array]:
    """0, of the shape of every map's product (without `Mix.rows`: of its draw)."""
    shapes = {name: mix.shape for name, mix in own.mixes.items() if not _by_products(mix)}

    def recording(x):
        def recorded(name, x):
            product = own.mixes[name].multiply(jnp.zeros(own.mixes[name].shape, x.dtype), x)
            shapes.setdefault(name, product.shape)
            return product

        return _apply(own, {name: partial(recorded, name) for name in own.mixes}, x)

    jax.eval_shape(recording, x)
    return {name: jnp.zeros(shapes.get(name, ()), x.dtype) for name in own.mixes}


def _by_products(mix: Mix) -> bool:
    return mix.constant or mix.rows is not None


def flat(x: Signal) -> Float[Array, "rows width"]:
    """Inputs and places as rows."""
    return x.reshape(-1, x.shape[-1])
