"""The same triangularisation in integers of any length, for factors a double cannot carry.

A factor that is ill conditioned in no visible pattern of rows and columns loses its small singular
values to float64 rounding. There the product with the frame and its QR are done in fixed point:
Python integers that stand for multiples of ``2**-bits``, by modified Gram-Schmidt with column
pivoting, whose loss of orthogonality is ``2**-bits`` over the smallest pivot.
"""

import math

import numpy as np
from jaxtyping import Float

from sigprop.jacobian.pieces import Mixing, Piece
from sigprop.jacobian.scales import Scales
from sigprop.jacobian.triangular import Triangularised, inverse

__all__ = [
    "InsufficientBitsError",
    "fixed_product",
    "from_fixed",
    "integer_triangularise",
    "to_fixed",
]


class InsufficientBitsError(ArithmeticError):
    """A pivot is too small for the working precision."""


def to_fixed(values: Float[np.ndarray, "rows columns"], bits: int) -> np.ndarray:
    """``values * 2**bits`` as Python integers."""
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    shift = (exponent.astype(np.int64) - 53 + bits).astype(object)
    return np.asarray(_shifted(whole.astype(object), shift))


def fixed_product(left: np.ndarray, right: np.ndarray, bits: int) -> np.ndarray:
    """``left @ right`` of two matrices in fixed point."""
    return np.asarray(_rounded(left.dot(right), bits))


def integer_triangularise(
    piece: Piece,
    frame: np.ndarray,
    bits: int,
    scales: Scales,
    *,
    rank: int | None,
    frame_error: float,
) -> tuple[np.ndarray, Triangularised]:
    """``triangularise(piece @ frame)`` in fixed point, with the new frame as integers.

    ``frame_error`` is how far off the entries of ``frame`` are; the rounding done here is nothing
    beside it.

    Raises
    ------
    InsufficientBitsError
        If a pivot within ``rank`` is below ``2**(-bits / 2)``.
    """
    m = _times(piece, frame, bits)
    limit = min(m.shape) if rank is None else min(*m.shape, rank)
    vectors, triangle, order = _gram_schmidt(m, bits, scales.log2, limit)
    mantissa, exponent = _frexp(triangle)
    diagonal = Scales(np.diagonal(mantissa).copy(), np.diagonal(exponent).copy())
    plain = Scales(np.ones(len(scales)), np.zeros(len(scales), np.int64))
    bare = _unit(mantissa, exponent, diagonal, plain)
    unit = _unit(mantissa, exponent, diagonal, scales[order])
    with np.errstate(over="ignore"):
        rounding = frame_error * np.linalg.norm(bare, axis=1) + 2.0 ** (-bits / 2)
    values = Scales(diagonal.mantissa, diagonal.exponent - bits)
    float_frame = from_fixed(vectors, bits)
    return vectors, Triangularised(
        float_frame, values, unit, bare, inverse(bare[:, :limit]), order, rounding
    )


def _times(piece, frame, bits):
    if isinstance(piece, Mixing):
        return fixed_product(to_fixed(piece.matrix, bits), frame, bits)
    factors = np.where(piece.kept, 1, 0).astype(object)[:, None]
    return np.asarray(_shifted(frame * factors, piece.row_exponent.astype(object)[:, None]))


def _gram_schmidt(m, bits, log2_scale, limit):
    """Modified Gram-Schmidt, the column largest at its scale first."""
    rest, order = m.copy(), np.arange(m.shape[1])
    frame = np.zeros((len(m), limit), object)
    triangle = np.zeros((limit, m.shape[1]), object)
    for k in range(limit):
        squares = np.sum(rest[:, k:] * rest[:, k:], axis=0)
        best = k + int(np.argmax(_log2(squares) / 2 + log2_scale[order[k:]]))
        for columns in (order, rest.T, triangle.T):
            columns[[k, best]] = columns[[best, k]]
        norm = math.isqrt(squares[best - k])
        if norm < 1 << (bits // 2):
            raise InsufficientBitsError(bits)
        frame[:, k] = (rest[:, k] << bits) // norm
        triangle[k, k] = norm
        triangle[k, k + 1 :] = _rounded(frame[:, k].dot(rest[:, k + 1 :]), bits)
        rest[:, k + 1 :] -= _rounded(np.multiply.outer(frame[:, k], triangle[k, k + 1 :]), bits)
    return frame, triangle, order


def _unit(mantissa, exponent, diagonal, scales):
    """Rows over their diagonal entries, with the columns at their scales."""
    rank = len(diagonal)
    column_exponent = exponent + scales.exponent - scales.exponent[:rank, None]
    exponents = np.clip(column_exponent - diagonal.exponent[:, None], -1000, 1000)
    ratio = mantissa / diagonal.mantissa[:, None]
    return np.ldexp(ratio * (scales.mantissa / scales.mantissa[:rank, None]), exponents)


def _rounded(values, bits):
    return (values + (1 << (bits - 1))) >> bits


def _shift(value: int, by: int) -> int:
    return value << by if by >= 0 else value >> -by


def _frexp_integer(value: int) -> tuple[float, int]:
    excess = max(value.bit_length() - 60, 0)
    mantissa, exponent = math.frexp(value >> excess)
    return mantissa, exponent + excess


_shifted = np.frompyfunc(_shift, 2, 1)
_log2 = np.vectorize(lambda v: math.log2(v) if v else -math.inf, otypes=[np.float64])
_frexp = np.vectorize(_frexp_integer, otypes=[np.float64, np.int64])


def from_fixed(values: np.ndarray, bits: int) -> Float[np.ndarray, "rows columns"]:
    """The nearest float64 of every entry."""
    if values.size == 0:
        return np.zeros(values.shape)
    mantissa, exponent = _frexp(values)
    return np.ldexp(mantissa, exponent - bits)
