"""Singular values of the input-output Jacobian at infinite width, by free probability.

J = D_L W_L ⋯ D_1 W_1 with asymptotically free factors. Writing M(z) = Σ_k m_k/z^k for the moments
m_k of λ = s², the S-transforms multiply to one explicit equation between z and y = M(z),

    z = (1 + y)/y · Π_l σ_w² (1 + y)^g · y ζ_l(y)/(1 + y),

with g = 1 for Gaussian and 0 for orthogonal weights and ζ_l the inverse of E[d/(ζ - d)] for
d = φ'(z^l)² (Pennington, Schoenholz and Ganguli 2017, eqs. 12-18, and 2018).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import mpmath
import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from sigprop import activations
from sigprop._checks import check_non_negative, check_one_of, check_whole_number
from sigprop.theory.equilibrium import fixed_point
from sigprop.theory.limits import limits
from sigprop.theory.maps import ActivationLike
from sigprop.theory.slope_law import SlopeLaw, limit_law, slope_law
from sigprop.theory.statuses import VarianceStatus

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]

_DIGITS = 60
_ANGLES = 160


@dataclass(frozen=True)
class JacobianSpectrum:
    """The law of squared singular values λ = s² of the Jacobian.

    Attributes
    ----------
    weight_var
        σ_w².
    laws, counts
        The distinct layers and how often each occurs.
    exponent
        g: 1 for Gaussian, 0 for orthogonal weights.
    """

    weight_var: float
    laws: tuple[SlopeLaw, ...]
    counts: tuple[int, ...]
    exponent: int

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(self.counts)

    @functools.cached_property
    def mean(self) -> float:
        """E[λ] = Π_l σ_w² E[φ'²], the product of the layers' χ."""
        return float(np.exp(self._log_mean))

    @property
    def _log_mean(self) -> float:
        gains = [n * np.log(self.weight_var * law.moment(1)) for law, n in self._layers]
        return float(sum(gains))

    @functools.cached_property
    def variance_of_squares(self) -> float:
        """Var[λ] = m_2 - m_1²."""
        relative = sum(
            n * (law.moment(2) / law.moment(1) ** 2 - 1 + self.exponent) for law, n in self._layers
        )
        return float(np.exp(2 * self._log_mean) * relative)

    def moment(self, order: int) -> float:
        """E[λ^order], by Lagrange inversion of the equation between z and y.

        Raises
        ------
        ValueError
            For an order below 1.
        """
        order = check_whole_number("order", order)
        with mpmath.workdps(_DIGITS):
            log_series = self._log_series(order)
            value = _exp_coefficient([order * c for c in log_series], order - 1) / order
            return float(value * mpmath.exp(mpmath.mpf(order) * self._log_mean))

    def _log_series(self, order: int) -> list:
        """Series in y of log[(1 + y) Π_l T_l(y)/T_l(0)], T_l = σ_w² (1 + y)^(g-1) y ζ_l."""
        powers = 1 + self.depth * (self.exponent - 1)
        total = [mpmath.mpf(0)] + [
            mpmath.mpf(powers * (-1) ** (n + 1)) / n for n in range(1, order)
        ]
        for law, count in self._layers:
            own = _log_of_series(_inverse_series(law, order))
            total = [a + count * b for a, b in zip(total, own)]
        return total

    # ------------------------------------------------------------------------ edges and atoms

    @functools.cached_property
    def max_squared(self) -> float:
        """The top edge of the spectrum: where z(y) is least on its way down from infinity.

        Where it never turns (orthogonal weights and few layers), the product of the layers' largest
        gains.
        """
        log_y = np.linspace(np.log(1e-7), np.log(1e7), 561)
        slope = self._edge_slope(log_y)
        turning = np.flatnonzero((slope[:-1] < 0) & (slope[1:] >= 0))
        if not turning.size:
            return float(np.exp(self._log_top))
        ends = log_y[turning[0]], log_y[turning[0] + 1]
        at = optimize.brentq(lambda x: self._edge_slope(np.asarray([x]))[0], *ends, xtol=1e-14)
        return float(np.exp(self._log_z(np.exp(np.asarray([at])))[0]))

    @property
    def _log_top(self) -> float:
        return float(sum(n * np.log(self.weight_var * law.largest) for law, n in self._layers))

    def _log_z(self, y: np.ndarray) -> np.ndarray:
        """Logarithm of z(y) for real y > 0."""
        total = np.log1p(y) - np.log(y)
        for law, count in self._layers:
            gain = self.weight_var * y * law.inverse(y)
            total = total + count * (np.log(gain) + (self.exponent - 1) * np.log1p(y))
        return total

    def _edge_slope(self, log_y: np.ndarray) -> np.ndarray:
        """Logarithmic derivative of z(y): d log z/d log y."""
        y = np.exp(log_y)
        total = -1 / (1 + y)
        for law, count in self._layers:
            zeta = law.inverse(y)
            bend = y / (zeta * law.transform(zeta)[1])
            total = total + count * (1 + bend + (self.exponent - 1) * y / (1 + y))
        return total

    @functools.cached_property
    def atoms(self) -> dict[float, float]:
        """Values of λ with positive probability, and their masses.

        Zero, as often as the layer that blocks most (relu: half); and with orthogonal weights the
        product of the largest gains, while the layers' shortfalls sum to less than 1.
        """
        found = {0.0: max(law.mass_at_zero for law in self.laws)}
        if self.exponent == 0:
            missing = sum(n * (1 - law.mass_at_largest) for law, n in self._layers)
            found[float(np.exp(self._log_top))] = max(0.0, 1 - missing)
        return {value: mass for value, mass in found.items() if mass > 1e-14}

    @property
    def _layers(self) -> list[tuple[SlopeLaw, int]]:
        return list(zip(self.laws, self.counts))

    # ------------------------------------------------------------------------ density

    def density(self, squares: ArrayLike) -> np.ndarray:
        """Density of the continuous part of the law of λ, atoms left out.

        The equation has many roots. The physical one is unique and real for z < 0; from there z is
        turned through the upper half plane, where the root moves analytically, onto λ + i0:
        ρ(λ) = -Im y/(π λ).

        Parameters
        ----------
        squares
            λ > 0.

        Raises
        ------
        ValueError
            For λ <= 0 or not finite.
        """
        squares = np.asarray(squares, float)
        if not (np.isfinite(squares).all() and np.all(squares > 0)):
            raise ValueError(f"squares must be finite and > 0, got {squares.min()} as the least")
        log_squares = np.log(squares.ravel())
        y, zeta = self._on_negative_axis(log_squares)
        # Angles from π to 0, closest near 0 where the root may turn sharply at an edge.
        for angle in np.pi * np.linspace(1, 0, _ANGLES)[1:] ** 3:
            y, zeta = self._followed(log_squares + 1j * angle, y, zeta)
        density = np.maximum(-np.imag(y), 0.0) / (np.pi * np.exp(log_squares))
        return density.reshape(squares.shape)

    def _on_negative_axis(self, log_squares: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """The y in (-1, 0) with z(y) = -λ, and ζ_l(y) < 0: monotone, so by bisection."""
        deepest = 1 - max(law.mass_at_zero for law in self.laws)
        low = np.full(log_squares.shape, -700.0)
        high = np.full(log_squares.shape, 34.0)  # beyond, 1 + y is rounding error
        for _ in range(60):  # in the logit of -y / deepest
            middle = (low + high) / 2
            y = -deepest / (1 + np.exp(-middle))
            near = self._log_size(y) > log_squares  # |z| falls as -y grows
            low, high = np.where(near, middle, low), np.where(near, high, middle)
        y = -deepest / (1 + np.exp(-(low + high) / 2))
        return y + 0j, [law.inverse(y) + 0j for law in self.laws]

    def _log_size(self, y: np.ndarray) -> np.ndarray:
        total = np.log1p(y) - np.log(-y)
        for law, count in self._layers:
            gain = self.weight_var * y * law.inverse(y)
            total = total + count * (np.log(gain) + (self.exponent - 1) * np.log1p(y))
        return total

    def _followed(self, log_z, y, zeta) -> tuple[np.ndarray, list[np.ndarray]]:
        """The root at ``log_z``, by Newton in log y from one that is near."""
        for _ in range(8):
            zeta = [_solved(law, y, near) for law, near in zip(self.laws, zeta)]
            value = np.log(-(1 + y) / y) + 1j * np.pi  # continuous from the negative axis on
            slope = -1 / (1 + y)
            for (law, count), at in zip(self._layers, zeta):
                value = value + count * (
                    np.log(self.weight_var * y * at) + (self.exponent - 1) * np.log(1 + y)
                )
                bend = y / (at * law.transform(at)[1])
                slope = slope + count * (1 + bend + (self.exponent - 1) * y / (1 + y))
            step = (log_z - value) / slope
            size = np.abs(step)
            step = step * np.minimum(1.0, 0.3 / np.maximum(size, 1e-300))
            y = y * np.exp(np.where(np.isfinite(step), step, 0))
            if np.nanmax(size) < 1e-13:
                break
        return y, [_solved(law, y, near) for law, near in zip(self.laws, zeta)]


def _solved(law: SlopeLaw, y: np.ndarray, zeta: np.ndarray) -> np.ndarray:
    """ζ with M(ζ) = y by Newton on 1/M, which is nearly straight in ζ, from one that is near."""
    for _ in range(12):
        value, slope = law.transform(zeta)
        step = (1 / y - 1 / value) / (-slope / value**2)
        zeta = zeta + step
        if np.max(np.abs(step) / np.abs(zeta)) < 1e-14:
            break
    return zeta


# ---------------------------------------------------------------------------- series


def _inverse_series(law: SlopeLaw, order: int) -> list:
    """Coefficients of y ζ(y)/E[d], from the moments of d by reversion of y = Σ_j E[d^j] u^j."""
    moments = [mpmath.mpf(law.moment(j)) for j in range(1, order + 1)]
    first = moments[0]
    # u(y)/(y/E d) by Lagrange inversion: u = y/f(u) with f(u) = Σ E[d^{j+1}] u^j.
    log_f = _log_of_series([m / first for m in moments])
    reverted = [
        _exp_coefficient([-(n + 1) * c for c in log_f], n) / (n + 1) / first**n
        for n in range(order)
    ]
    return _reciprocal(reverted)


def _log_of_series(series: Sequence) -> list:
    """Coefficients of log(Σ s_n y^n) for s_0 = 1."""
    out: list = [mpmath.mpf(0)]
    for n in range(1, len(series)):
        known = sum(k * out[k] * series[n - k] for k in range(1, n))
        out.append(series[n] - known / n)
    return out


def _exp_coefficient(series: Sequence, order: int):
    """Coefficient of y^order in exp(Σ s_n y^n) for s_0 = 0."""
    out: list = [mpmath.mpf(1)]
    for n in range(1, order + 1):
        out.append(sum(k * series[k] * out[n - k] for k in range(1, n + 1)) / n)
    return out[order]


def _reciprocal(series: Sequence) -> list:
    out: list = [1 / series[0]]
    for n in range(1, len(series)):
        out.append(-sum(series[k] * out[n - k] for k in range(1, n + 1)) / series[0])
    return out


# ---------------------------------------------------------------------------- from an activation


def jacobian_spectrum(
    activation: ActivationLike,
    *,
    depth: int,
    weight_var: float,
    bias_var: float | None = None,
    variance: ArrayLike | None = None,
    ensemble: str = "gaussian",
) -> JacobianSpectrum:
    """Predicted law of the squared singular values of ∂x^depth/∂x⁰, square layers.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    depth
        Layers L, 1 to 1000 and beyond.
    weight_var
        σ_w² > 0.
    bias_var
        σ_b²: layers at the fixed point a network with q¹ = 1 flows to. Or else:
    variance
        q of every layer, or an array of one for each, > 0.
    ensemble
        "gaussian" or "orthogonal" weights.

    Returns
    -------
    A `JacobianSpectrum`.

    Raises
    ------
    ValueError
        Unless exactly one of ``bias_var`` and ``variance`` is given, and for values out of range.

    Examples
    --------
    >>> law = jacobian_spectrum("linear", depth=2, weight_var=1.0, variance=1.0)
    >>> [round(law.moment(k), 9) for k in (1, 2, 3)], round(law.max_squared, 9)
    ([1.0, 3.0, 12.0], 6.75)
    >>> atoms = jacobian_spectrum("relu", depth=3, weight_var=2.0, bias_var=0.0).atoms
    >>> round(atoms[0.0], 12)
    0.5
    """
    depth = check_whole_number("depth", depth)
    check_one_of("ensemble", ensemble, ("gaussian", "orthogonal"))
    if np.ndim(weight_var) or not np.isfinite(weight_var) or weight_var <= 0:
        raise ValueError(f"weight_var must be a finite scalar > 0, got {weight_var!r}")
    if (bias_var is None) == (variance is None):
        raise ValueError("give exactly one of bias_var and variance")
    kind = activations.get(activation)
    if variance is not None:
        distinct, counts = _distinct_variances(variance, depth)
        laws = [slope_law(kind, q) for q in distinct]
    else:
        check_non_negative("bias_var", bias_var)
        laws = [_law_at_fixed_point(kind, weight_var, bias_var)]
        counts = [depth]
    if any(law.moment(1) == 0 for law in laws):
        raise ValueError(f"activation {kind.name} has slope 0 everywhere: the Jacobian vanishes")
    exponent = int(ensemble == "gaussian")
    return JacobianSpectrum(float(weight_var), tuple(laws), tuple(map(int, counts)), exponent)


def _law_at_fixed_point(kind, weight_var, bias_var) -> SlopeLaw:
    point = fixed_point(kind, weight_var=weight_var, bias_var=bias_var)
    if point.variance_status == VarianceStatus.ZERO:
        return limit_law(limits(kind).slopes_zero)
    if point.variance_status == VarianceStatus.UNBOUNDED:
        return limit_law(limits(kind).slopes_infinity)
    if not np.isfinite(point.variance):
        raise ValueError(f"no variance fixed point at weight_var {weight_var}, bias_var {bias_var}")
    return slope_law(kind, float(point.variance))


def _distinct_variances(variance: ArrayLike, depth: int) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(variance, float)
    if array.ndim > 1 or (array.ndim == 1 and array.size != depth):
        raise ValueError(
            f"variance must be a scalar or one for each of {depth} layers, got shape {array.shape}"
        )
    if not (np.isfinite(array).all() and np.all(array > 0)):
        raise ValueError(f"variance must be finite and > 0, got {array.min()} as the least")
    return np.unique(np.broadcast_to(array, (depth,)), return_counts=True)
