"""Fluctuations over initialisations: exact laws, a second quadrature, and limits of the recursion.

Section G of the reference values: Var log of one layer of width n, linear and relu.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from sigprop import activations, theory
from sigprop.gaussian import expectation, expectation_pair

# Variance of log |J u|² a layer at width 128, square layers: trigamma(64), and the mixture of
# trigamma(k/2) over k ~ Bin(128, 1/2).
EXACT_AT_128 = {"linear": 0.015747706064338931, "relu": 0.040234032926}


def derived(fn):
    return lambda x: jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]


@pytest.mark.parametrize(("name", "weight_var", "constant"), [("linear", 1.0, 2), ("relu", 2.0, 5)])
def test_constants_of_hanin_and_nica(name, weight_var, constant):
    found = theory.log_gradient_variance(
        name, depth=31, width=128, weight_var=weight_var * np.asarray([0.3, 1, 4]), bias_var=0.0
    )
    np.testing.assert_allclose(found.variance, constant * 30 / 128, rtol=1e-12)
    # The next order of the exact law: 1/n relative for linear, 3.7/n for relu.
    assert np.all(abs(found.variance / (30 * EXACT_AT_128[name]) - 1) < 4 / 128)


def test_the_exact_law_tends_to_the_constant_as_the_width_grows():
    widths = np.asarray([100, 1000, 10000])
    exact = 30 * special.polygamma(1, widths / 2)
    found = [
        theory.log_gradient_variance("linear", depth=31, width=n, weight_var=1.3, bias_var=0.2)
        for n in widths.tolist()
    ]
    ratio = np.asarray([f.variance for f in found]) / exact
    np.testing.assert_allclose(1 - ratio, 1 / widths, rtol=0.02)


@pytest.mark.every_run("tanh")
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_three_layers_written_out(name):
    """Two local terms, and the first layer's signal reaching the second gradient factor."""
    weight_var, bias_var, q, width = 1.7, 0.1, 0.8, 50
    fn = {"tanh": jnp.tanh, "gelu": lambda x: x * (1 + jax.lax.erf(x / np.sqrt(2))) / 2}[name]
    slope = derived(fn)

    integrands = {
        "S": lambda x: fn(x) ** 2, "m": lambda x: slope(x) ** 2, "SS": lambda x: fn(x) ** 4,
        "mm": lambda x: slope(x) ** 4, "Sm": lambda x: (fn(x) * slope(x)) ** 2,
    }  # fmt: skip
    q2 = weight_var * float(expectation(integrands["S"], q)) + bias_var
    step = 1e-5 * q2
    places = np.asarray([q, q2, q2 + step, q2 - step])
    at = {key: np.asarray(expectation(f, places)) for key, f in integrands.items()}
    first, second = ({key: value[i] for key, value in at.items()} for i in (0, 1))
    per_variance = (at["m"][2] - at["m"][3]) / (2 * step) / second["m"]  # d ln m/dq at layer 2
    local = [3 * at["mm"] / at["m"] ** 2 - 1 for at in (first, second)]
    carried = per_variance * weight_var
    mixed = first["Sm"] / first["m"] - first["S"]
    spread = first["SS"] - first["S"] ** 2
    expected = (sum(local) + 2 * carried * mixed + carried**2 * spread) / width
    found = theory.log_gradient_variance(
        name, depth=3, width=width, weight_var=weight_var, bias_var=bias_var, variance0=q
    )
    np.testing.assert_allclose(found.variance, expected, rtol=1e-8)


