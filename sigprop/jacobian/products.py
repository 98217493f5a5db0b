"""Log singular values and Lyapunov exponents of products of any number of matrices."""

import contextlib
import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sigprop._blas_threads import one_blas_thread
from sigprop._precision import is_traced
from sigprop.jacobian.chain import graded_products
from sigprop.jacobian.factors import Chain, NonFiniteFactorError, as_chain
from sigprop.jacobian.graded_spectrum import log_spectrum
from sigprop.jacobian.small_products import affordable, exact_log_spectrum

__all__ = [
    "LogProduct",
    "ProductStatus",
    "cumulative_log_singular_values",
    "log_product",
    "log_singular_values",
    "lyapunov_exponents",
]

_GOOD = 1e-10  # error of a log singular value from which small products are taken exactly
_ACCURATE = 1e-6  # error of a log singular value that is still called accurate
_SAFETY = 4.0  # of the error over the root of summed variances: correlated rounding
_ONE_THREAD = 512  # width up to which more BLAS threads cost more than they bring

Factors = (
    Float[Array, "length rows columns"]
    | Float[np.ndarray, "length rows columns"]
    | Int[Array, "length rows columns"]
    | Int[np.ndarray, "length rows columns"]
    | Sequence[Any]
    | Chain
)


class ProductStatus(enum.IntEnum):
    """How the log singular values of a product came out."""

    ACCURATE = 0  #: every error is below 1e-6
    INACCURATE = 1  #: some are not, as float64 cannot tell them: see ``error``
    NOT_FINITE = 2  #: a factor holds NaN or infinity: see ``nonfinite_layer``


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_singular_values", "error", "rank", "status", "nonfinite_layer"],
    meta_fields=[],
)
@dataclass(frozen=True)
class LogProduct:
    """What `log_product` finds out about a product of matrices.

    Attributes
    ----------
    log_singular_values
        Natural logarithms, descending; -inf where the product is exactly singular, nan throughout
        if a factor is not finite.
    error
        Estimated absolute error of each; 0 for -inf.
    rank
        How many of the values are not -inf: the product's rank, exactly, if ``status`` is
        ACCURATE, and at least that rank otherwise.
    status
        A `ProductStatus`.
    nonfinite_layer
        The first factor that holds NaN or infinity, counted from 1; 0 if none does.
    """

    log_singular_values: Float[np.ndarray, " n"] | Float[Array, "*batch n"]
    error: Float[np.ndarray, " n"] | Float[Array, "*batch n"]
    rank: int | Int[Array, "*batch"]
    status: int | Int[Array, "*batch"]
    nonfinite_layer: int | Int[Array, "*batch"]


def log_product(factors: Factors) -> LogProduct:
    r"""Every log singular value of ``factors[-1] @ ... @ factors[0]``, with errors and rank.

    No depth under- or overflows, and each value has a small error of its own, however far apart or
    close together the singular values are. The product is kept as orthonormal · scales · well
    conditioned (Bai, Lee, Li and Xu 2011); one-sided Jacobi (Drmač and Veselić 2008) finishes.
    What float64 cannot carry without loss is multiplied out in integers if it is small (a dozen
    numbers, a few hundred factors), where exact zeros are told from tiny values too; larger
    products say in ``error`` and ``status`` which values are lost.

    Parameters
    ----------
    factors
        ``factors[0]`` acts first. An array (length, N, N); a list of matrices of shapes that chain;
        or ``(step, carry, length)`` with ``step(carry) -> (carry, factor)`` traceable by JAX,
        whose factors are made a block at a time and never held all at once. NumPy float64 (in the
        carry too) is read in float64 whatever JAX's setting; the computation always is.

    Returns
    -------
    LogProduct
        NumPy float64. Under ``jit`` or ``vmap``, JAX arrays of the default float type (the work is
        done in a host callback).

    Raises
    ------
    ValueError
        If the shapes do not chain or the entries are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> half, skew = 0.5 * np.eye(2), np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> record = log_product([half] * 2000 + [skew])
    >>> record.log_singular_values + 2000 * np.log(2.0)
    array([ 0.48121183, -0.48121183])
    >>> log_product([np.array([[1.0, 2.0], [2.0, 4.0]])]).rank
    1
    """
    if is_traced(factors):
        return _traced(factors)
    chain = as_chain(factors)
    return _records(chain, (chain.length,))[0]


def log_singular_values(factors: Factors) -> Float[np.ndarray, " n"] | Float[Array, " n"]:
    """Natural logarithms of the singular values of ``factors[-1] @ ... @ factors[0]``, descending.

    See `log_product`, which also returns errors, rank and status.

    Examples
    --------
    >>> import numpy as np
    >>> log_singular_values(np.stack([np.diag([1e-200, 1e200])] * 3))
    array([ 1381.5510558, -1381.5510558])
    """
    return log_product(factors).log_singular_values


