"""QR of a matrix whose columns carry scales of any range, with the error of every diagonal entry.

Rows are sorted by size first, which makes Householder's rounding small against every row by itself
(Cox and Higham 1998, "Stability of Householder QR factorization for weighted least squares
problems"): factors such as ``diag(φ') W`` with φ' over many orders of magnitude lose nothing.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sigprop.jacobian import lapack
from sigprop.jacobian.scales import Scales

__all__ = ["EPSILON", "Triangularised", "householder", "inverse", "triangularise"]

EPSILON = float(np.finfo(np.float64).eps)
_GROWTH_BEFORE_PIVOTING = 1e3  # of the unit triangle's entries; a badly chosen order is far above
_PIVOT_WINDOW = 400  # bits of scale handled by one pivoted QR; far from under- and overflow


@dataclass(frozen=True)
class Triangularised:
    """``(M @ diag(s))[:, order] = frame @ diag(diagonal * s[order]) @ unit``.

    ``frame`` has orthonormal columns, ``unit`` is upper trapezoidal with ±1 on its diagonal,
    ``bare_unit`` is the same with the scales left out, ``inverse`` that one's inverse. ``rounding``
    is that of each row of ``bare_unit``.
    """

    frame: Float[np.ndarray, "rows rank"]
    diagonal: Scales
    unit: Float[np.ndarray, "rank columns"]
    bare_unit: Float[np.ndarray, "rank columns"]
    inverse: Float[np.ndarray, "rank rank"]
    order: Int[np.ndarray, " columns"]
    rounding: Float[np.ndarray, " rank"]

    @functools.cached_property
    def relative_error(self) -> Float[np.ndarray, " rank"]:
        """Of every diagonal entry: rounding of row i times the norm of the inverse's column i."""
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->j", self.inverse, self.inverse))
            return np.nan_to_num(self.rounding * norms, nan=np.inf, posinf=np.inf)


def triangularise(
    m: Float[np.ndarray, "rows columns"],
    row_size: Float[np.ndarray, " rows"],
    scales: Scales,
) -> Triangularised:
    """QR of ``m @ diag(scales)``, largest columns first.

    ``row_size`` is the size of the numbers each row was summed from: rounding is relative to it,
    and a row of size 0 is exactly zero.
    """
    rows = np.argsort(-row_size, kind="stable")[: np.count_nonzero(row_size)]
    full = min(rows.size, m.shape[1])
    order = _by_size(m, scales)
    frame, triangle = householder(m[np.ix_(rows, order)])
    bare, unit = _units(triangle, scales[order])
    if not np.max(np.abs(unit), initial=0.0) < _GROWTH_BEFORE_PIVOTING:
        frame, triangle, order = _pivoted(m[rows], scales.log2)
        bare, unit = _units(triangle, scales[order])
    placed = np.zeros((len(m), full))
    placed[rows] = frame
    diagonal = np.abs(np.diagonal(triangle))
    with np.errstate(divide="ignore", invalid="ignore"):
        rounding = EPSILON * np.sqrt((placed * placed).T @ (row_size * row_size)) / diagonal
    return Triangularised(
        placed, Scales.of(diagonal), unit, bare, inverse(bare[:, :full]), order, rounding
    )


def householder(
    m: Float[np.ndarray, "rows columns"],
) -> tuple[Float[np.ndarray, "rows small"], Float[np.ndarray, "small columns"]]:
    """The thin QR of ``m``."""
    columns = m.shape[1]
    small = min(m.shape)
    if small == 0:
        return np.zeros((len(m), 0)), np.zeros((0, columns))
    packed, tau, _, _ = lapack.dgeqrf(m, lwork=64 * columns)
    frame, _, _ = lapack.dorgqr(packed[:, :small], tau, lwork=64 * columns)
    return frame, np.triu(packed[:small])


def inverse(triangle: Float[np.ndarray, "rank rank"]) -> Float[np.ndarray, "rank rank"]:
    """Of an upper triangular matrix; infinite when there is none."""
    if triangle.size == 0:
        return triangle
    if not np.isfinite(triangle).all():
        return np.full(triangle.shape, np.inf)
    inverted, info = lapack.dtrtri(triangle)
    return np.full(triangle.shape, np.inf) if info else inverted


def _by_size(m, scales):
    with np.errstate(divide="ignore"):
        sizes = np.log2(np.sqrt(np.einsum("ij,ij->j", m, m))) + scales.log2
    return np.argsort(-sizes, kind="stable")


def _units(triangle, scales):
    """Rows over their diagonal entries; the same with the columns at their scales."""
    diagonal = np.abs(np.diagonal(triangle))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bare = triangle / diagonal[:, None]
        return bare, bare * scales.ratios(diagonal.size)


def _pivoted(m, log2_scale):
    """QR with column pivoting at the columns' scales: pivoted QRs, one per window of scales."""
    small = min(m.shape)
    order, frame, work = np.arange(m.shape[1]), np.eye(len(m)), np.array(m)
    start = 0
    while start < small and work[start:, start:].any():
        scale = _window_scale(work[start:, start:], log2_scale[order[start:]])
        packed, pivots, tau, _, _ = lapack.dgeqp3(work[start:, start:] * scale)
        in_window = np.abs(np.diagonal(packed)) > 2.0**-_PIVOT_WINDOW
        count = max(1, int(in_window.cumprod().sum()))
        reflectors = np.asfortranarray(packed[:, :count])
        order[start:] = order[start:][pivots - 1]
        work[:, start:] = work[:, start:][:, pivots - 1]
        work[start:, start:] = _reflect(reflectors, tau[:count], work[start:, start:])
        frame[:, start:] = _reflect(reflectors, tau[:count], frame[:, start:].T).T
        start += count
    return frame[:, :small], np.triu(work[:small]), order


def _window_scale(rest, log2_scale):
    """Column scales relative to the largest scaled column, held within a double's range."""
    with np.errstate(divide="ignore"):
        top = np.max(np.log2(np.linalg.norm(rest, axis=0)) + log2_scale)
    return np.exp2(np.clip(log2_scale - top, -2.0 * _PIVOT_WINDOW, 1000.0))


def _reflect(reflectors, tau, target):
    return lapack.dormqr("L", "T", reflectors, tau, target, lwork=64 * target.shape[1])[0]
