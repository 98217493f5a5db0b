"""Singular values of any function's Jacobian, formed densely in pieces that fit in memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sigprop._checks import check_whole_number
from sigprop._precision import is_traced
from sigprop.jacobian.flat import flat_function, inner_programs
from sigprop.jacobian.spans import decomposed

__all__ = ["jacobian_matrix", "singular_values"]


def singular_values(fn: Callable, x: Any, *, memory_budget: int = 2**30) -> Float[Array, " n"]:
    """Singular values of the Jacobian of ``fn`` at ``x``, descending.

    Parameters
    ----------
    fn
        Any JAX-traceable function of one argument: a Flax module, a closure. Pytrees of
        floating-point arrays in and out; leaves are raveled in tree order. An NNX module is left
        as it was: dropout draws what it would draw next, statistics do not move.
    x
        Where to take the Jacobian. A list of plain numbers is an array.
    memory_budget
        Bytes that the Jacobian, its decomposition and the passes that make it may take together.
        Rows or columns, whichever are fewer, are made as many at a time as fit.

    Returns
    -------
    min(inputs, outputs) values in the precision of ``fn``; nan under transformations if the
    Jacobian is not finite. Values below machine epsilon times the largest are rounding.

    Raises
    ------
    ValueError
        If x or fn(x) is not of floating-point numbers, the matrix alone exceeds the budget (see
        `extreme_singular_values` and `spectral_density`), or, outside of transformations, the
        Jacobian is not finite.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> singular_values(lambda p: (2 * p["a"], p["b"][:1]), {"a": jnp.ones(2), "b": jnp.ones(4)})
    Array([2., 2., 1.], dtype=float32)
    """
    matrix = jacobian_matrix(fn, x, memory_budget=memory_budget)
    if not is_traced(matrix) and not bool(jnp.isfinite(matrix).all()):
        output, entry = np.argwhere(~np.isfinite(np.asarray(matrix)))[0]
        raise ValueError(
            "the Jacobian of fn at x must be finite, got nan or infinity from input entry "
            f"{entry} to output entry {output}"
        )
    return decomposed(matrix[None])[0]


def jacobian_matrix(
    fn: Callable, x: Any, *, memory_budget: int = 2**30
) -> Float[Array, "outputs inputs"]:
    """The Jacobian of ``fn`` at ``x`` as one matrix, made as `singular_values` says.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> jacobian_matrix(lambda x: x[:1] * x[1], jnp.array([3.0, 5.0]))
    Array([[5., 3.]], dtype=float32)
    """
    flat = flat_function(fn, x)
    budget = check_whole_number("memory_budget", memory_budget)
    forward = flat.forward_mode and flat.inputs <= flat.outputs
    # The matrix, the copy LAPACK overwrites, and what is left for the passes that fill it.
    matrix = 2 * flat.inputs * flat.outputs * flat.dtype.itemsize
    if matrix > budget:
        raise ValueError(
            f"memory_budget must be at least {matrix} bytes for a Jacobian of {flat.outputs} x "
            f"{flat.inputs}, got {budget}; extreme_singular_values and spectral_density do without "
            "the matrix"
        )
    if forward:
        return _rows(flat.forward, flat.inputs, flat.dtype, budget - matrix).T
    return _rows(flat.backward, flat.outputs, flat.dtype, budget - matrix)


def _rows(product, size, dtype, memory):
    """``product`` of every unit vector, as many at a time as fit in ``memory``."""

    def row(index):
        return product(jnp.zeros(size, dtype).at[index].set(1))

    each = _bytes_of(jax.make_jaxpr(row)(0).jaxpr)
    batch = max(1, min(size, memory // max(each, 1)))
    return jax.jit(lambda: lax.map(row, jnp.arange(size), batch_size=batch))()


def _bytes_of(jaxpr) -> int:
    """Everything a program computes, counted once: no less than what it holds at any time."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(_bytes(variable.aval) for variable in equation.outvars)
        total += sum(_bytes_of(inner) for inner in inner_programs(equation.params))
    return total


def _bytes(aval) -> int:
    dtype = getattr(aval, "dtype", None)
    return 0 if dtype is None else math.prod(aval.shape) * dtype.itemsize