def lyapunov_exponents(factors: Factors) -> Float[np.ndarray, " n"] | Float[Array, " n"]:
    r"""Finite-depth Lyapunov exponents ``λ_i = log s_i / length``, descending.

    For independent N x N factors with N(0, σ²/N) entries they tend to
    ``ln σ + (ln(2/N) + digamma((N - i + 1)/2)) / 2``, i = 1..N (Newman 1986, "The distribution of
    Lyapunov exponents: exact results for random matrices").

    Raises
    ------
    ValueError
        As for `log_product`, and if there are no factors.

    Examples
    --------
    >>> import numpy as np
    >>> lyapunov_exponents(np.stack([np.diag([2.0, 0.5])] * 100)) / np.log(2.0)
    array([ 1., -1.])
    """
    length = _stacked(factors).length if is_traced(factors) else as_chain(factors).length
    if length == 0:
        raise ValueError("factors must hold at least one matrix, got none")
    return log_singular_values(factors) / length


def cumulative_log_singular_values(
    factors: Factors, layers: Sequence[int] | Int[np.ndarray, " layers"]
) -> Float[np.ndarray, "layers n"] | tuple[Float[np.ndarray, " _"], ...]:
    """Log singular values after the first ``layers[0]``, ``layers[1]``, ... factors, in one pass.

    Parameters
    ----------
    factors
        As for `log_product`; not traced.
    layers
        Numbers of factors, 0..length, in any order.

    Returns
    -------
    Array of one row per entry of ``layers``; a tuple when their sizes differ. nan where a factor
    that is not finite has come in.

    Examples
    --------
    >>> import numpy as np
    >>> cumulative_log_singular_values(np.stack([np.diag([2.0, 0.5])] * 8), [1, 8]) / np.log(2.0)
    array([[ 1., -1.],
           [ 8., -8.]])
    """
    chain = as_chain(factors)
    counts = tuple(int(layer) for layer in layers)
    if any(not 0 <= count <= chain.length for count in counts):
        raise ValueError(f"layers must lie in 0..{chain.length}, got {counts}")
    rows = [np.asarray(record.log_singular_values) for record in _records(chain, counts)]
    return np.stack(rows) if len({row.size for row in rows}) == 1 else tuple(rows)


def _records(chain: Chain, counts) -> list[LogProduct]:
    sizes = [min(chain.sizes[0], chain.sizes[count]) for count in counts]
    one_thread = max(chain.sizes) <= _ONE_THREAD
    with one_blas_thread() if one_thread else contextlib.nullcontext():
        try:
            states = graded_products(chain, chain.sizes[0], counts)
        except NonFiniteFactorError as error:
            return _until(chain, counts, error.layer)
        records = [_record(*log_spectrum(state), size) for state, size in zip(states, sizes)]
    return [_exact_if_lost(chain.first(n), record) for n, record in zip(counts, records)]


def _exact_if_lost(chain, record) -> LogProduct:
    if np.max(record.error, initial=0.0) <= _GOOD or not affordable(chain):
        return record
    logs = exact_log_spectrum(chain)
    return _record(logs, np.finfo(float).eps * (1 + np.abs(logs)), record.error.size)


def _until(chain, counts, layer) -> list[LogProduct]:
    """The records of products that end before ``layer``, and nan for the others."""
    finite = iter(_records(chain.first(layer - 1), tuple(c for c in counts if c < layer)))
    return [next(finite) if count < layer else _not_finite(chain, count, layer) for count in counts]


def _not_finite(chain, count, layer) -> LogProduct:
    values = np.full(min(chain.sizes[0], chain.sizes[count]), np.nan)
    return LogProduct(values, values.copy(), 0, ProductStatus.NOT_FINITE, layer)


def _record(logs, error, size) -> LogProduct:
    values, errors = np.full(size, -np.inf), np.zeros(size)
    values[: logs.size], errors[: logs.size] = logs, _SAFETY * error
    accurate = bool(np.all(errors <= _ACCURATE))
    status = ProductStatus.ACCURATE if accurate else ProductStatus.INACCURATE
    return LogProduct(values, errors, logs.size, status, 0)


def _traced(factors) -> LogProduct:
    """The same by a callback to the host, for use under a transformation."""
    chain = _stacked(factors)
    real = jnp.zeros(()).dtype
    vector = jax.ShapeDtypeStruct((min(chain.sizes[0], chain.sizes[-1]),), real)
    number = jax.ShapeDtypeStruct((), jnp.zeros((), int).dtype)
    shapes = (vector, vector, number, number, number)
    compute = functools.partial(_on_host, shapes)
    matrices = chain.produce()
    return LogProduct(*jax.pure_callback(compute, shapes, matrices, vmap_method="sequential"))


def _stacked(factors) -> Chain:
    """A chain being traced, whose factors have to exist all at once."""
    if isinstance(factors, tuple) and len(factors) == 3 and callable(factors[0]):
        step, carry, length = factors
        factors = jax.lax.scan(lambda c, _: step(c), carry, None, length=length)[1]
    return as_chain(factors)


def _on_host(shapes, factors) -> tuple[np.ndarray, ...]:
    record = log_product(jax.tree.map(np.asarray, factors))
    parts = (
        record.log_singular_values,
        record.error,
        record.rank,
        record.status,
        record.nonfinite_layer,
    )
    return tuple(np.asarray(part, shape.dtype) for part, shape in zip(parts, shapes))
