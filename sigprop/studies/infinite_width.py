"""What a finite network's gradient growth says about infinite width, and how far it is off.

Theory gives log E[g²]; a network of width N shows the mean over seeds of log g², which is lower by
half the variance of log g² (E log < log E), and log E[g²] itself differs from its limit by A/N.
Both are of the size of the standard error or above it, so a bare comparison fails for a reason
that is no disagreement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["GrowthAtWidth", "at_infinite_width", "extrapolated", "standard_errors_off"]

Cells = Float[np.ndarray, "*cells"]

# A norm is measured in float32. Where seeds do not differ (linear orthogonal networks are
# isometries) the spread over seeds is rounding, and says nothing of the error.
ROUNDING = 2 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class GrowthAtWidth:
    """What seeds of one width show.

    Attributes
    ----------
    width
        N.
    rate, stderr
        Mean over seeds of r = (log g²_1 − log g²_L)/(L − 1), and its standard error.
    log_variance
        Variance over seeds of log g²_1 − log g²_L of one input.
    """

    width: int
    rate: Cells
    stderr: Cells
    log_variance: Cells


def at_infinite_width(
    wide: GrowthAtWidth, narrow: GrowthAtWidth, *, layers: int, seeds: int
) -> tuple[Cells, Cells]:
    """Gradient growth extrapolated from two widths, with its standard error.

    At each width r̃(N) = r(N) + Var[log g²]/(2 layers) estimates log E[g²], and is extrapolated
    (`extrapolated`). Its squared standard error is that of r plus that of the correction,
    Var² · 2/(S − 1) / (2 layers)² for S Gaussian seeds, plus what float32 rounds (`ROUNDING`).

    Parameters
    ----------
    wide, narrow
        Measurements at two widths, the larger first.
    layers
        Between the two gradients, >= 1: the rate is per layer.
    seeds
        S >= 2, of either width.

    Returns
    -------
    tuple of numpy.ndarray
        Rate and standard error, of the shape of the measurements.
    """
    widths, means, errors = [], [], []
    for at in (wide, narrow):
        shift = at.log_variance / (2 * layers)
        widths.append(at.width)
        means.append(at.rate + shift)
        errors.append(np.sqrt(at.stderr**2 + shift**2 * 2 / (seeds - 1) + ROUNDING**2))
    return extrapolated(widths, means, errors)


def extrapolated(
    widths: Sequence[int], means: Sequence[Cells], stderrs: Sequence[Cells]
) -> tuple[Cells, Cells]:
    """What means at two widths N > n tend to, and its standard error (Richardson 1911).

    m(N) = m(∞) + A/N + O(1/N²) gives m(∞) = (N m(N) − n m(n)) / (N − n), which is
    2 m(N) − m(N/2) for n = N/2. Draws of different widths have nothing in common: errors add.

    Examples
    --------
    >>> of = np.asarray
    >>> extrapolated((64, 32), (of([1.5]), of([2.0])), (of([0.3]), of([0.8])))
    (array([1.]), array([1.]))
    """
    wide, narrow = widths
    weights = wide / (wide - narrow), narrow / (wide - narrow)
    limit = weights[0] * means[0] - weights[1] * means[1]
    return limit, np.hypot(weights[0] * stderrs[0], weights[1] * stderrs[1])


def standard_errors_off(measured: Cells, stderr: Cells, predicted: Cells) -> Cells:
    """(measured − predicted)/stderr; nan where the standard error is 0 or undefined.

    Examples
    --------
    >>> standard_errors_off(np.asarray([1.0]), np.asarray([0.5]), np.asarray([0.0]))
    array([2.])
    """
    usable = np.isfinite(stderr) & (stderr > 0)
    return np.where(usable, (measured - predicted) / np.where(usable, stderr, 1.0), np.nan)
