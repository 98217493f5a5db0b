"""Every singular value of a graded product to high relative accuracy, whatever its range.

One-sided Jacobi after pivoted QR (Drmač and Veselić 2008, "New fast and accurate Jacobi SVD
algorithm", LAPACK's gejsv) finds the singular values of ``C diag(s)`` with errors relative to each
one when C is well conditioned. A double spans 700 nats; a deep product spans thousands. So the
graded triangle is cut into overlapping windows of scales: entries between columns whose scales are
a factor 2**m apart move singular values by 2**(-2m) relative, nothing at the margins used here.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from sigprop.jacobian import lapack
from sigprop.jacobian.graded import Graded, separated
from sigprop.jacobian.triangular import EPSILON

__all__ = ["log_spectrum"]

_CORE = 360.0  # bits of scale whose singular values one window decides
_MARGIN = 90.0  # bits of scale around it that are decomposed with it


def log_spectrum(state: Graded) -> tuple[Float[np.ndarray, " rank"], Float[np.ndarray, " rank"]]:
    """Log singular values of the product, descending, and an estimate of their errors.

    Raises
    ------
    FloatingPointError
        If the Jacobi iteration does not converge, which is not known to happen.
    """
    triangle, based = separated(state)
    log2_scale = based.scales.log2
    logs = np.empty(len(triangle))
    for first, start, stop, last in _windows(log2_scale):
        shift = 0.5 * (log2_scale[first] + log2_scale[last - 1])
        window = triangle[first:last, first:last] * np.exp2(log2_scale[first:last] - shift)
        values = _jacobi_log2(window) + shift
        logs[start:stop] = values[start - first : stop - first]
    logs *= np.log(2.0)
    return logs, np.sqrt(based.rounding.variance) + EPSILON * (np.abs(logs) + len(triangle))


def _windows(log2_scale) -> Iterator[tuple[int, int, int, int]]:
    """``(first, start, stop, last)``: decompose [first, last), keep [start, stop)."""
    descending = -log2_scale
    start = 0
    while start < descending.size:
        stop = int(np.searchsorted(descending, descending[start] + _CORE, side="right"))
        first = int(np.searchsorted(descending, descending[start] - _MARGIN, side="left"))
        last = int(np.searchsorted(descending, descending[stop - 1] + _MARGIN, side="right"))
        yield first, start, stop, last
        start = stop


def _jacobi_log2(matrix):
    """Base-two logarithms of the singular values, descending."""
    values, _, _, work, _, info = lapack.dgejsv(matrix, joba=2, jobu=3, jobv=3, jobr=0, jobp=0)
    if info:
        raise FloatingPointError(f"Jacobi iteration did not converge (LAPACK gejsv: {info})")
    with np.errstate(divide="ignore"):
        return np.sort(np.log2(values) + np.log2(work[0] / work[1]))[::-1]
