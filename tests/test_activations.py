"""Activations: values and derivatives against mpmath, kinks against the known ones, bad input."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from sigprop import activations
from tests.reference import independent

POINTS = np.asarray([-40.0, -7.3, -2.1, -1.0 + 1e-3, -0.4, -1e-4, 1e-4, 0.3, 0.999, 1.7, 6.0, 35.0])
NAMES = sorted(independent.TABLE)


def _assert_rounded(name, actual, expected):
    """Equal but for rounding, which counts in units of the terms that cancel in a saturated φ."""
    terms = 1 + np.abs(POINTS) ** (3 if name == "gelu_tanh" else 1)
    allowed = 4 * np.finfo(float).eps * terms + 1e-14 * np.abs(expected)
    error = np.abs(np.asarray(actual) - expected)
    assert np.all(error <= allowed), (POINTS, error / allowed)


def _exact(fn, points):
    with mpmath.workdps(40):
        return np.asarray([float(fn(mpmath.mpf(float(x)))) for x in points])


def test_the_table_is_the_one_documented():
    assert list(activations.names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_value_and_derivative_against_mpmath(name, float64):
    activation, reference = activations.get(name), independent.TABLE[name]
    x = jnp.asarray(POINTS)
    value, derivative = activation.value_and_derivative(x)
    expected = _exact(reference.exact, POINTS)
    slope = _exact(lambda p: mpmath.diff(reference.exact, p, h=mpmath.mpf(10) ** -15), POINTS)
    _assert_rounded(name, value, expected)
    _assert_rounded(name, derivative, slope)
    np.testing.assert_array_equal(activation(x), value)
    np.testing.assert_allclose(activation.derivative(x), derivative, rtol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_table_agrees_with_mpmath(name):
    """The NumPy functions that other tests lean on are themselves right."""
    reference = independent.TABLE[name]
    slope = _exact(lambda p: mpmath.diff(reference.exact, p, h=mpmath.mpf(10) ** -15), POINTS)
    _assert_rounded(name, reference.fn(POINTS), _exact(reference.exact, POINTS))
    _assert_rounded(name, reference.derivative(POINTS), slope)


@pytest.mark.parametrize("name", NAMES)
def test_kinks_in_the_table_are_those_the_search_finds(name):
    activation = activations.get(name)
    assert activation.kinks == independent.TABLE[name].kinks
    assert activations.find_kinks(activation.fn) == activation.kinks


UNSEEN = {
    "absolute value": (jnp.abs, (0.0,)),
    "three corners": (
        lambda x: jnp.abs(x - 1) + jnp.abs(x + 2.5) + jax.nn.relu(x),
        (-2.5, 0.0, 1.0),
    ),
    "step": (lambda x: jnp.where(x > 0.25, 1.0, 0.0).astype(jnp.result_type(x)), (0.25,)),
    "curvature only": (lambda x: jnp.where(x > 0.5, (x - 0.5) ** 2, 0.0 * x), (0.5,)),
    "far out": (lambda x: jnp.clip(x, -200.0, 300.0), (-200.0, 300.0)),
    "close together": (lambda x: jnp.clip(x, 0.3, 0.31), (0.3, 0.31)),
    "irrational": (lambda x: jnp.maximum(x, 2**0.5), (2**0.5,)),
    "relu6": (jax.nn.relu6, (0.0, 6.0)),
    "steep but smooth": (lambda x: jnp.tanh(50 * x), ()),
    "narrow bump": (lambda x: jnp.exp(-((x * 30) ** 2)), ()),
    "cube": (lambda x: x**3, ()),
    "waves": (lambda x: jnp.sin(7 * x) + x, ()),
    "snake": (lambda x: x + jnp.sin(x) ** 2, ()),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_kinks_of_functions_not_in_the_table(case):
    fn, kinks = UNSEEN[case]
    np.testing.assert_allclose(activations.Activation(fn, name=case).kinks, kinks, atol=1e-9)


def test_kinks_that_are_given_are_kept():
    assert activations.Activation(jnp.tanh, name="cut", kinks=(3.0, -1.0)).kinks == (-1.0, 3.0)


@pytest.mark.parametrize(
    ("name", "slopes"),
    [
        ("relu", (0.0, 1.0)),
        ("linear", (1.0, 1.0)),
        ("leaky_relu", (0.01, 1.0)),
        ("leaky_relu(0.2)", (0.2, 1.0)),
        ("tanh", None),
        ("hard_tanh", None),
        ("selu", None),
        ("softplus", None),
    ],
)
def test_homogeneous_slopes(name, slopes):
    assert activations.get(name).homogeneous_slopes == slopes


def test_the_slope_of_leaky_relu(float64):
    x = jnp.asarray([-2.0, 3.0])
    np.testing.assert_allclose(activations.leaky_relu(0.3)(x), [-0.6, 3.0], rtol=1e-15)
    np.testing.assert_allclose(activations.leaky_relu(0.3).derivative(x), [0.3, 1.0], rtol=1e-15)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("swish", "silu"),
        ("identity", "linear"),
        ("hardtanh", "hard_tanh"),
        ("leaky_relu(0.01)", "leaky_relu"),
    ],
)
def test_aliases_are_the_same_activation(alias, name):
    assert activations.get(alias) is activations.get(name)


def test_one_function_is_one_activation():
    """Static arguments of a jit compare by equality: a second lookup must not recompile."""

    def cube(x):
        return x**3

    assert activations.get(cube) is activations.get(cube)
    assert activations.get(jnp.tanh) is activations.get("tanh")
    assert activations.get(activations.get("relu")) is activations.get("relu")
    assert hash(activations.get("gelu")) == hash(activations.get("gelu"))


def test_a_function_of_scalars_only_is_mapped_over_arrays(float64):
    def branch(x):
        return jax.lax.cond(x > 0, lambda y: y, lambda y: 0.5 * y, x)

    activation = activations.get(branch)
    x = jnp.asarray([[-2.0, 1.0], [0.5, -1.0]])
    np.testing.assert_allclose(activation(x), jnp.where(x > 0, x, 0.5 * x))
    np.testing.assert_allclose(activation.derivative(x), jnp.where(x > 0, 1.0, 0.5))
    assert activation.kinks == (0.0,)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_in_is_dtype_out(name):
    x = jnp.asarray([-1.5, 0.25], jnp.float32)
    value, derivative = activations.get(name).value_and_derivative(x)
    assert value.dtype == derivative.dtype == jnp.float32


def _untraceable(x):
    return x if float(x) > 0 else 0.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tahn", r"'tahn'; did you mean 'tanh'"),
        ("reul", r"'reul'; did you mean .*'relu'"),
        ("qqqq", r"'qqqq'; known names: .*softsign.*tanh"),
        ("leaky_relu(x)", r"got 'leaky_relu\(x\)'"),
        ("", r"got ''"),
        (3.0, r"must be a name, a callable or an Activation, got 3.0"),
        (None, r"must be a name, a callable or an Activation, got None"),
        (_untraceable, r"_untraceable could not be traced \(.*\)"),
        (lambda x: jnp.stack([x, x]), r"one real number to one real number"),
        (lambda x: jnp.sign(x).astype(jnp.int32), r"one real number to one real number"),
        (lambda x, y: x + y, r"could not be traced"),
    ],
)
def test_what_is_no_activation_is_refused(given, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        activations.get(given)
