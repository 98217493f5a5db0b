"""The slope of a function along a line from its values alone, with an error that can be trusted.

Central differences D(h) = (F(h) − F(−h)) / 2h over a ladder of step sizes. Two errors pull in
opposite directions, truncation (grows with h) and rounding (grows as h shrinks); both are read off
the values themselves: truncation from how much D still changes from step to step, rounding from
the noise of F at steps so small that F is a straight line there (Moré and Wild 2011, ECnoise).

That presumes a smooth F. A relu network has corners at any distance, and D(h) approaches the slope
no faster than sqrt(h). There, D(h) is exactly the mean of F' over (−h, h), whatever the corners:
`secant` gives D at a step large enough to be free of rounding, to be held against that mean.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["Slope", "integration_error", "midpoints", "secant", "slope", "steps"]

_RUNGS = 11
_LARGEST = 0.25
_TINY = 64  # machine epsilons: far above what a parameter is rounded to, far below any curvature
_TINY_STEPS = 4
_ROUNDED = 0.3  # standard deviation of rounding to the nearest number, 1/sqrt(12), in last places

# An error bar is this many times the two estimates. A corner too small to be seen in the noise
# moves D by up to 7 standard deviations of it.
_TRUNCATIONS, _ROUNDINGS = 4.0, 8.0

# One-sided slopes that disagree do so less and less as h shrinks, in proportion to h if F is
# smooth, to sqrt(h) if many corners lie around; at a corner they go on. Judged over a factor 8.
_SPAN, _PERSISTS, _UNSTABLE = 8.0, 0.6, 0.3
_SIGNIFICANT = 6.0
_SECANT_ROUNDING = 2e-3
_MIDPOINTS = 16


@dataclass(frozen=True)
class Slope:
    """dF/ds at s = 0.

    Attributes
    ----------
    value, error
        Estimate and error bar: truncation plus rounding, right if F is smooth.
    left, right
        One-sided slopes, if they disagree however small the step (a corner at s = 0); else nan.
    rough
        Whether the second difference settles to no value: F has corners nearby.
    finite
        Whether F is finite at 0 and at enough steps on both sides.
    """

    value: float
    error: float
    left: float
    right: float
    rough: bool
    finite: bool

    @property
    def kink(self) -> bool:
        """Whether F has a corner at 0 that the error bar does not cover."""
        return abs(self.right - self.left) / 2 > self.error


def steps(epsilon: float) -> Float[np.ndarray, " steps"]:
    """Where `slope` wants to know F, for numbers of precision ``epsilon``.

    In units of the size of what is stepped through: from a quarter of it to sqrt(epsilon), below
    the step at which rounding and truncation of smooth functions balance (epsilon^(1/3)).

    Examples
    --------
    >>> at = steps(2.0**-23)
    >>> at.size, float(at.max()), float(at[at > 0].min()) < 1e-4
    (31, 0.25, True)
    """
    rungs = _rungs(epsilon)
    tiny = _TINY * epsilon * np.arange(1, _TINY_STEPS + 1)
    return np.concatenate([[0.0], rungs, -rungs, tiny, -tiny])


def _rungs(epsilon: float) -> Float[np.ndarray, " rungs"]:
    smallest = epsilon**0.5
    largest = max(_LARGEST, smallest * 1.5 ** (_RUNGS - 1))
    return np.geomspace(largest, smallest, _RUNGS)


def slope(values: Float[np.ndarray, " steps"], epsilon: float) -> Slope:
    """The slope at 0 from the values of F at ``steps(epsilon)``.

    Examples
    --------
    >>> at = steps(2.0**-52)
    >>> found = slope(np.exp(at), 2.0**-52)
    >>> abs(found.value - 1) < found.error < 1e-7, found.kink, found.rough
    (True, False, False)
    >>> slope(np.abs(at), 2.0**-52).kink
    True
    """
    h, left, right = _finite_rungs(values, epsilon)
    if not np.isfinite(values[0]) or h.size < 3:
        return Slope(math.nan, math.nan, math.nan, math.nan, False, False)
    noise = _noise_at(values, epsilon, left, right)
    value, error = _central(h, (right - left) / (2 * h), noise / (math.sqrt(2) * h))
    left, right = (values[0] - left) / h, (right - values[0]) / h
    resolved = np.abs(right - left) > _SIGNIFICANT * math.sqrt(6) * noise / h
    sides = _one_sided(h, left, right, resolved)
    return Slope(value, error, *sides, _rough(h, right - left, resolved), True)


def secant(values: Float[np.ndarray, " steps"], epsilon: float) -> tuple[float, float, float]:
    """Step h, D(h) and its error bar (of rounding alone), at the smallest step nearly free of it.

    Examples
    --------
    >>> at = steps(2.0**-52)
    >>> h, mean, error = secant(np.maximum(at, 1e-5), 2.0**-52)
    >>> abs(mean - (h - 1e-5) / (2 * h)) <= error, error < 2e-3 * mean
    (True, True)
    """
    h, left, right = _finite_rungs(values, epsilon)
    difference = (right - left) / (2 * h)
    error = _ROUNDINGS * _noise_at(values, epsilon, left, right) / (math.sqrt(2) * h)
    clear = np.flatnonzero(error < _SECANT_ROUNDING * np.abs(difference))
    at = clear[-1] if clear.size else 0
    return float(h[at]), float(difference[at]), float(error[at])


def midpoints(h: float) -> Float[np.ndarray, " points"]:
    """Where to take F' for its mean over (−h, h), by the midpoint rule; never at 0."""
    return h * ((2 * np.arange(_MIDPOINTS) + 1) / _MIDPOINTS - 1)


