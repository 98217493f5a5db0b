"""Products of a few small matrices as they are: float64 entries are integers times powers of two.

Where float64 loses a singular value (a factor singular to working precision, a product that undoes
itself), Python's integers multiply the chain out without rounding, and mpmath decomposes what comes
out in as many digits as its smallest singular value asks for.
"""

import mpmath
import numpy as np
from jaxtyping import Float

from sigprop.jacobian.factors import Chain

__all__ = ["affordable", "exact_log_spectrum"]

_WORK = 1e6  # multiplications of integers: a second or so
_OF_DECOMPOSING = 100  # as many multiplications of matrices
_FIRST_DIGITS, _SPARE_DIGITS = 50, 25


def affordable(chain: Chain) -> bool:
    """Whether the exact product takes no longer than a second or so."""
    return max(chain.sizes) ** 3 * (chain.length + _OF_DECOMPOSING) <= _WORK


def exact_log_spectrum(chain: Chain) -> Float[np.ndarray, " rank"]:
    """Log singular values of the product that are not zero, descending; each to double precision.

    Examples
    --------
    >>> from sigprop.jacobian.factors import as_chain
    >>> exact_log_spectrum(as_chain([np.array([[1.0, 2.0], [2.0, 4.0]])])) / np.log(5)
    array([1.])
    """
    product, exponent = np.diag([1] * chain.sizes[0]).astype(object), 0
    for factor in chain():
        integers, shared = _integers(factor)
        product, exponent = integers @ product, exponent + shared
    rank, digits = _rank(product), _FIRST_DIGITS
    while rank:
        with mpmath.workdps(digits):
            values = sorted(mpmath.svd_r(mpmath.matrix(product.tolist()), compute_uv=False))[::-1]
            if values[rank - 1] > values[0] * mpmath.mpf(10) ** (_SPARE_DIGITS - digits):
                unit = exponent * mpmath.log(2)
                return np.array([float(mpmath.log(value) + unit) for value in values[:rank]])
        digits *= 2
    return np.zeros(0)


def _integers(factor: Float[np.ndarray, "rows columns"]) -> tuple[np.ndarray, int]:
    """``factor / 2**exponent`` as Python integers, and the exponent."""
    mantissa, exponents = np.frexp(factor)
    shared = int(np.min(exponents, where=mantissa != 0, initial=2000))
    shifts = np.where(mantissa != 0, exponents - shared, 0).astype(object)
    return (mantissa * 2.0**53).astype(np.int64).astype(object) << shifts, shared - 53


def _rank(matrix: np.ndarray) -> int:
    """Of integers, by elimination without fractions (Bareiss 1968): no tolerance enters."""
    rest, rank, previous = matrix.copy(), 0, 1
    for column in range(rest.shape[1]):
        pivots = [row for row in range(rank, len(rest)) if rest[row, column]]
        if pivots:
            rest[[rank, pivots[0]]] = rest[[pivots[0], rank]]
            pivot, below = rest[rank, column], slice(rank + 1, None)
            crossed = pivot * rest[below] - np.outer(rest[below, column], rest[rank])
            rest[below], previous, rank = crossed // previous, pivot, rank + 1
    return rank