@pytest.mark.every_run("tanh", "relu")
@pytest.mark.parametrize("name", ["relu", "tanh", "hard_tanh"])
def test_covariance_of_two_inputs_of_one_layer(name):
    correlation = np.asarray([-0.6, 0.0, 0.4, 0.9, 1.0])
    slope = activations.get(name).derivative
    square = lambda x: slope(x) ** 2  # noqa: E731
    mean = float(expectation(square, 0.8))
    inside = correlation * (1 - 1e-13)
    together = expectation_pair(square, square, correlation=inside, variance_f=0.8, variance_g=0.8)
    found = theory.log_gradient_variance(
        name, depth=2, width=1, weight_var=1.0, bias_var=0.0, variance0=0.8,
        correlation0=correlation,
    )  # fmt: skip
    # Accurate enough for an error bar: to about 1% of the variance of the layer's own sum.
    np.testing.assert_allclose(found.covariance, together / mean**2 - 1, atol=0.015)


def test_two_equal_inputs_share_all_but_their_cotangents():
    found = theory.log_gradient_variance(
        "gelu", depth=12, width=10, weight_var=2.0, bias_var=0.2, correlation0=1.0
    )
    # E[h⁴] = 3 against E[h_a² h_b²] = 1: a layer's own part goes from 3κ - 1 to κ - 1.
    assert 0 < found.covariance < found.variance
    one = theory.log_gradient_variance("gelu", depth=12, width=10, weight_var=2.0, bias_var=0.2)
    assert np.isnan(one.covariance)
    assert one.variance == found.variance
    several = found.rate_stderr(depth=12, seeds=4)
    np.testing.assert_allclose(
        several, np.sqrt((found.variance + found.covariance) / 8) / 11, rtol=1e-12
    )
    np.testing.assert_allclose(
        one.rate_stderr(depth=12, seeds=4), np.sqrt(one.variance / 4) / 11, rtol=1e-12
    )


@pytest.mark.every_run("tanh", "relu")
@pytest.mark.parametrize("name", ["linear", "relu", "tanh"])
def test_orthogonal_weights_take_out_what_they_hold(name):
    """A linear isometry changes no gradient at all; the others fluctuate less than Gaussian."""
    at = {"depth": 10, "width": 64, "weight_var": 1.5, "bias_var": 0.0}
    free = theory.log_gradient_variance(name, **at)
    held = theory.log_gradient_variance(name, **at, ensemble="orthogonal")
    if name == "linear":
        np.testing.assert_allclose(held.variance, 0.0, atol=1e-12)
    assert 0 <= held.variance + 1e-12 < free.variance


def test_vanishing_and_exploding_signals_have_the_limits_of_straight_networks():
    at = {"depth": 2001, "width": 1, "bias_var": 0.0}
    small = theory.log_gradient_variance("tanh", weight_var=0.5, variance0=1e-8, **at)
    np.testing.assert_allclose(small.variance, 2 * 2000, rtol=1e-6)
    large = theory.log_gradient_variance("relu", weight_var=8.0, **at)
    np.testing.assert_allclose(large.variance, 5 * 2000, rtol=1e-12)


def test_under_jit_vmap_and_in_grids():
    def variance(weight_var):
        return theory.log_gradient_variance(
            "tanh", depth=6, width=32, weight_var=weight_var, bias_var=0.1, correlation0=0.5
        ).variance

    grid = np.asarray([[0.5, 1.0], [2.0, 3.0]])
    eager = variance(grid)
    assert eager.shape == grid.shape
    assert eager.dtype == np.float64
    traced = jax.jit(jax.vmap(variance))(jnp.asarray(grid, jnp.float32))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, eager, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be an integer >= 1, got 0"),
        ({"width": 0}, "width must be an integer >= 1, got 0"),
        ({"weight_var": -1.0}, "weight_var must be finite and >= 0, got -1.0"),
        ({"correlation0": 2.0}, r"correlation0 must lie in \[-1, 1\], got 2.0"),
        ({"ensemble": "haar"}, "ensemble must be one of 'gaussian', 'orthogonal', got 'haar'"),
    ],
)
def test_mistakes_are_one_clear_line(change, message):
    good = {"depth": 3, "width": 8, "weight_var": 1.0, "bias_var": 0.0}
    with pytest.raises(ValueError, match=message):
        theory.log_gradient_variance("tanh", **(good | change))