def integration_error(slopes: Float[np.ndarray, " points"]) -> float:
    """Error bar of the mean of F' from its values at `midpoints`.

    A jump of F' somewhere in a panel moves the mean by at most half of it over the number of
    panels; which way is chance.
    """
    jumps = np.diff(slopes)
    return _TRUNCATIONS * math.sqrt(float(np.sum(jumps**2))) / (2 * slopes.size)


def _finite_rungs(values: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps with F finite on both sides, and F there."""
    right, left = values[1 : 1 + 2 * _RUNGS].reshape(2, _RUNGS)
    finite = np.isfinite(right) & np.isfinite(left)
    return _rungs(epsilon)[finite], left[finite], right[finite]


def _central(h: np.ndarray, difference: np.ndarray, rounding: np.ndarray) -> tuple[float, float]:
    """The best of the ladder's estimates, each from three neighbouring rungs."""
    change = np.abs(np.diff(difference))
    truncation = np.maximum(change[:-1], change[1:])  # twice in a row is no coincidence
    error = _TRUNCATIONS * truncation + _ROUNDINGS * rounding[2:]
    best = int(np.argmin(error))
    # Richardson: the h² term removed. The bar stays that of the plain difference.
    ratio = (h[best + 1] / h[best + 2]) ** 2
    finer, coarser = difference[best + 2], difference[best + 1]
    return float(finer + (finer - coarser) / (ratio - 1)), float(error[best])


def _one_sided(
    h: np.ndarray, left: np.ndarray, right: np.ndarray, resolved: np.ndarray
) -> tuple[float, float]:
    """Slopes on either side, if their gap persists from the smallest step that resolves it on."""
    if not resolved.any():
        return math.nan, math.nan
    gap = np.abs(right - left)
    finest = np.flatnonzero(resolved)[-1]
    wide = np.flatnonzero(h >= _SPAN * h[finest])
    if not wide.size or gap[finest] < _PERSISTS * gap[wide[-1]]:
        return math.nan, math.nan
    return float(left[finest]), float(right[finest])


def _rough(h: np.ndarray, gap: np.ndarray, resolved: np.ndarray) -> bool:
    """Whether the second differences at the finest three rungs that resolve them disagree."""
    second = (gap / h)[resolved][-3:]
    return bool(second.size and np.ptp(second) > _UNSTABLE * np.abs(second).max())


def _noise_at(values: np.ndarray, epsilon: float, *ends: np.ndarray) -> np.ndarray:
    """Standard deviation of the rounding of F at each rung: numbers round to their own size."""
    return np.maximum(_noise(values, epsilon), _ROUNDED * epsilon * np.abs(ends).max(axis=0))


def _noise(values: np.ndarray, epsilon: float) -> float:
    """Standard deviation of the rounding of F near 0."""
    tiny = values[1 + 2 * _RUNGS :].reshape(2, _TINY_STEPS)
    row = np.concatenate([tiny[1][::-1], values[:1], tiny[0]])
    spread = _ROUNDED * epsilon * abs(float(values[0]))
    if not np.isfinite(row).all():
        return spread
    for order in (1, 2, 3, 4, 5):
        row = np.diff(row)
        if order >= 3:
            # Var of the k-th difference of independent values is (2k choose k) times theirs.
            spread = max(spread, math.sqrt(np.mean(row**2) / math.comb(2 * order, order)))
    return spread
