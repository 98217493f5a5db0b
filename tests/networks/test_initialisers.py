"""Unit draws: variance 1 whatever the shape, the right law, one function of key and layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop.networks import initialisers

# E[x^4] of the unit-variance law; a truncated normal's from its moments at +-2.
KURTOSIS = {"gaussian": 3.0, "uniform": 9 / 5, "truncated_normal": 2.3655}
SHAPES = [(64, 64), (128, 32), (32, 128)]


def _many(distribution, fan_out, fan_in, count=200):
    keys = jax.random.split(jax.random.key(3), count)
    draw = lambda key: initialisers.unit_draw(key, distribution, fan_out, fan_in)  # noqa: E731
    return np.asarray(jax.lax.map(draw, keys), np.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distribution", initialisers.DISTRIBUTIONS)
def test_entries_have_mean_0_and_variance_1(distribution, shape):
    draws = _many(distribution, *shape, count=40)
    # Standard errors of the mean and of the mean square (at most those of a Gaussian), times 5.
    assert abs(draws.mean()) < 5 / draws.size**0.5
    assert abs((draws**2).mean() - 1) < 5 * (2 / draws.size) ** 0.5


@pytest.mark.parametrize("distribution", KURTOSIS)
def test_independent_entries_have_the_fourth_moment_of_their_law(distribution):
    draws = _many(distribution, 64, 64)
    error = (draws**4).std() / draws.size**0.5
    assert abs((draws**4).mean() - KURTOSIS[distribution]) < 5 * error + 5e-5


def test_truncation_is_at_two_standard_deviations_of_the_uncut_normal():
    draws = _many("truncated_normal", 64, 64)
    assert 2.2 < np.abs(draws).max() <= 2 / 0.8796256610342398 * (1 + 1e-6)


def test_uniform_ends_at_root_three():
    assert 1.73 < np.abs(_many("uniform", 64, 64)).max() <= 3**0.5 * (1 + 1e-6)


@given(
    fan_out=st.sampled_from([1, 3, 9]),
    fan_in=st.sampled_from([1, 3, 9]),
    seed=st.integers(0, 2**31 - 1),
)
def test_orthogonal_draws_are_orthogonal_along_the_short_side(fan_out, fan_in, seed):
    unit = initialisers.unit_draw(jax.random.key(seed), "orthogonal", fan_out, fan_in)
    q = np.asarray(unit, np.float64) / max(fan_out, fan_in) ** 0.5
    gram = q @ q.T if fan_out <= fan_in else q.T @ q
    np.testing.assert_allclose(gram, np.eye(min(fan_out, fan_in)), atol=2e-6)


def test_orthogonal_draws_are_haar():
    """|trace|^2 of Haar matrices averages 1 (Diaconis & Shahshahani 1994); plain QR's does not."""
    draws = _many("orthogonal", 8, 8, count=4000) / 8**0.5
    trace = np.trace(draws, axis1=1, axis2=2)
    for values, expected in ((trace, 0.0), (trace**2, 1.0)):
        assert abs(values.mean() - expected) < 5 * values.std() / len(values) ** 0.5


def test_layers_seeds_and_biases_are_drawn_independently():
    keys = [jax.random.key(s) for s in (0, 1)]
    vectors = [
        np.ravel(initialisers.unit_weight(key, layer, "gaussian", 100, 100))
        for key in keys
        for layer in (1, 2)
    ]
    vectors.append(np.resize(initialisers.unit_bias(keys[0], 1, 100), 10_000))
    vectors.append(np.ravel(initialisers.cotangent(keys[0], 100, 100)))
    correlations = np.corrcoef(vectors) - np.eye(len(vectors))
    assert np.abs(correlations).max() < 5 / 10  # the bias vector has only 100 distinct entries
    assert np.abs(np.delete(np.delete(correlations, 4, 0), 4, 1)).max() < 5 / 100


def test_a_traced_layer_number_gives_the_same_draw():
    key = jax.random.key(5)
    traced = jax.jit(lambda layer: initialisers.unit_weight(key, layer, "uniform", 3, 4))(2)
    np.testing.assert_array_equal(traced, initialisers.unit_weight(key, 2, "uniform", 3, 4))


def test_dtype_is_the_one_asked_for():
    draw = initialisers.unit_draw(jax.random.key(0), "orthogonal", 3, 4, jnp.float16)
    assert draw.dtype == jnp.float16


def test_unknown_distribution():
    with pytest.raises(ValueError, match=r"distribution must be one of 'gaussian'.* got 'cauchy'"):
        initialisers.unit_draw(jax.random.key(0), "cauchy", 2, 2)
