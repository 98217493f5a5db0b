"""Spectra of layers and spans, against Jacobians by automatic differentiation of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from threadpoolctl import threadpool_info, threadpool_limits

from sigprop import activations, jacobian
from sigprop.architecture import Architecture
from sigprop.networks import MLP

DEPTH, WIDTH, INPUTS = 5, 12, 7
X = jnp.linspace(-1.0, 1.5, WIDTH)


def _mlp(in_features=WIDTH, depth=DEPTH, activation="tanh", **options):
    architecture = Architecture(
        depth=depth, width=WIDTH, activation=activation, weight_var=1.7, bias_var=0.1, **options
    )
    return MLP(architecture, in_features, rngs=jax.random.key(3))


def _modules():
    rngs = nnx.Rngs(0)
    return [nnx.Linear(WIDTH, 9, rngs=rngs), jnp.tanh, nnx.Linear(9, 10, rngs=rngs), jnp.tanh]


def _scanned():
    weights = jax.random.normal(jax.random.key(5), (DEPTH, WIDTH, WIDTH)) / WIDTH**0.5
    return jacobian.Scanned(lambda x, w: jnp.tanh(w @ x), weights)


def _dense_layers():
    keys = jax.random.split(jax.random.key(2), 3)
    sizes = [(8, WIDTH), (8, 8), (3, 8)]
    tanh = activations.get("tanh")
    return jacobian.Layers(
        jacobian.Dense(jax.random.normal(key, size), jnp.ones(size[0]), tanh)
        for key, size in zip(keys, sizes)
    )


def _steps(layered):
    """The functions a layered thing is the composition of."""
    if isinstance(layered, MLP):
        weights, biases = layered.hidden.effective()
        first = [layered.first.effective(), *zip(weights, biases)]
        return [lambda x, w=w, b=b: layered.activation(w @ x + b) for w, b in first]
    if isinstance(layered, jacobian.Scanned):
        return [layered.layer(w) for w in layered.stacked_params]
    return list(layered.layers) if isinstance(layered, jacobian.Layers) else layered


LAYERED = {
    "mlp": _mlp,
    "relu mlp": lambda: _mlp(activation="relu"),
    "ntk mlp": lambda: _mlp(parameterisation="ntk"),
    "one layer mlp": lambda: _mlp(depth=1),
    "modules": _modules,
    "scanned": _scanned,
    "dense layers": _dense_layers,
}


def _spans_by_hand(steps, x, span):
    inputs = [x]
    for step in steps:
        inputs.append(step(inputs[-1]))

    def through(first, last, x):
        for step in steps[first:last]:
            x = step(x)
        return x

    ends = {
        "layer": [(k, k + 1) for k in range(len(steps))],
        "cumulative": [(0, k + 1) for k in range(len(steps))],
        "remaining": [(k, len(steps)) for k in range(len(steps))],
    }[span]
    return [jax.jacrev(lambda x, e=e: through(*e, x))(inputs[e[0]]) for e in ends]


@pytest.mark.parametrize("span", ["layer", "cumulative", "remaining"])
@pytest.mark.parametrize("kind", LAYERED)
def test_spans_and_spectra_are_those_of_the_composition(kind, span):
    layered = LAYERED[kind]()
    expected = _spans_by_hand(_steps(layered), X, span)
    spans = jacobian.span_jacobians(layered, X, span)
    values = jacobian.spectra(layered, X, span)
    assert len(spans) == len(values) == len(expected)
    for given, spectrum, matrix in zip(spans, values, expected):
        np.testing.assert_allclose(given, matrix, atol=3e-6, rtol=1e-5)
        by_numpy = np.linalg.svd(np.asarray(matrix), compute_uv=False)
        np.testing.assert_allclose(spectrum, by_numpy, atol=1e-5 * by_numpy[0])


def test_first_layer_of_another_width():
    network, x = _mlp(INPUTS), jnp.linspace(0.0, 1.0, INPUTS)
    layers = jacobian.layer_jacobians(network, x)
    assert [layer.shape for layer in layers] == [(WIDTH, INPUTS)] + [(WIDTH, WIDTH)] * (DEPTH - 1)
    assert jacobian.spectra(network, x).shape == (DEPTH, INPUTS)
    remaining = jacobian.span_jacobians(network, x, "remaining")
    np.testing.assert_allclose(remaining[0], jax.jacrev(network.features)(x), atol=1e-5)


def test_hidden_layers_go_from_first_to_last_preactivation():
    network, x = _mlp(INPUTS), jnp.linspace(0.0, 1.0, INPUTS)
    z1, zL = network.preactivations(x)[0], network.preactivations(x)[-1]
    whole = jacobian.span_jacobians(jacobian.hidden_layers(network), z1, "cumulative")[-1]
    chain = whole @ jax.jacrev(network.first)(x)
    np.testing.assert_allclose(chain, jax.jacrev(lambda x: network(x))(x), atol=1e-5)
    assert jacobian.spectra(jacobian.hidden_layers(network), z1).shape == (DEPTH - 1, WIDTH)
    assert zL.shape == (WIDTH,)


def test_vmap_over_inputs_seeds_and_variances():
    def cell(key, weight_var, x):
        architecture = Architecture(3, WIDTH, "tanh", weight_var, 0.1)
        return jacobian.spectra(MLP(architecture, WIDTH, rngs=key), x)

    keys = jax.random.split(jax.random.key(0), 2)
    variances, inputs = jnp.array([0.5, 2.0, 3.0]), jnp.stack([X, -X])
    over_inputs = jax.vmap(cell, (None, None, 0))
    grid = jax.vmap(jax.vmap(over_inputs, (None, 0, None)), (0, None, None))
    values = grid(keys, variances, inputs)
    assert values.shape == (2, 3, 2, 3, WIDTH)
    np.testing.assert_allclose(values[1, 2, 0], cell(keys[1], variances[2], X), atol=1e-5)


def test_arrays_of_any_shape_are_raveled():
    x = jnp.arange(6.0).reshape(2, 3)
    layers = [lambda x: x.T * 2, lambda x: x.reshape(-1)[:4]]
    assert [j.shape for j in jacobian.layer_jacobians(layers, x)] == [(6, 6), (4, 6)]
    np.testing.assert_allclose(jacobian.spectra(layers, x)[1], 2.0)


@pytest.mark.parametrize("span", ["layer", "cumulative", "remaining"])
def test_log_spectra_are_logs_where_those_are_accurate(span):
    network = _mlp(activation="softplus")
    values = jacobian.spectra(network, X, span)
    logs = jacobian.log_spectra(network, X, span)
    resolved = values > 1e-3 * values[:, :1]
    np.testing.assert_allclose(logs[resolved], np.log(values)[resolved], atol=1e-3)
    every = jacobian.log_spectra(network, X, span, every=2)
    np.testing.assert_array_equal(every, logs[1::2])


def test_log_spectra_where_float32_cannot_go():
    """Depth 300 of weight variance 1e-3: smallest values far below any float."""
    architecture = Architecture(300, 6, "linear", 1e-3, 0.0)
    network = MLP(architecture, 6, rngs=jax.random.key(0))
    logs = jacobian.log_spectra(network, jnp.ones(6), every=100)
    layers = jacobian.layer_jacobians(network, jnp.ones(6))
    determinants = np.linalg.slogdet(np.asarray(layers, np.float64))[1].cumsum()
    np.testing.assert_allclose(logs.sum(axis=1), determinants[99::100], rtol=1e-10)
    assert logs[-1, -1] < -1000


@pytest.mark.parametrize("kind", ["mlp", "modules"])
def test_partial_norms_are_those_of_the_partial_jacobians(kind):
    layered = LAYERED[kind]()
    steps = _steps(layered)
    norms = np.asarray(jacobian.log_partial_norms(layered, X))
    x = X
    for start in range(len(steps) + 1):
        spans = _spans_by_hand(steps[start:], x, "cumulative") if start < len(steps) else []
        expected = [0.0, *(np.log(np.sum(np.square(s)) / len(s)) for s in spans)]
        np.testing.assert_allclose(norms[start, start:], expected, atol=1e-4)
        assert np.isnan(norms[start, :start]).all()
        x = steps[start](x) if start < len(steps) else x


def test_partial_norms_at_a_depth_where_products_vanish():
    layers = jacobian.Scanned(lambda x, a: a * x, jnp.full(500, 0.01))
    norms = jacobian.log_partial_norms(layers, jnp.ones(3))
    np.testing.assert_allclose(norms[0, -1], 500 * np.log(1e-4), rtol=1e-5)


def test_partial_norms_in_blocks(monkeypatch):
    from sigprop.jacobian import partial_norms

    whole = jacobian.log_partial_norms(_mlp(), X)
    monkeypatch.setattr(partial_norms, "_BLOCK_BYTES", 2 * WIDTH * WIDTH * 4)
    np.testing.assert_allclose(jacobian.log_partial_norms(_mlp(), X), whole, atol=1e-6)


def test_blas_threads_are_put_back():
    def blas_threads():
        return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with jacobian.one_blas_thread():
            assert set(blas_threads()) == {1}
        jacobian.spectra(_mlp(), X)
        jacobian.log_product(np.eye(3)[None])
        with pytest.raises(RuntimeError), jacobian.one_blas_thread():
            raise RuntimeError
        assert blas_threads() == before == [2] * len(before)


@pytest.mark.parametrize(
    ("layered", "x", "message"),
    [
        ([], X, "at least one function"),
        (jnp.tanh, X, "for one function: singular_values"),
        ([jnp.tanh, lambda x: jnp.ones((3, 4)) @ x], X, r"layers\[1\] does not take .* \(12,\)"),
        ([lambda x: x.astype(jnp.int32)], X, "must return one array of floating-point"),
        ([jnp.tanh], jnp.arange(3), "x must be an array of floating-point numbers, got dtype int"),
        ([jnp.tanh, lambda x: jnp.sqrt(x - x), jnp.sin], X, "Jacobian of layer 2 "),
        ([lambda x: 1e30 * x] * 3, X, "leaves the range of float32.*log_spectra"),
        (jacobian.Scanned(lambda x, p: x[:2], jnp.ones(3)), X, "step must return an array like"),
        (
            jacobian.Scanned(lambda x, p: x, (jnp.ones(3), jnp.ones(2))),
            X,
            "one leading axis of layers",
        ),
    ],
)
def test_bad_input(layered, x, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        jacobian.spectra(layered, x)


def test_unknown_span(as_users_call):
    with pytest.raises(ValueError, match="span must be one of 'layer', 'cumulative', 'remaining'"):
        jacobian.spectra([jnp.tanh], X, "all")
