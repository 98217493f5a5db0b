"""Slopes from values alone: their error bars hold, corners and jumps are told."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop.gradients import differences
from sigprop.gradients.differences import Values


def values_of(fn, epsilon, dtype):
    """``fn`` at the full ladder of steps, computed in ``dtype``."""
    rounded = lambda s: np.asarray(fn(s.astype(dtype)), dtype).astype(np.float64)  # noqa: E731
    h = differences.full(epsilon)
    around = rounded(differences.tiny(epsilon))
    center = float(rounded(np.zeros(1))[0])
    noise = differences.noise(around, epsilon)
    return Values(h, rounded(h), rounded(-h), center, noise, epsilon)


FUNCTIONS = {
    "exp": (np.exp, 1.0),
    "sin(5 x + 1)": (lambda s: np.sin(5 * s + 1), 5 * np.cos(1)),
    "1/(1 + x)": (lambda s: 1 / (1 + s), -1.0),
    "steep tanh": (lambda s: np.tanh(40 * s + 0.3), 40 / np.cosh(0.3) ** 2),
    "constant": (lambda s: 3 + 0 * s, 0.0),
    "x on 1000": (lambda s: 1000 + s, 1.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_bar_holds_the_error(name, dtype):
    fn, exact = FUNCTIONS[name]
    epsilon = float(np.finfo(dtype).eps)
    found = differences.slope(values_of(fn, epsilon, dtype))
    assert abs(found.value - exact) <= found.error
    assert found.error <= 1e3 * epsilon**0.5 * max(abs(exact), 1)
    assert not found.kink


@given(
    st.integers(-30, 30),
    st.integers(-30, 30),
    st.sampled_from([np.float32, np.float64]),
    st.integers(-10, 10),
)
def test_a_corner_has_two_slopes_and_a_smooth_point_one(left, right, dtype, offset):
    left, right, offset = left / 10, right / 10, offset / 10
    epsilon = float(np.finfo(dtype).eps)
    fn = lambda s: np.where(s < 0, left * s, right * s) + offset + s**2  # noqa: E731
    found = differences.slope(values_of(fn, epsilon, dtype))
    if abs(left - right) > 0.1:
        assert found.kink
        np.testing.assert_allclose(
            sorted([found.left, found.right]), sorted([left, right]), atol=0.1
        )
    else:
        assert abs(found.value - (left + right) / 2) <= found.error + abs(left - right)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("jump", [0.1, 1.0, 1e3])
def test_a_jump_has_no_slope(jump, dtype):
    epsilon = float(np.finfo(dtype).eps)
    noise = epsilon  # as met along another direction
    at_zero = values_of(lambda s: np.sin(s) + jump * (s > 0), epsilon, dtype)
    assert differences.slope(dataclasses.replace(at_zero, noise=noise)).jump
    beside = differences.slope(values_of(lambda s: np.sin(s) + jump * (s > 0.01), epsilon, dtype))
    assert not beside.jump
    assert abs(beside.value - 1) <= beside.error


def test_the_secant_is_the_mean_slope_over_corners():
    epsilon = float(np.finfo(np.float32).eps)
    corners = np.random.default_rng(0).uniform(-0.01, 0.01, 50)
    slopes_at = lambda s: np.sum(np.sign(s - corners))  # noqa: E731
    fn = lambda s: np.sum(np.abs(np.expand_dims(s, -1) - corners), axis=-1)  # noqa: E731
    h, mean, error = differences.secant(values_of(fn, epsilon, np.float32))
    slopes = np.asarray([slopes_at(s) for s in differences.midpoints(h)])
    assert abs(slopes.mean() - mean) <= error + differences.integration_error(slopes)
