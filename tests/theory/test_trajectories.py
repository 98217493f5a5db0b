"""Layer by layer: trajectories of variance, correlation and gradient."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop import theory
from tests.reference import independent

NAMES = sorted(independent.TABLE)


@pytest.mark.parametrize("name", NAMES)
def test_variance_and_gradient_are_the_maps_iterated(name):
    at = {"weight_var": 1.6, "bias_var": 0.08}
    found = theory.propagate(name, depth=6, variance0=0.7, **at)
    q = [0.7]
    for _ in range(5):
        q.append(independent.variance_map(name, q[-1], **at))
    chi = [independent.chi_1(name, x, 1.6) for x in q]
    np.testing.assert_allclose(found.variance, q, rtol=1e-11)
    np.testing.assert_allclose(found.chi, chi, rtol=1e-11)
    # The gradient at z^l passes layers l + 1 .. L, each with the derivative at the layer below.
    expected = [sum(np.log(chi[layer:5])) for layer in range(6)]
    np.testing.assert_allclose(found.log_gradient, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.gradient_rate, np.mean(np.log(chi[:5])), rtol=1e-10)


@pytest.mark.parametrize("name", ["tanh", "gelu", "hard_tanh", "selu", "sigmoid", "leaky_relu"])
def test_correlation_is_the_map_iterated(name):
    at = {"weight_var": 1.6, "bias_var": 0.08}
    found = theory.propagate(name, depth=4, variance0=0.7, correlation0=0.25, **at)
    q, gap = 0.7, 0.75
    for layer in range(4):
        np.testing.assert_allclose(found.one_minus_correlation[layer], gap, rtol=1e-10)
        np.testing.assert_allclose(found.correlation[layer], 1 - gap, rtol=1e-10)
        lost = 1.6 * independent.pair_moments(name, q, gap)[2]
        q = independent.variance_map(name, q, **at)
        gap = lost / q


def _relu_gaps(depth, gap):
    """1 - c along a relu network at (2, 0), in 60 digits (Cho and Saul 2009)."""
    gaps = []
    with mpmath.workdps(60):
        gap = mpmath.mpf(gap)
        for _ in range(depth):
            gaps.append(float(gap))
            angle = mpmath.acos(1 - gap)
            gap = 1 - (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / mpmath.pi
    return np.asarray(gaps)


def test_relu_correlation_keeps_its_digits_to_depth_1000():
    found = theory.propagate(
        "relu", depth=1000, weight_var=2.0, bias_var=0.0, variance0=1.3, correlation0=0.1
    )
    np.testing.assert_allclose(found.one_minus_correlation, _relu_gaps(1000, 0.9), rtol=1e-10)
    np.testing.assert_allclose(found.variance, 1.3, rtol=1e-12)
    np.testing.assert_allclose(found.log_gradient, 0.0, atol=1e-12)


def test_relu_approaches_one_algebraically():
    """1 - c^l ~ 9π²/(2 l²) (Hayou, Doucet and Rousseau 2019)."""
    depth = 20_000
    found = theory.propagate(
        "relu", depth=depth, weight_var=2.0, bias_var=0.0, variance0=1.0, correlation0=0.5
    )
    expected = 9 * np.pi**2 / (2 * depth**2)
    np.testing.assert_allclose(found.one_minus_correlation[-1], expected, rtol=5e-3)


def test_tanh_at_criticality_decays_algebraically():
    """q^l ~ 1/(2 l): an iteration that stops at small change would stop early."""
    depth = 10_000
    found = theory.propagate("tanh", depth=depth, weight_var=1.0, bias_var=0.0, variance0=1.0)
    np.testing.assert_allclose(found.variance[-1] * 2 * depth, 1.0, rtol=5e-3)


@pytest.mark.parametrize(("weight_var", "rate"), [(4.0, np.log(2.0)), (0.5, -np.log(4.0))])
def test_vanished_and_exploded_gradients_stay_finite_in_the_log(weight_var, rate):
    found = theory.propagate("relu", depth=3000, weight_var=weight_var, bias_var=0.0, variance0=1.0)
    np.testing.assert_allclose(found.log_gradient[0], rate * 2999, rtol=1e-11)
    np.testing.assert_allclose(found.gradient_rate, rate, rtol=1e-11)


def test_a_trajectory_ends_at_the_fixed_point():
    at = {"weight_var": 2.5, "bias_var": 0.1}
    found = theory.propagate("tanh", depth=300, variance0=3.0, correlation0=0.9, **at)
    fixed = theory.fixed_point("tanh", variance0=3.0, **at)
    np.testing.assert_allclose(found.variance[-1], fixed.variance, rtol=1e-11)
    np.testing.assert_allclose(found.correlation[-1], fixed.correlation, rtol=1e-9)
    # and approaches it at the rate the depth scale says
    near = slice(150, 180)  # e^-11: the next order is gone, the digits are not
    distance = np.log(np.abs(found.correlation[near] - fixed.correlation))
    slope = np.polyfit(np.arange(distance.size), distance, 1)[0]
    np.testing.assert_allclose(-1 / slope, fixed.depth_scale_correlation, rtol=1e-4)


@pytest.mark.parametrize("c", [1.0, -1.0])
def test_identical_and_opposite_inputs(c):
    at = {"weight_var": 2.5, "bias_var": 0.0, "variance0": 1.0}
    found = theory.propagate("tanh", depth=20, correlation0=c, **at)
    np.testing.assert_allclose(found.correlation, c, rtol=1e-12)


def test_cells_broadcast_with_layers_last():
    weight_var = np.asarray([0.5, 1.5, 3.0])[:, None]
    bias_var = np.asarray([0.0, 0.2])
    found = theory.propagate(
        "erf", depth=5, weight_var=weight_var, bias_var=bias_var, variance0=1.0, correlation0=0.3
    )
    assert found.variance.shape == found.correlation.shape == (3, 2, 5)
    one = theory.propagate(
        "erf", depth=5, weight_var=1.5, bias_var=0.2, variance0=1.0, correlation0=0.3
    )
    np.testing.assert_allclose(found.correlation[1, 1], one.correlation, rtol=1e-13)
    np.testing.assert_allclose(found.log_gradient[1, 1], one.log_gradient, rtol=1e-13)


@given(
    second_moment=st.floats(0.0, 100.0),
    weight_var=st.floats(0.0, 10.0),
    bias_var=st.floats(0.0, 10.0),
)
def test_the_first_layer_is_affine(second_moment, weight_var, bias_var):
    at = {"weight_var": weight_var, "bias_var": bias_var}
    q = theory.input_variance(second_moment, **at)
    np.testing.assert_allclose(q, weight_var * second_moment + bias_var, rtol=1e-14)


def test_one_layer_is_the_start():
    found = theory.propagate("tanh", depth=1, weight_var=2.0, bias_var=0.1, variance0=0.6)
    np.testing.assert_array_equal(found.variance, [0.6])
    np.testing.assert_array_equal(found.log_gradient, [0.0])
