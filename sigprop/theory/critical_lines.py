"""The lines of a phase diagram as curves: where χ₁ = 1, and beyond where variances diverge.

Both follow from S(q) = E[φ²] and E[φ'²] tabulated over q, not from any grid of cells: a critical
point of variance q lies at σ_w² = 1/E[φ'²], σ_b² = q - S/E[φ'²], and networks whose first variance
is q¹ diverge where σ_w² S(q) + σ_b² > q for every q >= q¹.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from sigprop import activations
from sigprop._checks import check_non_negative, of_variances
from sigprop.activations import Activation
from sigprop.gaussian.limits import limits
from sigprop.theory.critical import critical_points, integrals
from sigprop.theory.maps import ActivationLike
from sigprop.theory.statuses import CriticalStatus
from sigprop.theory.variance_roots import table

__all__ = ["LINE_POINTS", "CriticalLine", "bounded_weight_var", "critical_line"]

LINE_POINTS = 641
"""Points of a `CriticalLine`."""

_VARIANCES = np.geomspace(1e-8, 1e8, LINE_POINTS)
_FINER = 8  # points of the interpolated S(q) for each of the table's
_SLACK = 1e-9  # relative rounding of q - S/E[φ'²]
_HALVINGS = 60
Line = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class CriticalLine:
    """The curve χ₁ = 1 in the plane of (weight_var, bias_var), by ascending variance.

    Attributes
    ----------
    weight_var, bias_var, variance
        σ_w², σ_b² and q* of every point; nan where no point has that variance. Where χ₁ tends to 1
        only as the variance grows without bound (relu): that σ_w² at every σ_b², and inf.
    status
        `CriticalStatus` of each: STABLE where networks flow to it (no other fixed point lies
        between q¹ and q*), else UNSTABLE; NONE; UNBOUNDED.
    """

    weight_var: Line
    bias_var: Line
    variance: Line
    status: Int[np.ndarray, " points"]


def critical_line(activation: ActivationLike, *, second_moment: float = 1.0) -> CriticalLine:
    r"""Every critical point of an activation, as one curve of `LINE_POINTS` points.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    second_moment
        \\|x⁰\\|²/N₀ > 0 of the inputs, which decides the fixed point that networks flow to.

    Examples
    --------
    >>> line = critical_line("tanh")
    >>> i = int(np.argmin(abs(line.bias_var - 0.05)))
    >>> CriticalStatus(line.status[i]).name, abs(float(line.weight_var[i]) - 1.761) < 0.1
    ('STABLE', True)
    """
    kind = activations.get(activation)
    variance = _with_ends(kind)
    square, slope, square_slope = integrals(kind, variance)
    with np.errstate(all="ignore"):
        weight_var, bias_var = 1 / slope, variance - square / slope
        stable = np.abs(square_slope / slope) < 1
    rounding = _SLACK * variance
    exists = np.isfinite(slope) & np.isfinite(weight_var) & (bias_var >= -rounding)
    if not np.any(exists & (bias_var > rounding)):
        return _unbounded_line(kind)
    bias_var = np.where(exists, np.maximum(bias_var, 0.0), np.nan)
    weight_var = np.where(exists, weight_var, np.nan)
    reached = stable & _reached(kind, variance, weight_var, bias_var, second_moment)
    status = np.where(reached, CriticalStatus.STABLE, CriticalStatus.UNSTABLE)
    status = np.where(exists, status, CriticalStatus.NONE)
    return CriticalLine(weight_var, bias_var, np.where(exists, variance, np.nan), status)


def _with_ends(kind: Activation) -> Line:
    """The variances of the points, among them those at which the curve meets σ_b² = 0."""
    variance = _VARIANCES.copy()
    for point in critical_points(kind, bias_var=0.0):
        if variance[0] < point.variance < variance[-1]:
            variance[np.argmin(np.abs(np.log(variance / point.variance)))] = point.variance
    return variance


def _unbounded_line(kind: Activation) -> CriticalLine:
    square = limits(kind).square_infinity
    there = np.isfinite(square) and square > 0
    weight_var = np.full(LINE_POINTS, 1 / square if there else np.nan)
    bias_var = np.append(0.0, _VARIANCES[1:]) if there else weight_var
    variance = np.full(LINE_POINTS, np.inf if there else np.nan)
    status = CriticalStatus.UNBOUNDED if there else CriticalStatus.NONE
    return CriticalLine(weight_var, bias_var, variance, np.full(LINE_POINTS, int(status)))


def _reached(kind, variance, weight_var, bias_var, second_moment) -> Bool[np.ndarray, " points"]:
    """Whether the variance map moves every q between q¹ and q* towards q*."""
    if not table(kind).increasing:  # networks may jump over a fixed point
        return np.ones(variance.shape, bool)
    q = table(kind).variance
    first = (weight_var * second_moment + bias_var)[:, None]
    growth = weight_var[:, None] * table(kind).ratio + bias_var[:, None] / q - 1
    target, step = variance[:, None], q[1] / q[0]
    upwards = (q >= first) & (q * step < target) & (growth <= 0)
    downwards = (q <= first) & (q > target * step) & (growth >= 0)
    return ~np.any(upwards | downwards, axis=1)


@of_variances
def bounded_weight_var(
    activation: ActivationLike, *, bias_var: ArrayLike, second_moment: float = 1.0
) -> np.ndarray:
    r"""The weight variance beyond which the variance of deep layers grows without bound.

    The largest σ_w² at which σ_w² S(q) + σ_b² <= q for some q >= q¹ = σ_w² |x⁰|²/N₀ + σ_b²; inf for
    a bounded activation. Above 1/E[φ'²] at q = inf where networks start below an unstable fixed
    point (gelu, silu and mish at small biases).

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    bias_var
        σ_b² >= 0, of any shape.
    second_moment
        \\|x⁰\\|²/N₀ > 0 of the inputs.

    Examples
    --------
    >>> bounded_weight_var("relu", bias_var=[0.0, 0.1]).tolist()
    [2.0, 2.0]
    >>> bounded_weight_var("gelu", bias_var=[0.0, 0.3]).round(6).tolist()
    [2.155057, 2.0]
    """
    check_non_negative("bias_var", bias_var)
    kind, biases = activations.get(activation), np.asarray(bias_var, float)
    far = _weight_var_at_infinity(kind)
    if np.isinf(far):
        return np.full(biases.shape, np.inf)
    known = table(kind)
    square = CubicSpline(np.log(known.variance), np.log(known.ratio))
    log_q = np.linspace(square.x[0], square.x[-1], _FINER * known.variance.size)
    edges = [_edge(square, log_q, float(b), second_moment, far) for b in biases.ravel()]
    return np.asarray(edges).reshape(biases.shape)


def _weight_var_at_infinity(kind: Activation) -> float:
    """q/S(q) as q grows."""
    square = limits(kind).square_infinity
    if np.isnan(square):  # no limit: what the table ends with
        return float(1 / table(kind).ratio[-1])
    return np.inf if square == 0 else 1 / square


def _edge(
    log_ratio: CubicSpline, log_q, bias_var: float, second_moment: float, far: float
) -> float:
    q = np.exp(log_q)
    holds = (1 - bias_var / q) * np.exp(-log_ratio(log_q))  # σ_w² up to which q is not passed
    ahead = np.maximum(np.maximum.accumulate(holds[::-1])[::-1], far)
    ahead = np.append(ahead, far)
    low, high = far, max(far, float(ahead[0]))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        start = np.log(np.clip(middle * second_moment + bias_var, q[0], q[-1]))
        here = (1 - bias_var / np.exp(start)) * np.exp(-log_ratio(start))
        passed = middle > max(float(here), float(ahead[np.searchsorted(log_q, start)]))
        low, high = (low, middle) if passed else (middle, high)
    return low
