"""What users bring: modules straight from Flax, odd shapes, many inputs, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from sigprop import jacobian
from sigprop.architecture import Architecture
from sigprop.networks import MLP

X = jnp.linspace(-1.0, 1.0, 6)


def _by_jax(fn, x):
    return np.linalg.svd(np.asarray(jax.jacrev(fn)(x)).reshape(-1, x.size), compute_uv=False)


def test_a_list_of_nnx_modules_and_functions_as_it_is():
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(6, 9, rngs=rngs), jax.nn.relu, nnx.LayerNorm(9, rngs=rngs)]
    layers += [nnx.Linear(9, 4, rngs=rngs)]
    last = jacobian.spectra(layers, X, span="cumulative")[-1]
    whole = nnx.Sequential(*layers)
    np.testing.assert_allclose(last, _by_jax(whole, X), atol=1e-5)
    np.testing.assert_allclose(jacobian.singular_values(whole, X), last, atol=1e-5)
    remaining = jacobian.spectra(layers, X, span="remaining")
    np.testing.assert_allclose(remaining[0], last, atol=1e-5)
    norms = jacobian.log_partial_norms(layers, X)
    np.testing.assert_allclose(norms[0, -1], np.log(np.sum(np.square(last)) / 4), atol=1e-5)


def test_an_nnx_list_of_modules():
    model = nnx.List([nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(3)])
    spectra = jacobian.spectra(model, X)
    assert spectra.shape == (3, 6)
    np.testing.assert_allclose(spectra[0], _by_jax(model[0], X), atol=1e-5)


def test_linen_modules():
    module = linen.Dense(4)
    variables = module.init(jax.random.key(0), X)
    fn = lambda x: jnp.tanh(module.apply(variables, x))  # noqa: E731
    np.testing.assert_allclose(jacobian.singular_values(fn, X), _by_jax(fn, X), atol=1e-6)
    np.testing.assert_allclose(jacobian.singular_values(module.bind(variables), X), np.linalg.svd(
        np.asarray(variables["params"]["kernel"]), compute_uv=False), atol=1e-6)  # fmt: skip


def test_images_through_convolutions():
    model = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    image = jnp.linspace(-1.0, 1.0, 50).reshape(5, 5, 2)
    expected = _by_jax(model, image)
    np.testing.assert_allclose(jacobian.singular_values(model, image), expected, atol=1e-5)
    flat = jacobian.spectra([model, lambda x: jnp.tanh(x).reshape(-1)], image)
    assert [len(row) for row in flat] == [50, 50]


@pytest.mark.parametrize("layered", ["mlp", "scanned", "list"])
def test_vmap_over_inputs_of_every_kind_of_layers(layered):
    weights = jax.random.normal(jax.random.key(1), (4, 6, 6))
    things = {
        "mlp": lambda: MLP(Architecture(4, 6, "relu", 2.0, 0.1), 6, rngs=jax.random.key(0)),
        "scanned": lambda: jacobian.Scanned(lambda x, w: jnp.sin(w @ x), weights),
        "list": lambda: [lambda x, w=w: jnp.sin(w @ x) for w in weights],
    }
    thing = things[layered]()
    inputs = jnp.stack([X, -X, 2 * X])
    batch = jax.vmap(lambda x: jacobian.spectra(thing, x))(inputs)
    for row, x in zip(batch, inputs):
        np.testing.assert_allclose(row, jacobian.spectra(thing, x), atol=1e-5)
    norms = jax.vmap(lambda x: jacobian.log_partial_norms(thing, x))(inputs)
    np.testing.assert_allclose(norms[1], jacobian.log_partial_norms(thing, -X), atol=1e-4)


def test_numpy_float64_inputs_are_taken_at_the_ambient_precision():
    values = jacobian.singular_values(lambda x: 3 * x, np.ones(4))
    np.testing.assert_allclose(values, 3.0)
    assert jacobian.spectra([jnp.tanh], np.zeros(3)).shape == (1, 3)


def test_float64_spectra(float64):
    weights = np.random.default_rng(0).standard_normal((3, 5, 5))
    layers = [lambda x, w=w: jnp.asarray(w) @ x for w in weights]
    last = jacobian.spectra(layers, np.ones(5))[-1]
    expected = np.linalg.svd(weights[2] @ weights[1] @ weights[0], compute_uv=False)
    np.testing.assert_allclose(last, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_chunks_of_any_budget_agree(shape):
    matrix = jax.random.normal(jax.random.key(0), shape)
    fn = lambda x: jnp.tanh(matrix @ x)  # noqa: E731
    x = jnp.ones(shape[1])
    whole = jacobian.jacobian_matrix(fn, x)
    for budget in (2 * matrix.size * 4, 3 * matrix.size * 4, 2**24):
        np.testing.assert_allclose(
            jacobian.jacobian_matrix(fn, x, memory_budget=budget), whole, atol=1e-6
        )


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("ask", ["extremes", "density", "moments"])
def test_matrix_free_tools_refuse_what_has_no_derivative(ask, which, as_users_call):
    key = jax.random.key(0)
    calls = {
        "extremes": lambda fn, x: jacobian.extreme_singular_values(fn, x, 1, which, key=key),
        "density": lambda fn, x: jacobian.spectral_density(fn, x, key=key),
        "moments": lambda fn, x: jacobian.moments(fn, x, key=key),
    }
    with pytest.raises(ValueError, match="what fn returns must hold floating-point numbers"):
        calls[ask](jnp.argsort, X)
    with pytest.raises(ValueError, match="x must hold floating-point numbers"):
        calls[ask](lambda x: x * 1.0, jnp.arange(3))


def test_the_first_layer_with_nan_is_named():
    layers = [jnp.tanh, lambda x: x * 2, lambda x: jnp.sqrt(x - x), jnp.cos]
    with pytest.raises(ValueError, match=r"Jacobian of layer 3 \(the first is 1\)"):
        jacobian.spectra(layers, X)
    logs = jacobian.log_spectra(layers, X)
    assert np.isfinite(logs[:2]).all()
    assert np.isnan(logs[2:]).all()
