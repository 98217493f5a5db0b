"""The forms a chain of factors may come in, as one stream of float64 matrices."""

import contextlib
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sigprop._precision import is_traced

__all__ = ["Chain", "NonFiniteFactorError", "as_chain"]

_SCAN_BYTES = 2**25  # of factors a compiled scan hands over at a time


class NonFiniteFactorError(ArithmeticError):
    """A factor holds NaN or infinity; ``layer`` counts from 1."""

    def __init__(self, layer: int):
        super().__init__(f"factor {layer} is not finite")
        self.layer = layer


@dataclass(frozen=True)
class Chain:
    """Matrices that chain: number k (from 0) takes ``sizes[k]`` numbers to ``sizes[k + 1]``."""

    produce: Callable[[], Iterable[Any]]
    sizes: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many matrices."""
        return len(self.sizes) - 1

    def first(self, count: int) -> "Chain":
        """The chain of the first ``count`` matrices."""
        return Chain(lambda: itertools.islice(self.produce(), count), self.sizes[: count + 1])

    def __call__(self) -> Iterator[Float[np.ndarray, "rows columns"]]:
        """A pass over the factors, in float64; stops at one that is not finite."""
        for index, factor in enumerate(self.produce()):
            matrix = np.asarray(factor, np.float64)
            if not np.isfinite(matrix).all():
                raise NonFiniteFactorError(index + 1)
            yield matrix


def as_chain(factors: Any) -> Chain:
    """Read ``factors``: an array, a list of matrices, or ``(step, carry, length)``.

    Raises
    ------
    ValueError
        If the shapes do not chain, or the entries are not real numbers.
    """
    if isinstance(factors, Chain):
        return factors
    if isinstance(factors, tuple) and len(factors) == 3 and callable(factors[0]):
        return _scanned(*factors)
    if isinstance(factors, Sequence):
        return _listed(factors)
    shape = np.shape(factors)
    if len(shape) != 3 or (shape[1] != shape[2] and shape[0] > 1):
        raise ValueError(
            f"factors must have shape (length, size, size), got {shape}; for more chains, vmap; "
            "for matrices of different shapes, give a list"
        )
    _check_dtype(_dtype(factors), "factors")
    sizes = (shape[2], *[shape[1]] * shape[0])
    return Chain(lambda: factors if is_traced(factors) else np.asarray(factors), sizes)


def _listed(matrices) -> Chain:
    if not matrices:
        raise ValueError("factors must hold at least one matrix, got an empty list")
    shapes = [np.shape(matrix) for matrix in matrices]
    for index, (matrix, shape) in enumerate(zip(matrices, shapes)):
        if len(shape) != 2:
            raise ValueError(f"factors[{index}] must be a matrix, got shape {shape}")
        _check_dtype(_dtype(matrix), f"factors[{index}]")
        if index and shape[1] != shapes[index - 1][0]:
            raise ValueError(
                f"factors[{index}] must have {shapes[index - 1][0]} columns, as many as "
                f"factors[{index - 1}] has rows, got shape {shape}"
            )
    return Chain(lambda: matrices, (shapes[0][1], *(shape[0] for shape in shapes)))


def _scanned(step, carry, length) -> Chain:
    if not isinstance(length, int | np.integer) or length < 0:
        raise ValueError(f"length must be an integer >= 0, got {length!r}")
    exact = any(_is_float64(leaf) for leaf in jax.tree.leaves((carry, _captured(step))))
    with _float64(exact):
        carry = jax.tree.map(jnp.asarray, carry)
        after, factor = jax.eval_shape(step, carry)
    _check_step(carry, after, factor, length)
    rows, columns = factor.shape
    produce = functools.partial(_scan, step, carry, length, factor, exact)
    return Chain(produce, (columns, *[rows] * int(length)))


def _scan(step, carry, length, factor, exact) -> Iterator[np.ndarray]:
    """The factors, some at a time: no more of them than ``_SCAN_BYTES`` exist at once."""
    each = max(1, math.prod(factor.shape) * factor.dtype.itemsize)
    block = max(1, min(length, _SCAN_BYTES // each))

    @jax.jit
    def run(carry, count):
        def body(i, state):
            carry, block = state
            carry, new = step(carry)
            return carry, block.at[i].set(new)

        empty = jnp.zeros((block, *factor.shape), factor.dtype)
        return jax.lax.fori_loop(0, count, body, (carry, empty))

    for start in range(0, length, block):
        count = min(block, length - start)
        with _float64(exact):
            carry, produced = run(carry, np.int32(count))
        yield from np.asarray(produced)[:count]


def _check_step(carry, after, factor, length):
    described = [jax.tree.map(lambda x: (jnp.shape(x), x.dtype), tree) for tree in (carry, after)]
    if described[0] != described[1]:
        raise ValueError(
            "step must return a carry of the structure, shapes and dtypes it was given, "
            f"got {described[1]} for {described[0]}"
        )
    shape = getattr(factor, "shape", None)
    if shape is None or len(shape) != 2 or (length > 1 and shape[0] != shape[1]):
        raise ValueError(f"step must return (carry, square matrix), got a factor of shape {shape}")
    _check_dtype(factor.dtype, "the factor that step returns")


def _check_dtype(dtype, name):
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name} must hold real numbers, got dtype {dtype}")


def _dtype(matrix):
    return matrix.dtype if hasattr(matrix, "dtype") else np.asarray(matrix).dtype


def _captured(step) -> list[Any]:
    """The values a plain function or a partial takes from outside."""
    if isinstance(step, functools.partial):
        return [step.args, step.keywords, *_captured(step.func)]
    if not inspect.isfunction(step):
        return []
    outside = inspect.getclosurevars(step)
    return [dict(outside.nonlocals), dict(outside.globals), step.__defaults__]


def _float64(exact: bool) -> contextlib.AbstractContextManager:
    return jax.enable_x64(True) if exact else contextlib.nullcontext()


def _is_float64(leaf) -> bool:
    return getattr(leaf, "dtype", None) == np.float64
