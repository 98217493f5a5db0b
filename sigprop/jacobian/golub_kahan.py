"""Block Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation.

From jvp and vjp alone: orthonormal P and Q with ``J P = Q H`` and ``Jᵀ Q = P Hᵀ + R Eᵀ``, where E
picks the last block (Golub and Kahan 1965; block form: Golub, Luk and Overton 1981). Singular
values of H approach those of J from inside. A block finds values of multiplicity up to its width,
which one vector cannot (a convolution's come in pairs). Every new block is projected against all
former ones more than once. Where the Krylov space closes, rounding-sized noise supplies new
directions, so the iteration goes on in the rest of the space and nothing is divided by zero.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt32

__all__ = ["Bidiagonal", "bidiagonalised"]

_PRECISION = lax.Precision.HIGHEST


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["left", "right", "matrix", "coupling"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Bidiagonal:
    """``J right.T = left.T matrix``; ``coupling`` is R's triangle: what leads out of the space."""

    left: Float[Array, "vectors outputs"]
    right: Float[Array, "vectors inputs"]
    matrix: Float[Array, "vectors vectors"]
    coupling: Float[Array, "block block"]


def bidiagonalised(
    forward: Callable,
    backward: Callable,
    start: Float[Array, "block inputs"],
    outputs: int,
    steps: int,
    key: Key[Array, ""] | UInt32[Array, "2"],
) -> Bidiagonal:
    """``steps`` blocks from the rows of ``start``; ``steps * block`` at most inputs and outputs."""
    block, inputs = start.shape
    vectors, dtype = steps * block, start.dtype
    left = jnp.zeros((vectors, outputs), dtype)
    right = jnp.zeros((vectors + block, inputs), dtype)
    noise = functools.partial(jax.random.normal, dtype=dtype)
    first = _orthonormal(start, right, noise(jax.random.fold_in(key, 2 * steps), start.shape))
    right = lax.dynamic_update_slice(right, first, (0, 0))

    def advance(step, state):
        left, right, matrix, _ = state
        at = step * block
        p = lax.dynamic_slice(right, (at, 0), (block, inputs))
        image = jax.vmap(forward)(p)
        draw = noise(jax.random.fold_in(key, 2 * step), image.shape)
        q = _orthonormal(image, left, draw)
        left = lax.dynamic_update_slice(left, q, (at, 0))
        matrix = lax.dynamic_update_slice(matrix, _product(left, image.T), (0, at))
        image = jax.vmap(backward)(q)
        draw = noise(jax.random.fold_in(key, 2 * step + 1), image.shape)
        p = _orthonormal(image, right, draw)
        right = lax.dynamic_update_slice(right, p, (at + block, 0))
        return left, right, matrix, _product(p, image.T)

    empty = jnp.zeros((vectors, vectors), dtype), jnp.zeros((block, block), dtype)
    left, right, matrix, coupling = lax.fori_loop(0, steps, advance, (left, right, *empty))
    return Bidiagonal(left, right[:vectors], matrix, coupling)


def _orthonormal(block, basis, draw):
    """Orthonormal rows that span ``block`` outside ``basis``, completed by noise if it is flat."""
    size = jnp.max(jnp.abs(block))
    scaled = block / jnp.where(size > 0, size, 1.0)
    rows = _outside(scaled, basis) + jnp.finfo(block.dtype).eps * draw
    for _ in range(2):
        rows = jnp.linalg.qr(_outside(rows, basis).T)[0].T
    return rows


def _outside(rows, basis):
    # XLA's CPU multiply is several times faster with the tall operand on the left.
    return rows - _product(_product(basis, rows.T).T, basis)


def _product(a, b):
    return jnp.matmul(a, b, precision=_PRECISION)
