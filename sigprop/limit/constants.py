"""Known arrays: evaluated as they are, and taken for signals where they meet one."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core
import numpy as np

from sigprop._precision import exact_float64
from sigprop.limit.atoms import Fixed
from sigprop.limit.signals import Const
from sigprop.limit.tracing import bound

__all__ = ["evaluated", "fixed", "is_uniform"]


def is_uniform(array: Any) -> bool:
    """Whether all entries are one number."""
    array = np.asarray(array)
    return array.size > 0 and bool(np.all(array == array.ravel()[0]))


def fixed(columns: np.ndarray) -> Fixed:
    """(places, units) as an atom; one object for equal arrays."""
    return _fixed(columns.tobytes(), columns.shape)


@functools.lru_cache(maxsize=256)
def _fixed(content: bytes, shape: tuple[int, int]) -> Fixed:
    return Fixed(np.frombuffer(content).reshape(shape))


@exact_float64
def evaluated(equation: Any, given: Sequence[Const]) -> list[Const]:
    """One operation on known arrays."""
    arrays = [_typed(x.array, v) for x, v in zip(given, equation.invars)]
    written = all(x.written for x in given)
    return [Const(_numpy(x), written) for x in bound(equation, arrays)]


def _typed(array: Any, var: Any) -> Any:
    dtype = getattr(var.aval, "dtype", None)
    if isinstance(array, np.ndarray | np.generic | float | int | bool) and dtype is not None:
        return jax.numpy.asarray(array, dtype)
    return array


def _numpy(x: Any) -> Any:
    return x if jax.numpy.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)
