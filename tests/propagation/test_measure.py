"""Measured propagation against the materialised network and `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop.activations import Activation, leaky_relu
from sigprop.architecture import Architecture
from sigprop.networks import MLP, initialisers
from sigprop.propagation import cell_key, measure, seed_key

KEY = jax.random.key(42)
WIDTH, FEATURES = 16, 12
TOLERANCE = 2e-5  # float32, some dozens of layers and sums
ACTIVATIONS = [
    "tanh",
    "relu",
    "gelu",
    "selu",
    "linear",
    leaky_relu(0.3),
    Activation(jnp.cos, name="cos"),
]


def _architecture(**change):
    given = {"depth": 6, "width": WIDTH, "activation": "tanh", "weight_var": 1.7, "bias_var": 0.1}
    return Architecture(**(given | change))


def _inputs(count=2, seed=0, scale=1.0):
    normal = np.random.default_rng(seed).standard_normal((count, FEATURES))
    return (scale * normal).astype(np.float32)


def _log_norms(stack):
    flat = [np.ravel(np.asarray(each, np.float64)) for each in stack]
    return np.log([each @ each for each in flat])


def _expected(network, x, cotangents):
    """Every reading of a network by materialising it and differentiating with `jax.grad`."""
    z = np.asarray(network.preactivations(x), np.float64)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    first, second = unit[:, 0], unit[:, 1] if len(x) > 1 else np.nan
    loss = lambda network: jnp.sum(cotangents * network(x))  # noqa: E731
    gradient = jax.grad(loss)(network)
    norms = lambda name: np.concatenate(  # noqa: E731
        [
            _log_norms(getattr(gradient.first, name)[...][None]),
            _log_norms(getattr(gradient.hidden, name)[...]),
        ]
    )
    return {
        "variance": (z**2).mean((1, 2)),
        "log_variance": np.log((z**2).mean(2)).mean(1),
        "correlation": (first * second).sum(-1),
        "one_minus_correlation": ((first - second) ** 2).sum(-1) / 2,
        "log_gradient_w": norms("weight"),
        "log_gradient_b": norms("bias"),
        "log_gradient_z": _log_gradient_z(network, x, cotangents),
    }


def _log_gradient_z(network, x, cotangents):
    """Differentiate the last layer with respect to a perturbation added at every layer."""
    weights, biases = network.hidden.effective()

    def last(shift):
        z = network.first(x) + shift[0]
        for layer in range(len(weights)):
            z = network.activation(z) @ weights[layer].T + biases[layer] + shift[layer + 1]
        return jnp.sum(cotangents * z)

    gradient = jax.grad(last)(jnp.zeros((network.depth, len(x), network.width)))
    return np.log(np.sum(np.square(np.asarray(gradient, np.float64)), -1)).mean(1)


def _assert_measured(measured, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(measured, name), value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
        )


@pytest.mark.every_run("tanh", "relu", "gelu", "cos")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: getattr(a, "name", str(a)))
def test_every_reading_is_that_of_the_materialised_network(activation):
    architecture, x = _architecture(activation=activation), _inputs()
    network = MLP(architecture, FEATURES, rngs=seed_key(KEY, 0))
    cotangents = initialisers.cotangent(seed_key(KEY, 0), 2, WIDTH)
    expected = _expected(network, x, cotangents)
    _assert_measured(measure(architecture, x, key=KEY, seeds=1), expected)
    _assert_measured(measure(network, x, key=KEY, seeds=1), expected)


CASES = {
    "without bias": {"activation": "relu", "bias_var": 0.0},
    "without weights": {"activation": "relu", "weight_var": 1e-12},
    "one layer": {"depth": 1},
    "two layers": {"depth": 2},
    "orthogonal": {"initialiser": "orthogonal"},
    "truncated": {"initialiser": "truncated_normal", "activation": "relu"},
    "a recipe": {"initialiser": "xavier_uniform", "weight_var": None},
    "ntk": {"parameterisation": "ntk"},
}


@pytest.mark.parametrize("change", CASES.values(), ids=CASES)
def test_every_reading_in_special_networks(change):
    architecture, x = _architecture(**change), _inputs()
    as_it_acts = _architecture(**(change | {"parameterisation": "standard"}))
    network = MLP(as_it_acts, FEATURES, rngs=seed_key(KEY, 0))
    expected = _expected(network, x, initialisers.cotangent(seed_key(KEY, 0), 2, WIDTH))
    _assert_measured(measure(architecture, x, key=KEY, seeds=1), expected)
    itself = MLP(architecture, FEATURES, rngs=seed_key(KEY, 0))
    _assert_measured(measure(itself, x, key=KEY, seeds=1), expected)


@pytest.mark.parametrize(
    ("activation", "count"), [("tanh", 1), ("relu", 1), ("relu", 3), ("tanh", 7), ("relu", 150)]
)
def test_any_number_of_inputs(activation, count):
    architecture, x = _architecture(activation=activation), _inputs(count)
    network = MLP(architecture, FEATURES, rngs=seed_key(KEY, 0))
    cotangents = initialisers.cotangent(seed_key(KEY, 0), count, WIDTH)
    measured = measure(architecture, x, key=KEY, seeds=1)
    _assert_measured(measured, _expected(network, x, cotangents))
    assert np.isnan(measured.correlation).all() == (count == 1)


def test_a_trained_network_is_measured_as_it_stands():
    network, x = MLP(_architecture(), FEATURES, rngs=KEY), _inputs()
    shifted = jax.tree.map(lambda p: 0.7 * p + 0.01, network)
    cotangents = initialisers.cotangent(seed_key(KEY, 0), 2, WIDTH)
    _assert_measured(measure(shifted, x, key=KEY, seeds=1), _expected(shifted, x, cotangents))


def test_seeds_are_networks_and_errors_are_theirs():
    architecture, seeds = _architecture(), 5
    x = np.stack([_inputs(seed=s) for s in range(seeds)])
    measured = measure(architecture, x, key=KEY, seeds=seeds)
    alone = []
    for seed in range(seeds):
        network = MLP(architecture, FEATURES, rngs=seed_key(KEY, seed))
        cotangents = initialisers.cotangent(seed_key(KEY, seed), 2, WIDTH)
        alone.append(_expected(network, x[seed], cotangents))
    for name in alone[0]:
        values = np.stack([one[name] for one in alone])
        np.testing.assert_allclose(getattr(measured, name), values.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            getattr(measured, f"{name}_stderr"), values.std(0, ddof=1) / seeds**0.5,
            rtol=1e-3, atol=1e-5,
        )  # fmt: skip
    rates = np.asarray([(o["log_gradient_z"][0] - o["log_gradient_z"][-1]) / 5 for o in alone])
    assert measured.gradient_rate == pytest.approx(rates.mean(), rel=1e-4, abs=1e-6)
    assert measured.gradient_rate_stderr == pytest.approx(rates.std(ddof=1) / 5**0.5, rel=1e-3)


def test_log_gradient_variance_is_that_of_one_input():
    """Two copies of one input share everything but the cotangent: averaging must not shrink it."""
    x = np.repeat(_inputs(1), 2, axis=0)
    both = measure(_architecture(), x, key=KEY, seeds=40)
    averaged = 40 * (5 * both.gradient_rate_stderr) ** 2
    assert both.log_gradient_variance > averaged


def test_a_grid_is_its_cells():
    weight_var, bias_var = np.asarray([[0.5], [2.0]]), np.asarray([0.0, 0.1, 1.0])
    grid = measure(
        _architecture(weight_var=weight_var, bias_var=bias_var), _inputs(), key=KEY, seeds=1
    )
    assert grid.variance.shape == (2, 3, 6)
    assert grid.gradient_rate.shape == grid.diverged_at_layer.shape == (2, 3)
    cell = measure(_architecture(weight_var=2.0, bias_var=0.1), _inputs(), key=KEY, seeds=1)
    for name, value in vars(cell).items():
        np.testing.assert_array_equal(getattr(grid, name)[1, 1], value, err_msg=name)


def test_independent_draws_are_those_of_the_cells_own_key():
    weight_var = np.asarray([0.5, 1.5], np.float32)
    grid = measure(
        _architecture(weight_var=weight_var), _inputs(), key=KEY, draws="independent", seeds=2
    )
    alone = []
    for seed in range(2):
        own = cell_key(seed_key(KEY, seed), weight_var[1], 0.1)
        network = MLP(_architecture(weight_var=1.5), FEATURES, rngs=own)
        alone.append(_expected(network, _inputs(), initialisers.cotangent(own, 2, WIDTH)))
    for name in alone[0]:
        expected = np.mean([one[name] for one in alone], axis=0)
        np.testing.assert_allclose(getattr(grid, name)[1], expected, rtol=1e-4, atol=1e-5)


def test_without_seeds_there_are_errors_all_the_same():
    measured = measure(Architecture(3, 16, "tanh", 1.5, 0.1), _inputs(), key=KEY)
    assert (measured.variance_stderr > 0).all()
    eight = measure(Architecture(3, 16, "tanh", 1.5, 0.1), _inputs(), key=KEY, seeds=8)
    np.testing.assert_array_equal(measured.variance, eight.variance)
