"""Theory under the user's own jit, vmap and grad, and what dtype comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import theory

NAMES = ["tanh", "relu", "gelu", "hard_tanh", "selu", "sin"]
FIELDS = ("variance", "correlation", "chi_1", "chi_q", "chi_c")
AT = {"weight_var": 1.7, "bias_var": 0.2}


def _maps(name, weight_var, bias_var, variance, correlation):
    at = {"weight_var": weight_var, "bias_var": bias_var}
    return (
        theory.variance_map(name, variance, **at),
        theory.correlation_map(name, correlation, variance=variance, **at),
        theory.chi(name, variance, weight_var=weight_var, correlation=correlation),
        theory.variance_slope(name, variance, weight_var=weight_var),
    )


def _fixed(name, weight_var, bias_var):
    found = theory.fixed_point(name, weight_var=weight_var, bias_var=bias_var)
    return tuple(getattr(found, field) for field in FIELDS)


@pytest.mark.parametrize("name", NAMES)
def test_eager_calls_return_numpy_float64_whatever_the_ambient_precision(name):
    for result in (*_maps(name, 1.7, 0.2, 0.8, 0.3), *_fixed(name, 1.7, 0.2)):
        assert isinstance(result, (np.ndarray, np.floating))
        assert result.dtype == np.float64


@pytest.mark.every_run("tanh", "relu", "hard_tanh")
@pytest.mark.parametrize("name", NAMES)
def test_jit_in_64_bits_agrees_with_eager(name, float64):
    arguments = [jnp.asarray(x) for x in (1.7, 0.2, 0.8, 0.3)]
    compiled = jax.jit(lambda *a: _maps(name, *a))(*arguments)
    for one, other in zip(compiled, _maps(name, 1.7, 0.2, 0.8, 0.3)):
        assert isinstance(one, jax.Array)
        assert one.dtype == jnp.float64
        np.testing.assert_allclose(one, other, rtol=1e-12)
    compiled = jax.jit(lambda *a: _fixed(name, *a))(*arguments[:2])
    for field, one, other in zip(FIELDS, compiled, _fixed(name, 1.7, 0.2)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=field)


@pytest.mark.every_run("tanh", "relu", "gelu")
@pytest.mark.parametrize("name", NAMES)
def test_jit_in_32_bits_returns_32_bits(name):
    arguments = [jnp.asarray(x, jnp.float32) for x in (1.7, 0.2, 0.8, 0.3)]
    compiled = jax.jit(lambda *a: _maps(name, *a))(*arguments)
    for one, other in zip(compiled, _maps(name, 1.7, 0.2, 0.8, 0.3)):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=2e-5)
    for field, one, other in zip(
        FIELDS, jax.jit(lambda *a: _fixed(name, *a))(*arguments[:2]), _fixed(name, 1.7, 0.2)
    ):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-4, err_msg=field)


@pytest.mark.every_run("tanh", "relu", "sin")
@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_the_broadcast(name, float64):
    weight_var = np.linspace(0.4, 1.9, 4)
    mapped = jax.vmap(lambda w: _fixed(name, w, 0.2))(jnp.asarray(weight_var))
    for field, one, other in zip(FIELDS, mapped, _fixed(name, weight_var, 0.2)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=field)


def _central(values, step):
    """Derivative at the middle of five equidistant values (fourth order)."""
    return (values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * step)


def _around(x, step):
    return x + step * np.arange(-2, 3)


@pytest.mark.every_run("tanh", "hard_tanh")
@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "hard_tanh"])
def test_gradients_of_the_maps(name, float64):
    """Of every map in every argument, kinked activations included."""
    start, step = [1.7, 0.2, 0.8, 0.3], 1e-3
    jacobian = jax.jit(jax.jacrev(lambda *a: jnp.stack(_maps(name, *a)), argnums=range(4)))
    for which, gradient in enumerate(jacobian(*map(jnp.asarray, start))):
        arguments = [_around(x, step) if i == which else x for i, x in enumerate(start)]
        values = np.stack([np.broadcast_to(v, (5,)) for v in _maps(name, *arguments)], axis=1)
        np.testing.assert_allclose(gradient, _central(values, step), rtol=1e-8, atol=1e-10)


ORDERED_AND_CHAOTIC = [
    ("tanh", 0.8),
    ("tanh", 3.1),
    ("erf", 0.4),
    ("erf", 3.1),
    ("hard_tanh", 0.8),
    ("hard_tanh", 2.5),
    ("gelu", 0.8),
    ("selu", 1.2),
]


@pytest.mark.every_run("tanh", "hard_tanh-2.5")
@pytest.mark.parametrize(("name", "weight_var"), ORDERED_AND_CHAOTIC)
def test_fixed_points_differentiate_implicitly(name, weight_var, float64):
    """On both sides of the transition; finite differences of the eager call are the reference."""
    start, step = [weight_var, 0.2], 1e-3
    jacobian = jax.jit(jax.jacrev(lambda *a: jnp.stack(_fixed(name, *a)), argnums=(0, 1)))
    for which, gradient in enumerate(jacobian(*map(jnp.asarray, start))):
        arguments = [_around(x, step) if i == which else x for i, x in enumerate(start)]
        expected = _central(np.stack(_fixed(name, *arguments), axis=1), step)
        np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-9)


def test_a_gradient_finds_the_critical_weight_var(float64):
    """What the gradients are for: Newton's method on χ₁ = 1."""
    excess = jax.value_and_grad(
        lambda w: theory.fixed_point("tanh", weight_var=w, bias_var=0.09).chi_1
    )
    w = jnp.asarray(1.5)
    for _ in range(8):
        value, slope = excess(w)
        w = w - (value - 1) / slope
    np.testing.assert_allclose(w, 1.395583975154902211685937**2, rtol=1e-9)


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_trajectories_differentiate(name, float64):
    def last(weight_var):
        found = theory.propagate(
            name, depth=5, weight_var=weight_var, bias_var=0.1, variance0=0.9, correlation0=0.4
        )
        return found.variance[..., -1] + found.correlation[..., -1] + found.log_gradient[..., 0]

    expected = _central(last(_around(1.7, 1e-3)), 1e-3)
    np.testing.assert_allclose(jax.jit(jax.grad(last))(jnp.asarray(1.7)), expected, rtol=1e-8)


def test_records_pass_through_jax(float64):
    """Records are pytrees: a jitted function may return one."""
    found = jax.jit(lambda w: theory.fixed_point("tanh", weight_var=w, bias_var=0.1))(2.0)
    np.testing.assert_allclose(
        found.variance,
        theory.fixed_point("tanh", weight_var=2.0, bias_var=0.1).variance,
        rtol=1e-10,
    )


def test_an_eager_call_leaves_the_ambient_precision_alone():
    before = jnp.asarray(1.0).dtype
    theory.fixed_point("tanh", **AT)
    assert jnp.asarray(1.0).dtype == before == jnp.float32


def test_eager_arrays_of_jax_are_taken_as_they_are():
    """A float32 JAX array as an argument is exact: the result is that of its float64 value."""
    w = jnp.asarray(1.7, jnp.float32)
    found = theory.fixed_point("tanh", weight_var=w, bias_var=0.2)
    expected = theory.fixed_point("tanh", weight_var=float(w), bias_var=0.2)
    assert found.variance == expected.variance
