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

__all__ = ["Slope", "Values", "full", "integration_error", "midpoints", "noise", "quick", "secant"]
__all__ += ["slope", "tiny"]

_LARGEST = 0.25
_RUNGS = {True: 8, False: 11}  # of a fine F, whose ladder is longer and may be coarser, or not
_FINE = 1e-12
_QUICK = (1e-3, 1e-4, 1e-5)
_TINY = 64  # machine epsilons: far above what a parameter is rounded to, far below any curvature
_TINY_STEPS = 4
_ROUNDED = 0.3  # standard deviation of rounding to the nearest number, 1/sqrt(12), in last places

# An error bar is this many times the two estimates. A corner too small to be seen in the noise
# moves D by up to 7 standard deviations of it.
_TRUNCATIONS, _ROUNDINGS = 4.0, 8.0

# One-sided slopes that disagree do so less and less as h shrinks, in proportion to h if F is
# smooth, to sqrt(h) if many corners lie around; at a corner they go on. Judged over a factor 8.
_SPAN, _PERSISTS, _UNSTABLE = 8.0, 0.6, 0.3
# F itself moves by less and less too, if only like sqrt(h); at a jump it does not. Over a factor
# 100, by which the former shrinks to a tenth.
_JUMP_SPAN, _JUMP = 100.0, 0.3
_SIGNIFICANT = 6.0
_MIDPOINTS = 16


@dataclass(frozen=True)
class Values:
    """F at 0 and at steps h, largest first, to both sides; and the noise of F near 0."""

    h: Float[np.ndarray, " rungs"]
    right: Float[np.ndarray, " rungs"]
    left: Float[np.ndarray, " rungs"]
    center: float
    noise: float
    epsilon: float


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
    jump
        Whether F moves as far however small the step.
    finite
        Whether F is finite at 0 and at enough steps on both sides.
    """

    value: float
    error: float
    left: float
    right: float
    rough: bool
    jump: bool
    finite: bool

    @property
    def kink(self) -> bool:
        """Whether F has a corner at 0 that the error bar does not cover."""
        return abs(self.right - self.left) / 2 > self.error


def full(epsilon: float) -> Float[np.ndarray, " rungs"]:
    """Step sizes for an F whose numbers have precision ``epsilon``, largest first.

    In units of the size of what is stepped through: from a quarter of it to sqrt(epsilon), below
    the step at which rounding and truncation of smooth functions balance (epsilon^(1/3)).

    Examples
    --------
    >>> h = full(2.0**-52)
    >>> h.size, float(h.max()), bool(h.min() < 1e-7)
    (8, 0.25, True)
    """
    count, smallest = _RUNGS[epsilon < _FINE], epsilon**0.5
    largest = max(_LARGEST, smallest * 1.5 ** (count - 1))
    return np.geomspace(largest, smallest, count)


def quick(epsilon: float) -> Float[np.ndarray, " rungs"]:
    """Three steps that decide for most functions; where numbers are too coarse, all of them."""
    return np.asarray(_QUICK) if epsilon < _FINE else full(epsilon)


def tiny(epsilon: float) -> Float[np.ndarray, " steps"]:
    """Steps at which `noise` wants to know F, in order, 0 among them."""
    return _TINY * epsilon * np.arange(-_TINY_STEPS, _TINY_STEPS + 1)


def slope(values: Values) -> Slope:
    """The slope at 0.

    Examples
    --------
    >>> def values(f, epsilon=2.0**-52):
    ...     h = full(epsilon)
    ...     return Values(h, f(h), f(-h), float(f(0.0)), noise(f(tiny(epsilon)), epsilon), epsilon)
    >>> found = slope(values(np.exp))
    >>> abs(found.value - 1) < found.error < 1e-7, found.kink, found.rough, found.jump
    (True, False, False, False)
    >>> slope(values(np.abs)).kink, slope(values(lambda s: s + (s > 1e-3))).jump
    (True, False)
    """
    h, left, right = _finite_rungs(values)
    if not np.isfinite(values.center) or h.size < 3:
        return Slope(math.nan, math.nan, math.nan, math.nan, False, False, False)
    spread = _noise_at(values, left, right)
    value, error = _central(h, (right - left) / (2 * h), spread / (math.sqrt(2) * h))
    farthest = np.maximum(np.abs(right - values.center), np.abs(values.center - left))
    left, right = (values.center - left) / h, (right - values.center) / h
    resolved = np.abs(right - left) > _SIGNIFICANT * math.sqrt(6) * spread / h
    sides = _one_sided(h, left, right, resolved)
    jump = _jumps(h, farthest, spread)
    return Slope(value, error, *sides, _rough(h, right - left, resolved), jump, True)


def secant(values: Values) -> tuple[float, float, float]:
    """Step h, D(h) and its error bar (of rounding alone), at the smallest step nearly free of it.

    Examples
    --------
    >>> f = lambda s: np.maximum(s, 1e-5)
    >>> h = full(2.0**-52)
    >>> h, mean, error = secant(Values(h, f(h), f(-h), 1e-5, 0.0, 2.0**-52))
    >>> abs(mean - (h - 1e-5) / (2 * h)) <= error, error < 1e-6 * mean
    (True, True)
    """
    h, left, right = _finite_rungs(values)
    difference = (right - left) / (2 * h)
    error = _ROUNDINGS * _noise_at(values, left, right) / (math.sqrt(2) * h)
    clear = np.flatnonzero(error < values.epsilon**0.4 * np.abs(difference))
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


def noise(values: Float[np.ndarray, " steps"], epsilon: float) -> float:
    """Standard deviation of the rounding of F near 0, from its values at ``tiny(epsilon)``."""
    spread = _ROUNDED * epsilon * abs(float(values[_TINY_STEPS]))
    if not np.isfinite(values).all():
        return spread
    for order in (1, 2, 3, 4, 5):
        values = np.diff(values)
        if order >= 3:
            # Var of the k-th difference of independent values is (2k choose k) times theirs.
            spread = max(spread, math.sqrt(np.mean(values**2) / math.comb(2 * order, order)))
    return spread


def _finite_rungs(values: Values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps with F finite on both sides, and F there."""
    finite = np.isfinite(values.right) & np.isfinite(values.left)
    return values.h[finite], values.left[finite], values.right[finite]


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


def _jumps(h: np.ndarray, farthest: np.ndarray, spread: np.ndarray) -> bool:
    """Whether F goes as far in the smallest step as in one a hundred times as large."""
    wide = np.flatnonzero(h >= _JUMP_SPAN * 0.99 * h[-1])
    if not wide.size or farthest[-1] <= _SIGNIFICANT * spread[-1]:
        return False
    return bool(farthest[-1] > _JUMP * farthest[wide[-1]])


def _noise_at(values: Values, *ends: np.ndarray) -> np.ndarray:
    """Standard deviation of the rounding of F at each rung: numbers round to their own size."""
    size = np.abs(ends).max(axis=0)
    return np.maximum(values.noise, _ROUNDED * values.epsilon * size)
