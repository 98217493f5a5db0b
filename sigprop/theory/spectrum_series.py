"""Moments of the product of layers, as coefficients of the power series of its S-transform.

With y = M(z), the moments are read off z(y) = (1 + y)/y · Π_l T_l(y) by Lagrange inversion:
E[λ^k] is 1/k of the coefficient of y^{k-1} in [(1 + y) Π_l T_l(y)]^k. Everything is relative to
E[λ] = Π_l T_l(0), and in 60 digits, as the series alternate.
"""

from collections.abc import Iterable, Sequence
from math import comb

import mpmath

from sigprop.theory.slope_law import SlopeLaw

__all__ = ["relative_moment"]

_DIGITS = 60


def relative_moment(
    layers: Iterable[tuple[SlopeLaw, int]], exponent: int, order: int
) -> mpmath.mpf:
    """E[λ^order]/E[λ]^order for layers (law, count); exponent 1 is Gaussian, 0 orthogonal."""
    with mpmath.workdps(_DIGITS):
        layers = list(layers)
        depth = sum(count for _, count in layers)
        # log(1 + y) from (1 + y)/y, and (exponent - 1) times from each layer.
        powers = 1 + depth * (exponent - 1)
        total = [mpmath.mpf(0)] + [
            mpmath.mpf(powers * (-1) ** (n + 1)) / n for n in range(1, order)
        ]
        for law, count in layers:
            own = _log_of_series(_share(law, order))
            total = [a + count * b for a, b in zip(total, own)]
        return _exp_coefficient([order * c for c in total], order - 1) / order


def _share(law: SlopeLaw, order: int) -> list:
    """Coefficients of y ζ(y)/E[d]: y = Σ_j E[(d/E d)^j] u^j, u = E[d]/ζ, reverted and inverted."""
    central = [mpmath.mpf(c) for c in law.relative_moments(order)]
    moments = [
        sum(comb(j, i) * central[i] for i in range(j + 1) if i != 1) for j in range(1, order + 1)
    ]
    log_f = _log_of_series(moments)  # y = u f(u)
    reverted = [_exp_coefficient([-(n + 1) * c for c in log_f], n) / (n + 1) for n in range(order)]
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
