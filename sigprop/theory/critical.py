"""The critical line χ₁ = 1, solved parametrically in the variance.

At a fixed point of variance q with χ₁ = 1 both variances follow from q alone,

    σ_w² = 1/E[φ'²],    σ_b² = q - E[φ²]/E[φ'²],

so the points at a given σ_b² are the roots of one function of one variable, and none is missed
because iteration happened to flow elsewhere (Schoenholz et al. 2017, figure 1).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from sigprop import activations
from sigprop._checks import check_non_negative, of_variances
from sigprop._precision import exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.gaussian import single
from sigprop.gaussian.limits import limits
from sigprop.theory.maps import ActivationLike, Theory
from sigprop.theory.statuses import CriticalStatus
from sigprop.theory.variance_roots import table

__all__ = ["CriticalPoint", "critical_points", "critical_weight_var", "integrals"]

_SLACK = 1e-13  # relative size below which σ_b²(q)/q - σ_b²/q counts as zero


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CriticalPoint:
    """A point where χ₁ = 1.

    Attributes
    ----------
    weight_var, variance
        σ_w² and the variance q* there: 0 or inf where it is reached as q tends to 0 or infinity,
        nan where every variance will do (relu without biases).
    chi_q
        Slope of the variance map there; networks flow to the point only if it is below 1 (or is 1
        and the approach is algebraic, as for tanh at (1, 0)).
    status
        `CriticalStatus`.
    reason
        Why there is none, where ``status`` is NONE; else "".
    """

    weight_var: Theory
    variance: Theory
    chi_q: Theory
    status: np.ndarray | np.integer | int
    reason: str = dataclasses.field(default="", metadata={"static": True})

    @property
    def stable(self) -> np.ndarray | np.bool_:
        """Whether networks flow to the point."""
        return np.equal(self.status, CriticalStatus.STABLE)


@of_variances
def critical_points(activation: ActivationLike, *, bias_var: float) -> tuple[CriticalPoint, ...]:
    """Every finite critical point at a bias variance, by ascending weight_var.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    bias_var
        σ_b² >= 0, a scalar.

    Raises
    ------
    ValueError
        For a negative, non-finite or non-scalar ``bias_var``, or an unknown activation.

    Examples
    --------
    >>> [point] = critical_points("tanh", bias_var=0.0025)
    >>> float(round(point.weight_var, 10)), bool(point.stable)
    (1.2600938172, True)
    """
    check_non_negative("bias_var", bias_var)
    if np.ndim(bias_var) or is_traced(bias_var):
        raise ValueError(f"bias_var must be a scalar, got {bias_var!r}")
    kind = activations.get(activation)
    if kind.infinite_slope:  # χ₁ is infinite whatever the weights
        return ()
    found = [_point(kind, q) for q in _roots(kind, float(bias_var))]
    if bias_var == 0:
        found = _at_zero(kind) + found
    return tuple(sorted(found, key=lambda point: float(point.weight_var)))


@of_variances
def critical_weight_var(activation: ActivationLike, *, bias_var: ArrayLike) -> CriticalPoint:
    """The weight variance that is critical at each bias variance; fields have its shape.

    The smallest stable one; if no network flows to any, the smallest, with status UNSTABLE; if
    χ₁ = 1 is only approached as the variance grows without bound (relu with biases), that one,
    with status UNBOUNDED; else nan, with status NONE and a ``reason``.

    Raises
    ------
    ValueError
        For a negative or non-finite ``bias_var``, or an unknown activation.

    Examples
    --------
    >>> float(critical_weight_var("relu", bias_var=0.0).weight_var)
    2.0
    >>> critical_weight_var("tanh", bias_var=[0.0, 0.0025]).weight_var.round(6)
    array([1.      , 1.260094])
    >>> critical_weight_var(jnp.sign, bias_var=0.1).reason
    'χ₁ is infinite at every weight variance above 0: the function jumps at x = 0'
    """
    check_non_negative("bias_var", bias_var)
    array = np.asarray(bias_var, float)
    points = [_preferred(activation, float(b)) for b in array.ravel()]
    stacked = jax.tree.map(lambda *leaves: np.asarray(leaves).reshape(array.shape)[()], *points)
    if np.any(np.equal(stacked.status, CriticalStatus.NONE)):
        stacked = dataclasses.replace(stacked, reason=_why_none(activations.get(activation)))
    if array.ndim:
        return stacked
    return dataclasses.replace(stacked, status=CriticalStatus(int(stacked.status)))


def _why_none(kind: Activation) -> str:
    if kind.infinite_slope:
        return f"χ₁ is infinite at every weight variance above 0: {kind.infinite_slope}"
    known = table(kind)
    if known.unknown_below or known.unknown_above:
        low, high = known.variance[[0, -1]]
        return (
            f"no χ₁ = 1 at a variance in [{low:.3g}, {high:.3g}]; beyond, {kind.name} is unresolved"
        )
    return "at no variance does a fixed point have χ₁ = 1"


def _preferred(activation: ActivationLike, bias_var: float) -> CriticalPoint:
    points = critical_points(activation, bias_var=bias_var)
    preferred = [point for point in points if point.stable] or list(points)
    return preferred[0] if preferred else _beyond(activations.get(activation))


@exact_float64
def integrals(kind: Activation, q: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E[φ²], E[φ'²] and d E[φ²]/dq at each q."""
    return tuple(np.asarray(a) for a in _compiled_integrals(kind, jnp.asarray(q, float)))  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnums=0)
