"""The tangent kernel against Jacobians written out, on models of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from sigprop import gradients
from sigprop.architecture import Architecture
from sigprop.networks import MLP

X1 = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
X2 = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)


def _by_jacobians(fn, values, x1, x2):
    """Θ from reverse-mode Jacobians of flat outputs."""

    def flat(x):
        rows = jax.jacrev(lambda v: jnp.ravel(fn(v, x)))(values)
        return jnp.concatenate([r.reshape(r.shape[0], -1) for r in jax.tree.leaves(rows)], axis=1)

    one, other = jnp.stack([flat(x) for x in x1]), jnp.stack([flat(x) for x in x2])
    return jnp.einsum("iap,jbp->ijab", one, other, precision="highest")


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_an_nnx_network(parameterisation):
    network = MLP(
        Architecture(3, 5, "tanh", 1.7, 0.2, parameterisation=parameterisation), 4,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    expected = _by_jacobians(lambda p, x: nnx.merge(graph, p, rest)(x), params, X1, X2)
    found = gradients.empirical_ntk(network, X1, X2)
    assert found.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    mean = gradients.empirical_ntk(network, X1, X2, trace=True)
    np.testing.assert_allclose(mean, np.trace(found, axis1=2, axis2=3) / 5, rtol=1e-5)


def test_one_set_of_inputs_gives_a_symmetric_positive_matrix():
    network = MLP(Architecture(3, 8, "gelu", 2.0, 0.1), 4, rngs=nnx.Rngs(1))
    found = np.asarray(gradients.empirical_ntk(network, X1), np.float64)
    matrix = found.transpose(0, 2, 1, 3).reshape(24, 24)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-4, atol=1e-5)
    assert np.linalg.eigvalsh(matrix).min() > -1e-4


def test_a_bound_linen_module_and_a_pytree():
    module = linen.Dense(2)
    bound = module.bind(module.init(jax.random.key(0), jnp.ones(4)))
    # A linear layer with a bias: (x·x' + 1) for equal outputs, 0 between different ones.
    expected = (X1 @ X2.T + 1)[..., None, None] * np.eye(2)
    found = gradients.empirical_ntk(bound, X1, X2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    tree = {"w": jnp.ones((2, 4)), "b": jnp.ones(2)}
    found = gradients.empirical_ntk(tree, X1, X2, apply=lambda p, x: p["w"] @ x + p["b"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_inputs_and_outputs_of_any_shape_under_jit_and_vmap():
    images = jnp.asarray(np.random.default_rng(2).standard_normal((3, 2, 2)), jnp.float32)

    def kernel(scale):
        weights = {"w": scale * jnp.ones((3, 2, 2))}
        return gradients.empirical_ntk(
            weights, images, apply=lambda p, x: jnp.tanh(p["w"] * x), trace=True
        )

    scales = jnp.asarray([0.0, 1.0])
    batched = jax.jit(jax.vmap(kernel))(scales)
    assert batched.shape == (2, 3, 3)
    for scale, found in zip(scales, batched):
        np.testing.assert_allclose(found, kernel(scale), rtol=1e-5)
    flat = images.reshape(3, 4)
    np.testing.assert_allclose(batched[0], flat @ flat.T / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("x1", "x2", "message"),
    [
        (np.full((2, 4), np.nan), None, r"x1 must be finite, got nan at index \(0, 0\)"),
        (np.ones((0, 4)), None, "x1 must hold one input or more along axis 0"),
        (X1, np.ones((2, 5)), r"x2 must hold inputs of shape \(4,\) as x1 does, got \(5,\)"),
    ],
)
def test_mistakes_in_inputs(x1, x2, message):
    weights = {"w": jnp.ones(4)}
    with pytest.raises(ValueError, match=message):
        gradients.empirical_ntk(weights, x1, x2, apply=lambda p, x: p["w"] @ x)


def test_models_without_parameters_or_with_whole_numbers():
    with pytest.raises(ValueError, match="model must hold floating-point arrays"):
        gradients.empirical_ntk(jnp.tanh, X1)
    with pytest.raises(ValueError, match="model must return real numbers, got int32"):
        gradients.empirical_ntk({"w": jnp.ones(4)}, X1, apply=lambda p, x: jnp.argmax(p["w"] * x))


def test_complex_parameters_are_their_real_and_imaginary_parts():
    z = jnp.asarray([1 + 2j, -0.3 + 0.5j])
    x = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    apply = lambda z, x: jnp.abs(jnp.sum(z * x.astype(z.dtype))) ** 2  # noqa: E731
    split = lambda p, x: apply(jax.lax.complex(p["re"], p["im"]), x)  # noqa: E731
    expected = gradients.empirical_ntk({"re": z.real, "im": z.imag}, x, apply=split, trace=True)
    found = gradients.empirical_ntk(z, x, apply=apply, trace=True)
    np.testing.assert_allclose(found.real, expected, rtol=1e-5)
