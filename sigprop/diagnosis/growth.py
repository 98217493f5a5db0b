"""How fast something grows from layer to layer, and how sure that is."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["Growth", "growth"]

_AT_LEAST = 3  # two layers make one step, of which no spread can be told
_AT_MOST = 400
_LAGS = 2


@dataclass(frozen=True)
class Growth:
    """Growth of ln ‖∂loss/∂z‖² a layer, towards the input.

    Attributes
    ----------
    rate, stderr
        Growth a layer, backwards: negative means vanishing. nan with fewer than 3 layers.
    layers
        How many layers it is read from.
    """

    rate: float
    stderr: float
    layers: int

    @property
    def total(self) -> float:
        """Over all the layers."""
        return self.rate * (self.layers - 1)

    @property
    def total_stderr(self) -> float:
        """Standard error of `total`."""
        return self.stderr * (self.layers - 1)


def growth(log_square: Float[np.ndarray, " layers"]) -> Growth:
    """Slope of a series over the layers, the first of which is the nearest to the input.

    The median of the slopes between all pairs (Theil and Sen): one layer that is out of line,
    where a convolutional net pools or a head begins, does not move it. Its standard error is that
    of a walk with the series' own steps, correlated ones included (Bartlett's weights): what one
    layer does, all layers below inherit.

    Examples
    --------
    >>> found = growth(np.array([-6.0, -4.1, -2.0, 0.1]))
    >>> f"{found.rate:.2f} {found.stderr:.2f}"
    '-2.07 0.07'
    >>> growth(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0])).rate
    -0.0
    """
    series = log_square[np.isfinite(log_square)]
    count = series.size
    if count < _AT_LEAST:
        return Growth(math.nan, math.nan, count)
    places = np.unique(np.linspace(0, count - 1, min(count, _AT_MOST)).round().astype(int))
    i, j = np.triu_indices(places.size, 1)
    slopes = (series[places[j]] - series[places[i]]) / (places[j] - places[i])
    # A slope fitted to a walk of n steps of spread s has standard error s sqrt(6/(5 n)).
    spread = math.sqrt(_long_run_variance(np.diff(series)))
    return Growth(float(-np.median(slopes)), spread * math.sqrt(1.2 / (count - 1)), count)


def _long_run_variance(steps: np.ndarray) -> float:
    """Variance of a long sum of the steps, by step."""
    off = steps - steps.mean()
    variance = float(np.sum(off**2)) / max(steps.size - 1, 1)
    total = variance
    for lag in range(1, _LAGS + 1):
        if steps.size >= 8:
            covariance = float(np.sum(off[lag:] * off[:-lag])) / steps.size
            total += 2 * (1 - lag / (_LAGS + 1)) * covariance
    return max(total, 0.05 * variance)