def _compiled_integrals(kind, q):
    return tuple(
        jnp.vectorize(functools.partial(f, kind))(q)
        for f in (single.mean_square, single.slope_square, single.mean_square_slope)
    )


@functools.lru_cache(maxsize=512)
def _relative_bias(kind: Activation) -> np.ndarray:
    """σ_b²(q)/q on the grid of the variance table."""
    grid = table(kind).variance
    square, slope, _ = integrals(kind, grid)
    with np.errstate(all="ignore"):
        return 1 - square / (grid * slope)


def _roots(kind: Activation, bias_var: float) -> list[float]:
    grid = table(kind).variance
    height = _relative_bias(kind) - bias_var / grid
    sign = np.where(np.abs(height) <= _SLACK, 0, np.sign(height))
    known = np.flatnonzero(np.isfinite(height) & (sign != 0))

    def excess(log_q: float) -> float:
        q = np.exp(log_q)
        square, slope, _ = integrals(kind, q)
        return float(1 - square / (q * slope) - bias_var / q)

    brackets = [(grid[i], grid[j]) for i, j in itertools.pairwise(known) if sign[i] != sign[j]]
    brackets += _double_roots(grid, height, excess)
    ends = [(np.log(a), np.log(b)) for a, b in brackets]
    return [float(np.exp(_root(excess, a, b))) for a, b in ends]


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    found = optimize.brentq(f, low, high, xtol=1e-15, rtol=1e-15)  # type: ignore[arg-type]
    return float(found)  # type: ignore[arg-type]


def _double_roots(grid, height, excess) -> list[tuple[float, float]]:
    """Brackets of root pairs that fall between two grid points: an extremum beyond zero."""
    brackets = []
    for i in range(1, grid.size - 1):
        side = np.sign(height[i])
        around = side * height[[i - 1, i + 1]]
        if side == 0 or not np.isfinite(around).all() or side * height[i] > min(around.min(), 0.03):
            continue
        if around.min() <= _SLACK:
            continue
        ends = np.log(grid[[i - 1, i + 1]])
        lowest = optimize.minimize_scalar(
            lambda x, side=side: side * excess(x), bounds=tuple(ends), method="bounded"
        )
        if lowest.fun < -_SLACK:
            bottom = float(np.exp(lowest.x))
            brackets += [(grid[i - 1], bottom), (bottom, grid[i + 1])]
    return brackets


def _point(kind: Activation, q: float) -> CriticalPoint:
    _, slope, square_slope = integrals(kind, q)
    chi_q = square_slope / slope
    status = CriticalStatus.STABLE if abs(chi_q) < 1 else CriticalStatus.UNSTABLE
    return CriticalPoint(np.float64(1 / slope), np.float64(q), np.float64(chi_q), status)


def _at_zero(kind: Activation) -> list[CriticalPoint]:
    """The critical point in the limit q -> 0 without biases, where χ_q = χ₁ = 1."""
    square = limits(kind).square_zero
    if limits(kind).at_zero != 0.0 or not np.isfinite(square) or square == 0.0:
        return []
    weight_var = 1 / square
    h = weight_var * table(kind).ratio - 1
    small = (table(kind).variance < 0.1) & (np.abs(h) > _SLACK)
    every = bool(np.all(np.abs(h) <= _SLACK))
    # χ_q = 1: whether networks flow to 0 is decided by the next order of the variance map.
    flows = every or not small.any() or h[small][-1] < 0
    status = CriticalStatus.STABLE if flows else CriticalStatus.UNSTABLE
    variance = np.float64(np.nan if every else 0.0)
    return [CriticalPoint(np.float64(weight_var), variance, np.float64(1.0), status)]


def _beyond(kind: Activation) -> CriticalPoint:
    square = limits(kind).square_infinity
    if not np.isfinite(square) or square == 0.0:
        nan = np.float64(np.nan)
        return CriticalPoint(nan, nan, nan, CriticalStatus.NONE)
    weight_var, inf = np.float64(1 / square), np.float64(np.inf)
    return CriticalPoint(weight_var, inf, np.float64(1.0), CriticalStatus.UNBOUNDED)
