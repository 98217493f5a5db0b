"""Functions that no table knows: jumps, infinite slopes, waves, bumps and growth, or a refusal."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from sigprop import activations, gaussian
from sigprop.gaussian import single
from tests.reference import independent

INF = float("inf")


def _density(x, q):
    return np.exp(-x * x / (2 * q)) / np.sqrt(2 * np.pi * q)


def _powers(p, q):
    """E|x|^p."""
    return (2 * q) ** (p / 2) * special.gamma((p + 1) / 2) / np.sqrt(np.pi)


def _sign(q):
    return 1.0, INF, 0.0


def _step(q, place=0.3):
    return special.ndtr(-place / np.sqrt(q)), INF, place * _density(place, q) / (2 * q)


def _staircase(q, edges, levels):
    """Of a function that is levels[i] between edges[i] and edges[i + 1]."""
    mass = np.diff(special.ndtr(edges / np.sqrt(q)))
    rise = np.diff(levels**2)
    inner = edges[1:-1]
    return levels**2 @ mass, INF, float(np.sum(rise * inner * _density(inner, q)) / (2 * q))


def _floor(q):
    edges = np.arange(-200.0, 201.0)
    return _staircase(q, edges, edges[:-1])


def _rounded_to_tenths(q):
    levels = np.arange(-1200, 1201) / 10
    return _staircase(q, np.append(levels - 0.05, levels[-1] + 0.05), levels)


def _ternary(q):
    return _staircase(q, np.asarray([-np.inf, -0.5, 0.5, np.inf]), np.asarray([-1.0, 0.0, 1.0]))


def _power(p):
    """Of sign(x) |x|^p."""

    def moments(q):
        slope = p * p * _powers(2 * p - 2, q) if p > 0.5 else INF
        return _powers(2 * p, q), slope, p * _powers(2 * p, q) / q

    return moments


def _sine(k):
    def moments(q):
        fall = np.exp(-2 * k * k * q)
        return (1 - fall) / 2, k * k * (1 + fall) / 2, k * k * fall

    return moments


def _exp(q):
    return np.exp(2 * q), np.exp(2 * q), 2 * np.exp(2 * q)


def _bump(place, width):
    """Of exp(-((x - place)/width)²): φ² times the density is a Gaussian of variance v around m."""

    def moments(q):
        size = np.exp(-2 * place**2 / (width**2 + 4 * q)) / np.sqrt(1 + 4 * q / width**2)
        v = 1 / (1 / q + 4 / width**2)
        m = v * 4 * place / width**2
        slope = 4 / width**4 * size * (v + (m - place) ** 2)
        by_q = size * (4 * 2 * place**2 / (width**2 + 4 * q) ** 2 - 2 / (width**2 + 4 * q))
        return size, slope, by_q

    return moments


def _gauss_growth(q):
    """Of exp(x²): only for q < 1/4."""
    return (1 - 4 * q) ** -0.5, 4 * q * (1 - 4 * q) ** -1.5, 2 * (1 - 4 * q) ** -1.5


def _sinc(q):
    z, weights = independent.composite_rule(q, (), panels=40000)
    x = np.sqrt(q) * z
    value = np.sinc(x)
    near = np.abs(x) < 1e-2
    safe = np.where(near, 1.0, x)
    slope = (np.cos(np.pi * x) - value) / safe
    t = np.pi * x
    slope = np.where(near, np.pi * (-t / 3 + t**3 / 30 - t**5 / 840), slope)
    return weights @ value**2, weights @ slope**2, weights @ (x * value * slope) / q


def _tenth(q):
    return (
        math.prod(range(1, 20, 2)) * q**10,
        100 * math.prod(range(1, 18, 2)) * q**9,
        10 * math.prod(range(1, 20, 2)) * q**9,
    )


# function; its E[φ²], E[φ'²], dE[φ²]/dq; variances
CASES = {
    "sign": (jnp.sign, _sign, (1e-6, 1.0, 1e6)),
    "step": (lambda x: jnp.where(x > 0.3, 1.0, 0.0).astype(x.dtype), _step, (0.02, 1.0, 1e4)),
    "floor": (jnp.floor, _floor, (0.1, 1.0, 100.0)),
    "quantiser": (lambda x: jnp.round(10 * x) / 10, _rounded_to_tenths, (0.01, 1.0, 100.0)),
    "ternary": (lambda x: jnp.where(jnp.abs(x) < 0.5, 0.0, jnp.sign(x)), _ternary, (0.1, 3.0)),
    "signed root": (lambda x: jnp.sign(x) * jnp.sqrt(jnp.abs(x)), _power(0.5), (1e-3, 1.0, 1e3)),
    "cube root": (jnp.cbrt, _power(1 / 3), (1e-3, 1.0, 1e3)),
    "three quarters": (lambda x: jnp.sign(x) * jnp.abs(x) ** 0.75, _power(0.75), (1e-3, 1.0, 1e3)),
    "two thirds": (lambda x: jnp.sign(x) * jnp.abs(x) ** (2 / 3), _power(2 / 3), (0.1, 10.0)),
    "fast wave": (lambda x: jnp.sin(300 * x), _sine(300), (1e-3, 1.0, 20.0)),
    "slow wave": (lambda x: jnp.sin(jnp.pi * x / 10), _sine(np.pi / 10), (1.0, 1e4, 1e5)),
    "exp": (jnp.exp, _exp, (0.1, 9.0, 25.0, 60.0)),
    "exp of squares": (lambda x: jnp.exp(x * x), _gauss_growth, (0.01, 0.1, 0.2)),
    "tenth power": (lambda x: x**10, _tenth, (0.1, 7.0)),
    "bump": (lambda x: jnp.exp(-(((x - 3) / 1e-3) ** 2)), _bump(3, 1e-3), (0.1, 1.0, 50.0)),
    "far bump": (lambda x: jnp.exp(-(((x + 40) / 1e-2) ** 2)), _bump(-40, 1e-2), (30.0, 500.0)),
    "needle": (lambda x: jnp.exp(-(((x - 1.1) / 1e-5) ** 2)), _bump(1.1, 1e-5), (0.1, 1.0)),
    "sinc": (jnp.sinc, _sinc, (1.0, 400.0)),
}


def _moments(activation):
    return jax.jit(
        lambda q: jnp.stack(
            [
                single.mean_square(activation, q),
                single.slope_square(activation, q),
                single.mean_square_slope(activation, q),
            ]
        )
    )


@pytest.mark.parametrize("case", CASES)
def test_moments_are_right(case, float64):
    fn, exact, variances = CASES[case]
    moments = _moments(activations.get(fn))
    for variance in variances:
        expected = np.asarray(exact(variance))
        found = np.asarray(moments(jnp.asarray(variance)))
        np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-8)
        # The last may be a small difference: of terms like √(E[φ²] E[φ'²]/q), or at jumps E[φ²]/q.
        steep = expected[0] / variance if np.isinf(expected[1]) else expected[1]
        size = np.sqrt(expected[0] * steep / variance)
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-8, atol=1e-10 * size)


# More detail than is resolved, or no integral at all: nan, never a number.
REFUSED = {
    "wave too fast": (lambda x: jnp.sin(300 * x) + x, 1e4),
    "endless detail at 0": (lambda x: jnp.sin(1 / x), 1.0),
    "a pole": (lambda x: 1 / x, 1.0),
    "steps too fine": (lambda x: jnp.round(1e6 * x) / 1e6, 1.0),
    "E[φ²] is infinite": (lambda x: jnp.exp(x * x), 0.3),
    "overflows": (jnp.exp, 1e3),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_resolved_is_not_given(case, float64):
    fn, variance = REFUSED[case]
    found = _moments(activations.get(fn))(jnp.asarray(variance))
    assert not np.isfinite(found[0])
    assert not np.isfinite(found[2])


def _wave_on_a_line(x):
    return jnp.sin(300 * x) + x


def test_the_public_expectations_warn():
    with pytest.warns(gaussian.UnresolvedWarning, match="_wave_on_a_line.*variance 10000"):
        found = gaussian.expectation_pair(
            _wave_on_a_line, jnp.tanh, correlation=0.5, variance_f=[1.0, 1e4]
        )
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
    with pytest.warns(gaussian.UnresolvedWarning, match="exp.*variance 360"):
        found = gaussian.expectation(jnp.exp, [1.0, 300.0, 360.0])
    np.testing.assert_allclose(found[:2], np.exp([0.5, 150.0]), rtol=1e-8)
    assert np.isnan(found[2])


@pytest.mark.parametrize("case", ["step", "floor", "signed root", "bump"])
def test_derivatives_of_the_mean_square(case, float64):
    fn, exact, _ = CASES[case]
    slope = jax.grad(lambda q: single.mean_square(activations.get(fn), q))(jnp.asarray(1.0))
    np.testing.assert_allclose(slope, exact(1.0)[2], rtol=1e-8)


JUMPS = {
    "sign": (jnp.sign, ((0.0, -1.0, 1.0),)),
    "heaviside": (lambda x: jnp.heaviside(x, 0.5), ((0.0, 0.0, 1.0),)),
    "threshold": (lambda x: jnp.where(x > 1, x, 0.0), ((1.0, 0.0, 1.0),)),
    "window": (
        lambda x: jnp.where(jnp.abs(x - 2) < 1e-6, 1.0, 0.0 * x),
        ((2 - 1e-6, 0.0, 1.0), (2 + 1e-6, 1.0, 0.0)),
    ),
    "a small one": (lambda x: x + 1e-6 * jnp.sign(x - 0.3), ((0.3, 0.3 - 1e-6, 0.3 + 1e-6),)),
    "none: a root": (lambda x: jnp.sign(x) * jnp.sqrt(jnp.abs(x)), ()),
    "none: a corner": (jnp.abs, ()),
    "none: steep": (lambda x: jnp.tanh(1e4 * x), ()),
    "none: a quotient": (jnp.sinc, ()),
}


@pytest.mark.parametrize("case", JUMPS)
def test_jumps_are_found_with_both_sides(case):
    fn, jumps = JUMPS[case]
    found = activations.get(fn).rough.jumps
    assert len(found) == len(jumps)
    if jumps:
        np.testing.assert_allclose(found, jumps, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", sorted(independent.TABLE))
def test_the_table_is_right_to_a_variance_of_a_million(name, float64):
    phi, moments = independent.TABLE[name], _moments(activations.get(name))
    for variance in (1e4, 1e6):
        scale = np.sqrt(variance)
        half = np.geomspace(1e-4, 12 * scale, 800) / scale
        edges = np.unique([*-half, 0.0, *half, *np.asarray(phi.kinks) / scale])
        if name == "sin":
            edges = np.unique([*edges, *(np.arange(-12 * scale, 12 * scale, np.pi) / scale)])
        nodes, weights = np.polynomial.legendre.leggauss(16)
        width = np.diff(edges)[:, None] / 2
        z = (edges[:-1, None] + width * (1 + nodes)).ravel()
        weights = (width * weights).ravel() * _density(z, 1.0)
        value, slope = phi.fn(scale * z), phi.derivative(scale * z)
        expected = weights @ value**2, weights @ slope**2, weights @ (z * value * slope) / scale
        found = moments(jnp.asarray(variance))
        size = np.maximum(np.abs(expected), [0.0, 0.0, expected[1]])
        np.testing.assert_array_less(np.abs(found - np.asarray(expected)), 1e-10 * size + 1e-300)
