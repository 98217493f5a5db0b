"""Norms of the Jacobians between all pairs of layers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sigprop.jacobian.spans import layer_jacobians

__all__ = ["log_partial_norms"]

_BLOCK_BYTES = 2**26  # of products that one block of starting layers carries along


def log_partial_norms(
    layered: Any, x: Float[Array | np.ndarray, "..."]
) -> Float[Array, "starts ends"]:
    """Log of the mean squared norm of every partial Jacobian, ``log(‖∂x^b/∂x^a‖_F² / N_b)``.

    Its mean over networks is the log of the averaged partial Jacobian norm, which is constant in b
    at criticality (Doshi, He and Gromov 2023, "Critical initialization of wide and deep neural
    networks using partial Jacobians", eq. 3).

    Parameters
    ----------
    layered, x
        As for `layer_jacobians`. x^0 is the input, x^b what layer b returns.

    Returns
    -------
    Array (layers + 1, layers + 1), entry (a, b); nan where b < a. Products are rescaled on the way,
    so that no depth under- or overflows.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> log_partial_norms([lambda x: 2 * x] * 2, jnp.ones(3)) / jnp.log(4.0)
    Array([[ 0.,  1.,  2.],
           [nan,  0.,  1.],
           [nan, nan,  0.]], dtype=float32)
    """
    jacobians = layer_jacobians(layered, x)
    if isinstance(jacobians, tuple) or jacobians.shape[1] != jacobians.shape[2]:
        return _partial_norms_of_list(tuple(jacobians))
    size = jacobians.shape[1]
    block = max(1, _BLOCK_BYTES // max(1, size * size * jacobians.dtype.itemsize))
    return _partial_norms(jacobians, min(block, len(jacobians) + 1))


@functools.partial(jax.jit, static_argnames="block")
def _partial_norms(jacobians, block):
    """Blocks of starting layers, each carried to the end in one scan."""
    layers, size, _ = jacobians.shape
    eye = jnp.eye(size, dtype=jacobians.dtype)

    def row_norms(start):
        def advance(carry, indexed):
            index, jacobian = indexed
            product, log_norm = carry
            product = jnp.matmul(jacobian, product, precision=lax.Precision.HIGHEST)
            product = jnp.where(index >= start, product, eye)
            log_norm = jnp.where(index >= start, log_norm, 0.0)
            norm = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(product), axis=1)))
            scale = jnp.where(norm > 0, norm, 1.0)
            return (product / scale, log_norm + 2 * jnp.log(norm)), log_norm + 2 * jnp.log(norm)

        zero = jnp.zeros((), jacobians.dtype)
        indices = jnp.arange(layers)
        _, logs = lax.scan(advance, (eye, zero), (indices, jacobians))
        logs = jnp.concatenate([zero[None], logs])
        return jnp.where(jnp.arange(layers + 1) >= start, logs, jnp.nan)

    return lax.map(row_norms, jnp.arange(layers + 1), batch_size=block)


def _partial_norms_of_list(jacobians):
    rows = []
    for start in range(len(jacobians) + 1):
        row: list[Any] = [jnp.nan] * start + [0.0]
        product, log_norm = None, 0.0
        for jacobian in jacobians[start:]:
            product = jacobian if product is None else _product(jacobian, product)
            norm = jnp.linalg.norm(product)
            product = product / jnp.where(norm > 0, norm, 1.0)
            log_norm = log_norm + 2 * jnp.log(norm)
            row.append(log_norm - jnp.log(float(len(jacobian))))
        rows.append(jnp.stack([jnp.asarray(entry, jacobians[0].dtype) for entry in row]))
    return jnp.stack(rows)


def _product(left, right):
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
