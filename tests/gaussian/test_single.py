"""One-dimensional Gaussian expectations: every activation, any variance, any kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import activations
from sigprop.gaussian import single
from tests.reference import independent

NAMES = sorted(independent.TABLE)
VARIANCES = [1e-6, 1e-3, 0.1, 1.0, 12.0, 1e3]


def _numpy(fn, derivative, kinks=()):
    return independent.Scalar(fn, fn, derivative, kinks)


def _wiggle(x):
    return jnp.sin(7 * x) + x


# Functions no table knows: JAX form beside NumPy form with derivative and kinks.
UNSEEN = {
    "three corners": (
        lambda x: jnp.abs(x - 1) + jnp.abs(x + 2.5) + jnp.maximum(x, 0),
        _numpy(
            lambda x: np.abs(x - 1) + np.abs(x + 2.5) + np.maximum(x, 0),
            lambda x: np.sign(x - 1) + np.sign(x + 2.5) + (x > 0),
            (-2.5, 0.0, 1.0),
        ),
    ),
    "steep": (
        lambda x: jnp.tanh(50 * x),
        _numpy(
            lambda x: np.tanh(50 * x), lambda x: 50 * independent.TABLE["tanh"].derivative(50 * x)
        ),
    ),
    "waves": (_wiggle, _numpy(lambda x: np.sin(7 * x) + x, lambda x: 7 * np.cos(7 * x) + 1)),
    "cube": (lambda x: x**3, _numpy(lambda x: x**3, lambda x: 3 * x**2)),
}


def _moments(activation, variance):
    return (
        single.mean_square(activation, variance),
        single.slope_square(activation, variance),
        single.monomial(activation, variance, value=1, slope=1, argument=1) / variance,
    )


def _expected(phi, variance):
    """E[φ²], E[φ'²], E[xφφ']/q by composite quadrature on a fine grid, kinks as edges."""
    z, weights = independent.composite_rule(variance, phi.kinks, panels=6000)
    x = np.sqrt(variance) * z
    value, slope = phi.fn(x), phi.derivative(x)
    return [weights @ value**2, weights @ slope**2, weights @ (x * value * slope) / variance]


@pytest.mark.parametrize("name", NAMES)
def test_moments_at_any_variance(name, float64):
    moments = jax.jit(lambda q: _moments(activations.get(name), q))
    for variance in VARIANCES:
        computed = moments(jnp.asarray(variance))
        expected = _expected(independent.TABLE[name], variance)
        size = [expected[0], expected[1], max(abs(expected[2]), expected[1])]
        assert np.all(np.abs(np.asarray(computed) - expected) <= 1e-12 * np.asarray(size)), variance


@pytest.mark.parametrize("case", UNSEEN)
def test_moments_of_functions_not_in_the_table(case, float64):
    fn, phi = UNSEEN[case]
    moments = jax.jit(lambda q: _moments(activations.get(fn), q))
    for variance in (1e-3, 0.3, 9.0, 100.0):
        computed = moments(jnp.asarray(variance))
        np.testing.assert_allclose(computed, _expected(phi, variance), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_in_the_variance(name, float64):
    """First and second, of E[φ²] and E[φ'²], against differences of fine quadrature."""
    phi, activation = independent.TABLE[name], activations.get(name)
    variance, step = 0.9, 2e-3
    grid = variance + step * np.arange(-3, 4)
    values = np.asarray([_expected(phi, q)[:2] for q in grid])
    first = values.T @ np.asarray([-1, 9, -45, 0, 45, -9, 1]) / (60 * step)
    second = values.T @ np.asarray([2, -27, 270, -490, 270, -27, 2]) / (180 * step**2)
    for i, moment in enumerate((single.mean_square, single.slope_square)):
        slope = jax.grad(lambda q, f=moment: f(activation, q))
        np.testing.assert_allclose(slope(jnp.asarray(variance)), first[i], rtol=1e-8, atol=1e-10)
        curvature = jax.grad(slope)(jnp.asarray(variance))
        np.testing.assert_allclose(curvature, second[i], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_is_what_it_can_be(name):
    activation = activations.get(name)
    for variance in (1e-2, 1.0, 100.0):
        computed = _moments(activation, jnp.asarray(variance, jnp.float32))
        assert all(x.dtype == jnp.float32 for x in computed)
        expected = _expected(independent.TABLE[name], variance)
        np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "linear", "erf", "sin"])
def test_closed_forms_and_quadrature_agree(name, float64):
    activation = activations.get(name)
    for variance in (1e-3, 0.7, 20.0):
        q = jnp.asarray(variance)
        np.testing.assert_allclose(
            single.mean_square(activation, q), single.monomial(activation, q, value=2), rtol=1e-12
        )
        np.testing.assert_allclose(
            single.slope_square(activation, q), single.monomial(activation, q, slope=2), rtol=1e-12
        )
