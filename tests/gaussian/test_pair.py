"""Two-dimensional Gaussian expectations: all correlations, also the last digits before c = 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop import activations
from sigprop.gaussian import pair, single
from tests.reference import independent

NAMES = sorted(independent.TABLE)


@functools.cache
def _compiled(name):
    activation = activations.get(name)
    return jax.jit(
        lambda q, e: (
            pair.product(activation, q, q, e),
            pair.slope_product(activation, q, q, e),
            pair.deficit(activation, q, e),
        )
    )


@pytest.mark.every_run(*independent.EVERY_RUN)
@pytest.mark.parametrize(
    ("variance", "gaps"), [(0.05, (1e-4, 0.1, 2.0)), (1.0, (0.02, 1.0)), (40.0, (1e-9, 0.6, 1.7))]
)
@pytest.mark.parametrize("name", NAMES)
def test_pairs_against_a_second_quadrature(name, variance, gaps, float64):
    size = independent.variance_map(name, variance, 1.0, 0.0)
    slope_size = independent.chi_1(name, variance, 1.0)
    for gap in gaps:
        value, slope, lost = _compiled(name)(jnp.asarray(variance), jnp.asarray(gap))
        expected = independent.pair_moments(name, variance, gap)
        np.testing.assert_allclose(value, expected[0], rtol=1e-11, atol=1e-11 * size)
        np.testing.assert_allclose(slope, expected[1], rtol=1e-10, atol=1e-11 * slope_size)
        np.testing.assert_allclose(lost, expected[2], rtol=1e-9)


@pytest.mark.every_run(*independent.EVERY_RUN)
@pytest.mark.parametrize("name", NAMES)
def test_the_deficit_keeps_its_digits_all_the_way_to_one(name, float64):
    """Its slope at ε = 0 is q E[φ'²]; E[φ²] - E[φφ] would have no digit left at 1e-15."""
    activation, variance = activations.get(name), 1.3
    slope = variance * independent.chi_1(name, variance, 1.0)
    for gap in (1e-6, 1e-8, 1e-10, 1e-12, 1e-15):
        lost = float(_compiled(name)(jnp.asarray(variance), jnp.asarray(gap))[2])
        # Next order: smooth φ O(ε), a corner O(√ε).
        assert abs(lost / (slope * gap) - 1) < 3 * gap**0.5
    for gap in (1e-6, 1e-10):
        lost = _compiled(name)(jnp.asarray(variance), jnp.asarray(gap))[2]
        expected = independent.pair_moments(name, variance, gap)[2]
        # The reference subtracts φ(u) - φ(v) ~ √ε.
        np.testing.assert_allclose(lost, expected, rtol=1e-10 + 1e-16 / gap**0.5)
    assert float(pair.deficit(activation, jnp.asarray(variance), jnp.asarray(0.0))) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_range(name, float64):
    """c = 1: one variable. c = 0: independent."""
    q, phi, activation = 0.8, independent.TABLE[name], activations.get(name)
    value, slope, _ = _compiled(name)(jnp.asarray(q), jnp.asarray(0.0))
    np.testing.assert_allclose(value, single.mean_square(activation, jnp.asarray(q)), rtol=1e-12)
    np.testing.assert_allclose(slope, single.slope_square(activation, jnp.asarray(q)), rtol=1e-12)
    value, slope, _ = _compiled(name)(jnp.asarray(q), jnp.asarray(1.0))
    mean = independent.expectation(phi.fn, q, phi.kinks)
    mean_slope = independent.expectation(phi.derivative, q, phi.kinks)
    np.testing.assert_allclose(value, mean**2, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(slope, mean_slope**2, rtol=1e-11, atol=1e-14)


@pytest.mark.every_run("tanh", "relu", "gelu", "hard_tanh")
@pytest.mark.parametrize("name", NAMES)
def test_price_theorem_by_differentiation(name, float64):
    """∂E[φφ]/∂c = √(q_a q_b) E[φ'φ']; the variances by central differences."""
    activation = activations.get(name)
    start = [jnp.asarray(x) for x in (0.8, 1.7, 0.4)]
    product = jax.jit(functools.partial(pair.product, activation))
    gradient = jax.jit(jax.grad(product, argnums=(0, 1, 2)))(*start)
    q_a, q_b, e = start
    slope = pair.slope_product(activation, q_a, q_b, e)
    np.testing.assert_allclose(gradient[2], -jnp.sqrt(q_a * q_b) * slope, rtol=1e-12)
    step = 1e-3
    for i in range(3):
        shifted = [
            float(product(*[x + k * step * (j == i) for j, x in enumerate(start)]))
            for k in (-2, -1, 1, 2)
        ]
        expected = (shifted[0] - 8 * shifted[1] + 8 * shifted[2] - shifted[3]) / (12 * step)
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.every_run("tanh", "relu", "hard_tanh")
@pytest.mark.parametrize("name", ["tanh", "relu", "hard_tanh", "gelu", "elu"])
def test_the_slope_product_differentiates_too(name, float64):
    """χ_c has derivatives, for kinked φ as well."""
    activation = activations.get(name)
    q, e, step = 0.9, 0.3, 1e-3
    slopes = jax.jit(lambda q, e: pair.slope_product(activation, q, q, e))
    gradient = jax.grad(slopes, argnums=(0, 1))(jnp.asarray(q), jnp.asarray(e))
    for i, (dq, de) in enumerate(((step, 0.0), (0.0, step))):
        at = [
            float(slopes(jnp.asarray(q + k * dq), jnp.asarray(e + k * de))) for k in (-2, -1, 1, 2)
        ]
        expected = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "relu", "selu"])
