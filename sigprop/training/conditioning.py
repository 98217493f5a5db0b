"""How well-conditioned a network's Jacobian is while it trains."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, tree_util
from jaxtyping import Array, Float

from sigprop import jacobian

__all__ = ["Conditioning", "conditioning"]

_INPUTS = 4


@tree_util.register_dataclass
@dataclass(frozen=True)
class Conditioning:
    """Of the square layers z^1 -> ... -> z^depth, averaged over a few inputs.

    Attributes
    ----------
    layer_mean_square
        (depth - 1,): mean squared singular value of each layer's Jacobian, the measured χ of the
        layer; 1 on the critical line.
    log_mean_square, log_largest_square
        ln of the mean and of the largest squared singular value of their product. The two are equal
        where the product is a multiple of an isometry.
    """

    layer_mean_square: Any
    log_mean_square: Any
    log_largest_square: Any


def conditioning(model: Any, inputs: Array) -> Conditioning | None:
    """Of the first few inputs; None for models that are not a plain scanned network.

    Examples
    --------
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.networks import MLP
    >>> isometric = Architecture(6, 16, "linear", 1.0, initialiser="orthogonal")
    >>> seen = conditioning(MLP(isometric, 8, rngs=jax.random.key(0)), jnp.ones((2, 8)))
    >>> bool(jnp.allclose(seen.layer_mean_square, 1.0, atol=1e-5))
    True
    >>> bool(abs(seen.log_largest_square) < 1e-4)
    True
    """
    plain = getattr(model, "elementwise", hasattr(model, "first") and hasattr(model, "hidden"))
    if not (plain and getattr(model, "depth", 0) > 1):
        return None
    layered = jacobian.hidden_layers(model)
    seen = jax.vmap(lambda x: _of_one(layered, model.first(x)))(inputs[:_INPUTS])
    return jax.tree.map(lambda values: jnp.mean(values, axis=0), seen)


def _of_one(layered: Any, z1: Float[Array, " width"]) -> Conditioning:
    (layers,) = layered.jacobians(z1)
    width = layers.shape[-1]

    def multiply(state, layer):
        product, log_scale = state
        product = jnp.matmul(layer, product, precision=lax.Precision.HIGHEST)
        size = jnp.max(jnp.abs(product))
        return (product / jnp.where(size > 0, size, 1), log_scale + jnp.log(size)), None

    start = (jnp.eye(width, dtype=layers.dtype), jnp.zeros((), layers.dtype))
    (product, log_scale), _ = lax.scan(multiply, start, layers)
    largest = _largest_singular_value(product)
    return Conditioning(
        jnp.sum(layers**2, axis=(1, 2)) / width,
        2 * log_scale + jnp.log(jnp.sum(product**2) / width),
        2 * log_scale + 2 * jnp.log(largest),
    )


@jax.custom_batching.sequential_vmap
def _largest_singular_value(matrix: Float[Array, "width width"]) -> Float[Array, ""]:
    """One matrix after another: batches of them inside `train_grid` make XLA's CPU backend hang."""
    return jnp.linalg.svdvals(matrix)[0]
