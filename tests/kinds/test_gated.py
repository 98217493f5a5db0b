"""Gated linear units: laws in closed form, and networks of them beside their theory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import kinds, theory
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.propagation import measure
from sigprop.theory import GrowthKind

UP = kinds.Dense(bias_var=None)
BARE = kinds.Sequence(kinds.Gated(), UP)
RESIDUAL = kinds.Skip(kinds.Sequence(kinds.Norm(centred=False), kinds.Gated(), UP))


def net(activation, layer=RESIDUAL, depth=8, width=64, weight_var=1.0, gate_var=1.0, up_var=1.0):
    numbers = {"gate_var": gate_var, "up_var": up_var}
    return Architecture(depth, width, activation, weight_var, layer=layer, numbers=numbers)


def test_without_a_norm_relu_squares_the_variance_and_its_fixed_point_repels():
    """q' = σ_w² σ_u² σ_g² q²/2, c' = c E[relu relu]; from 2/(σ_w² σ_u² σ_g²) nothing moves."""
    fixed = 2 / (1.5 * 0.8 * 1.2)
    relu = net("relu", BARE, 6, weight_var=1.5, gate_var=0.8, up_var=1.2)
    off = np.asarray([-1e-3, 0.0, 1e-3])
    path = theory.predict(relu, variance0=fixed * np.exp(off))
    expected = fixed * np.exp(off[:, None] * 2.0 ** np.arange(6))
    np.testing.assert_allclose(path.variance, expected, rtol=1e-12)
    np.testing.assert_allclose(path.chi[1], 2.0, rtol=1e-12)  # as the variance's own slope


@pytest.mark.parametrize(
    ("activation", "gate_var", "power"),
    [
        ("relu", 0.7, 2.0),
        ("linear", 3.0, 2.0),
        ("silu", 0.01, 2.002),
        ("silu", 1.0, 2.067),
        ("silu", 2.0, 2.068),
        ("silu", 100.0, 2.017),
    ],
)
def test_behind_a_norm_gradients_grow_like_the_square_of_the_depth(activation, gate_var, power):
    """1 + σ_g² E[φ'²]/E[φ²], and where φ is homogeneous the power of its degree, 2."""
    law = theory.growth_law(net(activation, gate_var=gate_var))
    assert (law.variance_kind, law.gradient_kind) == (GrowthKind.LINEAR, GrowthKind.POWER)
    np.testing.assert_allclose(law.gradient_rate, power, atol=6e-4)


def test_inputs_part_instead_of_merging():
    path = theory.predict(net("relu", depth=3000), correlation0=0.9)
    assert np.all(np.diff(path.correlation) < 0)
    assert path.correlation[-1] < 0.1


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "tanh"])
def test_networks_are_as_predicted(activation):
    """Behind an RMS norm, ten layers, width 256: variance, correlation and gradient."""
    layer = kinds.Sequence(kinds.Norm(centred=False), kinds.Gated(), kinds.Dense())
    numbers = {"gate_var": 2.0, "up_var": 1.5}
    model = Architecture(10, 256, activation, 1.2, 0.1, layer=layer, numbers=numbers)
    x = np.random.default_rng(1).standard_normal((2, 256))
    x[1] = 0.8 * x[0] + 0.6 * x[1]
    x /= np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    found = measure(model, x, key=jax.random.key(0), seeds=32)
    start = 0.1 + 1.2
    c0 = (0.1 + 1.2 * np.mean(x[0] * x[1])) / start
    path = theory.predict(model, variance0=start, correlation0=c0)
    for name in ("variance", "correlation"):
        measured, stderr = getattr(found, name), getattr(found, f"{name}_stderr")
        allowed = 4 * stderr + 5 / 256  # O(1/N)
        np.testing.assert_array_less(np.abs(measured - getattr(path, name)), allowed)
    off = found.gradient_rate + found.log_gradient_variance / 18 - path.gradient_rate
    assert abs(off) < 4 * found.gradient_rate_stderr


def _empirical_ntk(model, x, key):
    """Products of the gradients of one output by everything drawn, in NTK parameterisation."""
    network = MLP(model, x.shape[1], rngs=key)
    ways = [jax.grad(lambda network, i=i: network(x)[i, 0])(network) for i in range(len(x))]
    names = network.hidden.kind.mixes((1, 1))
    own = lambda way: [getattr(way.hidden, name)[...] for name in names]  # noqa: E731
    drawn = [[*way.first.parameters().values(), *own(way)] for way in ways]
    flat = jnp.stack([jnp.concatenate([jnp.ravel(a) for a in arrays]) for arrays in drawn])
    return jnp.matmul(flat, flat.T, precision="highest")


def test_the_ntk_of_a_gated_layer_is_that_of_wide_networks():
    layer = kinds.Sequence(kinds.Norm(centred=False), kinds.Gated(), kinds.Dense())
    model = Architecture(
        2, 256, "silu", 1.2, 0.1, layer=layer, numbers={"gate_var": 2.0, "up_var": 1.5}
    )
    x = np.random.default_rng(1).standard_normal((3, 16))
    found = theory.kernels(model, x)
    assert found.status == theory.TheoryStatus.OK
    wide = dataclasses.replace(model, parameterisation="ntk")
    one = jax.jit(lambda key: _empirical_ntk(wide, jnp.asarray(x, jnp.float32), key))
    runs = np.asarray([one(key) for key in jax.random.split(jax.random.key(2), 160)], float)
    stderr = runs.std(0) / len(runs) ** 0.5
    allowed = 4 * stderr + 3 * np.abs(found.ntk) / 256  # O(1/N)
    np.testing.assert_array_less(np.abs(runs.mean(0) - found.ntk), allowed)
    assert (allowed < 0.1 * np.abs(found.ntk).max()).all()