def test_the_deficit_differentiates(name, float64):
    activation = activations.get(name)
    for q, e in ((0.9, 0.3), (2.0, 1e-7)):
        lost = jax.jit(lambda q, e: pair.deficit(activation, q, e))
        gradient = jax.grad(lost, argnums=(0, 1))(jnp.asarray(q), jnp.asarray(e))
        for i, x in enumerate((q, e)):
            step = 1e-3 * x
            at = [
                float(lost(*[jnp.asarray(y + k * step * (j == i)) for j, y in enumerate((q, e))]))
                for k in (-2, -1, 1, 2)
            ]
            expected = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
            np.testing.assert_allclose(gradient[i], expected, rtol=1e-6)


@given(
    name=st.sampled_from(NAMES),
    variance=st.floats(1e-2, 100.0),
    gap=st.floats(0.0, 2.0),
)
def test_cauchy_schwarz(name, variance, gap):
    with jax.enable_x64(True):
        value, slope, lost = _compiled(name)(jnp.asarray(variance), jnp.asarray(gap))
        bound = float(single.mean_square(activations.get(name), jnp.asarray(variance)))
        steep = float(single.slope_square(activations.get(name), jnp.asarray(variance)))
    assert abs(float(value)) <= bound * (1 + 1e-12)
    assert abs(float(slope)) <= steep * (1 + 1e-12)
    np.testing.assert_allclose(float(lost), bound - float(value), rtol=1e-9, atol=1e-12 * bound)


def test_closed_forms_and_quadrature_agree(float64):
    known = activations.get("erf")
    same = activations.Activation(lambda x: known.fn(x) * 1.0, name="erf without a name")

    @jax.jit
    def difference(q, e):
        at_one, at_two = (
            (
                pair.deficit(phi, q, e),
                pair.product(phi, q, 2 * q, e),
                pair.slope_product(phi, q, 2 * q, e),
            )
            for phi in (known, same)
        )
        return [one / two - 1 for one, two in zip(at_one, at_two)]

    for q, e in ((0.3, 0.2), (2.0, 1.6), (1.0, 1e-8)):
        np.testing.assert_allclose(difference(jnp.asarray(q), jnp.asarray(e)), 0.0, atol=1e-11)


@pytest.mark.parametrize(("q", "c"), [(0.3, 0.8), (3.0, -0.6)])
def test_sin_by_the_hermite_series(q, c, float64):
    """The closed form of sin against a route that knows nothing of characteristic functions."""
    sine = activations.get("sin")
    computed = pair.product(sine, jnp.asarray(q), jnp.asarray(q), jnp.asarray(1 - c))
    np.testing.assert_allclose(computed, independent.pair_expectation(np.sin, q, c), rtol=1e-12)
    computed = pair.slope_product(sine, jnp.asarray(q), jnp.asarray(q), jnp.asarray(1 - c))
    np.testing.assert_allclose(computed, independent.pair_expectation(np.cos, q, c), rtol=1e-12)
