"""Whether an array may be taken for independent draws, by what its own entries show.

A trained or structured array (an identity, sinusoids, a matrix of low rank) has an outlier among
its singular values, rows of different size, or entries far from any usual distribution. Independent
entries of variance σ² have no singular value beyond σ (√n + √m), with fluctuations of order
σ n^{-1/6} (Marchenko and Pastur 1967; Tracy and Widom 1994).
"""

import math

import numpy as np

from sigprop.limit.weights import Law

__all__ = ["why_not_drawn"]

_MOST_ERRORS = 6.0
_FEWEST = 64  # entries below which nothing is said
_LARGEST_SIDE = 1024  # of a larger array, a corner is looked at


def why_not_drawn(array: np.ndarray, law: Law, multiplied: bool) -> str:
    """Why an array is no draw of independent entries of mean 0, "" if it may be one.

    A law that was told is taken at its word. ``multiplied``: whether it multiplies a signal;
    what is only added, or looked up, may be anything (`Law.variance` is then its mean square).
    """
    if law.known or array.ndim < 2 or array.size < _FEWEST:
        return ""
    if law.mean and multiplied:
        return f"its entries have mean {law.mean:.3g}, not 0: no limit at large width"
    # A stack of layers is looked at layer by layer.
    flat = (
        array.reshape(-1, *array.shape[-2:])
        if array.ndim == 3
        else array.reshape(1, -1, array.shape[-1])
    )
    deviation = math.sqrt(law.variance)
    kurtosis = float(np.mean(array**4)) / law.variance**2
    error = math.sqrt(96 / array.size)
    if kurtosis > 3 + _MOST_ERRORS * error + 0.5:
        return (
            f"its entries have kurtosis {kurtosis:.3g}, more than Gaussian ones (3): not one draw"
        )
    for matrix in flat[:8]:
        matrix = matrix[:_LARGEST_SIDE, :_LARGEST_SIDE]
        reason = _outlier(matrix, deviation)
        if reason:
            return reason
    return ""


def _outlier(matrix: np.ndarray, deviation: float) -> str:
    n, m = matrix.shape
    if min(n, m) < 8:
        return ""
    largest = float(np.linalg.norm(matrix, 2)) / deviation
    edge = math.sqrt(n) + math.sqrt(m)
    width = edge ** (1 / 3) * (n**-0.5 + m**-0.5) ** (1 / 3) / 2
    if largest > edge + _MOST_ERRORS * width:
        return f"its largest singular value is {largest / edge:.3g} times that of independent draws"
    return ""
