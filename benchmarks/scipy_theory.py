"""The peer of the theory: adaptive quadrature and bracketed root finding, one cell at a time."""

import math

from scipy.integrate import dblquad, quad
from scipy.optimize import brentq

__all__ = ["fixed_point"]

_RANGE = 9.0  # standard deviations; beyond them the density is below 1e-18
_DENSITY = 1 / math.sqrt(2 * math.pi)
_ABSOLUTE, _RELATIVE = 1e-13, 1e-11


def _mean(f) -> float:
    """E f(z), z ~ N(0, 1)."""
    integrand = lambda z: f(z) * _DENSITY * math.exp(-z * z / 2)  # noqa: E731
    return quad(integrand, -_RANGE, _RANGE, limit=200, epsabs=_ABSOLUTE, epsrel=_RELATIVE)[0]


def _pair_mean(f, correlation: float) -> float:
    """E f(u) f(v), u and v standard normal with the given correlation."""
    c, s = correlation, math.sqrt(1 - correlation**2)

    def integrand(b, a):
        return f(a) * f(c * a + s * b) * _DENSITY**2 * math.exp(-(a * a + b * b) / 2)

    span = (-_RANGE, _RANGE, -_RANGE, _RANGE)
    return dblquad(integrand, *span, epsabs=_ABSOLUTE, epsrel=_RELATIVE)[0]


def _root(f, low: float, high: float) -> float:
    return brentq(f, low, high, xtol=1e-14, rtol=1e-12)  # type: ignore[return-value, arg-type]


def fixed_point(weight_var: float, bias_var: float) -> tuple[float, float, float, float]:
    """q*, chi_1, c*, chi_c of a tanh network with bias_var > 0."""

    def variance_gap(q):
        root = math.sqrt(q)
        return weight_var * _mean(lambda z: math.tanh(root * z) ** 2) + bias_var - q

    q = _root(variance_gap, bias_var / 2, weight_var + bias_var + 1)
    root = math.sqrt(q)
    value = lambda z: math.tanh(root * z)  # noqa: E731
    slope = lambda z: 1 - math.tanh(root * z) ** 2  # noqa: E731
    chi_1 = weight_var * _mean(lambda z: slope(z) ** 2)
    if chi_1 <= 1:
        return q, chi_1, 1.0, chi_1
    gap = lambda c: (weight_var * _pair_mean(value, c) + bias_var) / q - c  # noqa: E731
    c = _root(gap, 0.0, _below_one(gap))
    return q, chi_1, c, weight_var * _pair_mean(slope, c)


def _below_one(gap) -> float:
    """A correlation beyond the stable root: c = 1 is a root too, so approach it from below."""
    distance = 0.1
    while gap(1 - distance) >= 0:
        distance /= 4
    return 1 - distance
