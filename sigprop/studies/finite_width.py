"""What a finite network's gradient growth says about infinite width, and how far it is off.

Theory gives log E[g²]; a network of width N shows the mean over seeds of log g², which is lower by
half the variance of log g² (E log < log E), and log E[g²] itself differs from its limit by A/N.
Both are of the size of the standard error or above it, so a bare comparison fails for a reason
that is no disagreement.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["GrowthAtWidth", "at_infinite_width", "standard_errors_off"]

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
    wide: GrowthAtWidth, narrow: GrowthAtWidth, *, depth: int, seeds: int
) -> tuple[Cells, Cells]:
    """Gradient growth extrapolated from two widths, with its standard error.

    At each width r̃(N) = r(N) + Var[log g²]/(2 (L − 1)) estimates log E[g²], and
    r̃(N) = r(∞) + A/N + O(1/N²) at two widths N > n gives (Richardson 1911)

        r(∞) = (N r̃(N) − n r̃(n)) / (N − n),

    which is 2 r̃(N) − r̃(N/2) for n = N/2. The draws of different widths have nothing in common, so
    the errors add: Var r(∞) = (N² s²(N) + n² s²(n)) / (N − n)², where s² is the squared standard
    error of r plus that of the correction, Var² · 2/(S − 1) / (2 (L − 1))² for S Gaussian seeds,
    plus what float32 rounds (`ROUNDING`).

    Parameters
    ----------
    wide, narrow
        Measurements at two widths, the larger first.
    depth
        L >= 2.
    seeds
        S >= 2, of either width.

    Returns
    -------
    tuple of numpy.ndarray
        Rate and standard error, of the shape of the measurements.
    """
    weights = np.asarray([wide.width, -narrow.width]) / (wide.width - narrow.width)
    rate, squared = np.zeros_like(wide.rate), np.zeros_like(wide.rate)
    for weight, at in zip(weights, (wide, narrow)):
        shift = at.log_variance / (2 * (depth - 1))
        rate = rate + weight * (at.rate + shift)
        own = at.stderr**2 + shift**2 * 2 / (seeds - 1) + ROUNDING**2
        squared = squared + weight**2 * own
    return rate, np.sqrt(squared)


def standard_errors_off(measured: Cells, stderr: Cells, predicted: Cells) -> Cells:
    """(measured − predicted)/stderr; nan where the standard error is 0 or undefined.

    Examples
    --------
    >>> standard_errors_off(np.asarray([1.0]), np.asarray([0.5]), np.asarray([0.0]))
    array([2.])
    """
    usable = np.isfinite(stderr) & (stderr > 0)
    return np.where(usable, (measured - predicted) / np.where(usable, stderr, 1.0), np.nan)
