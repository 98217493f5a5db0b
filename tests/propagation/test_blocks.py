"""Measured propagation of every block against the materialised network and `jax.grad`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.kinds import sharing_masks
from sigprop.networks import MLP, initialisers
from sigprop.propagation import MeasurementStatus, cell_key, measure, seed_key
from tests.networks.blocks import BLOCKS, EVERY_RUN

KEY = jax.random.key(42)
OWN = seed_key(KEY, 0)
WIDTH, FEATURES, INPUTS = 16, 12, 5
TOLERANCE = 2e-5  # float32, some dozens of layers and sums
X = np.random.default_rng(0).standard_normal((INPUTS, FEATURES)).astype(np.float32)


def _architecture(**change):
    given = {"depth": 6, "width": WIDTH, "activation": "tanh", "weight_var": 1.7, "bias_var": 0.1}
    alpha = {"branch_scale": 0.6} if change.get("block") == "residual" else {}
    return Architecture(**(given | alpha | change))


def _forward(network, key, masks, first, hidden, shift):
    """z^depth of X, from W and b as they act and with something added to every z^l."""
    kind, numbers = network.hidden.kind, network.values()
    kind = sharing_masks(kind) if masks == "shared" else kind

    def layer(z, own):
        (weight, bias), trained, shift, number = own
        mix = {"weight": lambda x: x @ weight.T, "bias": lambda x: x * bias}
        own_key = initialisers.mask_key(key, number)
        new = kind.apply(mix, trained, z[:, None], numbers=numbers, key=own_key)
        return new[:, 0] + shift, None

    z = X @ first[0].T + first[1] + shift[0]
    layers = (hidden, network.hidden.trained(), shift[1:], jnp.arange(1, network.depth))
    return jax.lax.scan(layer, z, layers)[0]


def _log_norms(gradients):
    flat = [np.ravel(np.asarray(each, np.float64)) for each in gradients]
    return np.log([each @ each for each in flat])


@functools.partial(jax.jit, static_argnames="masks")
def _gradients(network, key, masks, cotangents):
    shift = jnp.zeros((network.depth, len(X), WIDTH))
    z = functools.partial(_forward, network, key, masks)
    first, hidden, of_z = jax.grad(lambda *given: jnp.sum(cotangents * z(*given)), (0, 1, 2))(
        network.first.effective(), network.hidden.effective(), shift
    )
    return [first[0], *hidden[0]], [first[1], *hidden[1]], of_z


def _expected(network, key=OWN, masks="independent"):
    """Every reading of a network by materialising it and differentiating with `jax.grad`."""
    z = np.asarray(network.preactivations(X, key=key, masks=masks), np.float64)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    cotangents = initialisers.cotangent(key, INPUTS, WIDTH)
    of_weight, of_bias, of_z = _gradients(network, key, masks, cotangents)
    log_weight, log_bias = _log_norms(of_weight), _log_norms(of_bias)
    # A bias that the next batch norm takes out again: rounding is left of it.
    log_bias[log_bias < log_weight - 20] = -np.inf
    return {
        "variance": (z**2).mean((1, 2)),
        "log_variance": np.log((z**2).mean(2)).mean(1),
        "correlation": (unit[:, 0] * unit[:, 1]).sum(-1),
        "one_minus_correlation": ((unit[:, 0] - unit[:, 1]) ** 2).sum(-1) / 2,
        "log_gradient_w": log_weight,
        "log_gradient_b": log_bias,
        "log_gradient_z": np.log(np.sum(np.square(np.asarray(of_z, np.float64)), -1)).mean(1),
    }


def _assert_measured(measured, expected, tolerance=TOLERANCE):
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(measured, name), value, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.every_run(*EVERY_RUN)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_reading_is_that_of_the_materialised_network(name):
    """With a mask or without, a homogeneous activation or not, in turn over the blocks."""
    number = list(BLOCKS).index(name)
    change = {"activation": ("tanh", "relu")[number % 2], "dropout": (0.3, 0.0)[number // 2 % 2]}
    architecture = _architecture(**BLOCKS[name], **change)
    network = MLP(architecture, FEATURES, rngs=OWN)
    measured = measure(architecture, X, key=KEY, seeds=1)
    _assert_measured(measured, _expected(network))
    assert measured.status == MeasurementStatus.OK


CASES = {
    "residual relu and dropout": {"block": "residual", "activation": "relu", "dropout": 0.2},
    "residual gelu": {"block": "residual", "activation": "gelu"},
    "residual without bias": {"block": "residual", "activation": "relu", "bias_var": 0.0},
    "no branch": {"block": "residual", "branch_scale": 1e-9},
    "one layer": {"block": "residual", "norm": "batch_norm", "depth": 1},
    "two layers": {"norm": "post_layer_norm", "depth": 2},
    "ntk": {"norm": "weight_norm", "parameterisation": "ntk"},
    "orthogonal": {"norm": "batch_norm", "initialiser": "orthogonal", "activation": "gelu"},
    "any function": {"norm": "layer_norm", "activation": Activation(jnp.cos, name="cos")},
}


@pytest.mark.parametrize("change", CASES.values(), ids=CASES)
def test_every_reading_in_special_networks(change):
    architecture = _architecture(**change)
    _assert_measured(
        measure(architecture, X, key=KEY, seeds=1), _expected(MLP(architecture, FEATURES, rngs=OWN))
    )


def test_shared_masks():
    architecture = _architecture(dropout=0.4)
    network = MLP(architecture, FEATURES, rngs=OWN)
    expected = _expected(network, masks="shared")
    _assert_measured(measure(architecture, X, key=KEY, seeds=1, dropout_masks="shared"), expected)
    same = measure(architecture, X[[0, 0]], key=KEY, seeds=1, dropout_masks="shared")
    np.testing.assert_allclose(same.correlation, 1.0, atol=1e-6)
    apart = measure(architecture, X[[0, 0]], key=KEY, seeds=1)
    assert apart.correlation[-1] < 0.9


def test_a_network_is_measured_with_its_branch_scale_and_the_masks_of_the_key():
    block = {"block": "residual", "dropout": 0.3, "norm": "weight_norm", "activation": "relu"}
    network = MLP(_architecture(**block), FEATURES, rngs=jax.random.key(1))
    _assert_measured(measure(network, X, key=KEY, seeds=1), _expected(network))


def _trained(norm):
    """A network whose norms have been trained, γ and β no longer 1 and 0."""
    network = MLP(_architecture(norm=norm, activation="relu"), FEATURES, rngs=OWN)
    shift = np.random.default_rng(1).standard_normal(network.hidden.shift[...].shape)
    network.hidden.shift = nnx.Param(jnp.asarray(0.3 * shift, jnp.float32))
    network.hidden.scale = nnx.Param(jnp.asarray(1 + 0.5 * shift[::-1], jnp.float32))
    return network


@pytest.mark.parametrize("norm", ["rms_norm", "batch_norm", "post_layer_norm"])
def test_trained_norms_are_measured_as_they_stand(norm):
    network = _trained(norm)
    _assert_measured(measure(network, X, key=KEY, seeds=1), _expected(network))


def test_held_statistics_are_measured_as_they_stand():
    network = _trained("batch_norm")
    held = network.holding(network.statistics(2 * X[:4]))
    measured = measure(held, X, key=KEY, seeds=1)
    _assert_measured(measured, _expected(held))
    assert measure(held, X[:2], key=KEY, seeds=1).status == MeasurementStatus.OK


GRIDS = {
    "dropout": {"dropout": [0.0, 0.2, 0.5], "activation": "relu"},
    "branch scale": {"branch_scale": [0.0, 0.3, 1.0], "block": "residual"},
    "batch norm": {"weight_var": [0.5, 1.0, 4.0], "norm": "batch_norm"},
}


@pytest.mark.parametrize("change", GRIDS.values(), ids=GRIDS)
def test_a_grid_is_its_cells(change):
    (name, values), *rest = change.items()
    grid = measure(_architecture(**change), X, key=KEY, seeds=1)
    for index, value in enumerate(values):
        cell = measure(_architecture(**{name: value}, **dict(rest)), X, key=KEY, seeds=1)
        for reading in ("log_variance", "correlation", "log_gradient_z", "log_gradient_w"):
            np.testing.assert_allclose(
                getattr(grid, reading)[index], getattr(cell, reading), rtol=1e-4, atol=1e-4
            )


def test_independent_draws_of_a_block_are_those_of_all_its_numbers():
    architecture = _architecture(block="residual", dropout=[0.2, 0.4])
    measured = measure(architecture, X, key=KEY, seeds=1, draws="independent")
    own = cell_key(OWN, 1.7, 0.1, 0.4, 0.6)
    network = MLP(_architecture(block="residual", dropout=0.4), FEATURES, rngs=own)
    expected = _expected(network, own)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(measured, name)[1], value, rtol=1e-4, atol=1e-4)


@pytest.mark.every_run("residual-layer_norm", "plain-batch_norm")
@pytest.mark.parametrize("name", ["residual-layer_norm", "plain-post_rms_norm", "plain-batch_norm"])
def test_a_small_memory_budget_changes_the_way_and_not_the_result(name):
    # Batch norm parts inputs fast: what rounding changes would grow a thousandfold over 38 layers.
    depth = 20 if name == "plain-batch_norm" else 38
    architecture = _architecture(depth=depth, dropout=0.1, **BLOCKS[name])
    stored, segmented = (
        measure(architecture, X, key=KEY, seeds=1, memory_budget=b) for b in (2**28, 0)
    )
    for reading, value in vars(segmented).items():
        np.testing.assert_allclose(value, getattr(stored, reading), rtol=1e-4, atol=2e-4)


# ------------------------------------------------------------------------- extremes


def test_the_size_of_an_input_is_nothing_to_a_norm_and_its_gradient_is_one_over_it():
    architecture = _architecture(norm="layer_norm", bias_var=0.0)
    plain, small, large = (
        measure(architecture, s * X, key=KEY, seeds=1) for s in (1.0, 1e-25, 1e15)
    )
    for scaled, log_scale in ((small, np.log(1e-25)), (large, np.log(1e15))):
        np.testing.assert_allclose(scaled.variance[1:], plain.variance[1:], rtol=1e-5)
        shift = np.where(np.arange(6) == 0, -2 * log_scale, 0.0)
        np.testing.assert_allclose(
            scaled.log_gradient_z, plain.log_gradient_z + shift, rtol=1e-5, atol=1e-4
        )
        np.testing.assert_allclose(scaled.log_gradient_w, plain.log_gradient_w, atol=1e-4)


def test_residual_relu_leaves_floating_point_and_keeps_its_logs():
    """Without bias z^{l+1} is homogeneous in z^l: what scales the input scales every layer."""
    change = {"block": "residual", "activation": "relu", "bias_var": 0.0, "depth": 2000}
    architecture = _architecture(branch_scale=1.0, **change)
    measured, scaled = (measure(architecture, s * X, key=KEY, seeds=1) for s in (1.0, 1e10))
    assert measured.log_variance[-1] > 800
    assert measured.diverged_at_layer == 0
    np.testing.assert_allclose(
        scaled.log_variance, measured.log_variance + 2 * np.log(1e10), rtol=1e-5
    )
    np.testing.assert_allclose(scaled.log_gradient_z, measured.log_gradient_z, rtol=1e-5)
    assert np.isfinite(measured.log_gradient_w).all()


def test_batch_norm_explodes_at_any_depth_without_overflow():
    measured = measure(
        _architecture(norm="batch_norm", activation="relu", depth=1500), X, key=KEY, seeds=1
    )
    assert measured.log_gradient_z[0] > 300
    for name in ("log_variance", "correlation", "log_gradient_z", "log_gradient_w"):
        assert np.isfinite(getattr(measured, name)).all()


def test_a_diverging_block_freezes_and_its_gradients_are_those_of_the_network_cut_before_it():
    change = {"block": "residual", "activation": "gelu", "weight_var": [1.0, 3e4]}
    whole = measure(_architecture(**change, depth=40), X, key=KEY, seeds=1)
    calm, wild = whole.diverged_at_layer
    assert (calm, 1 < wild < 40) == (0, True)
    cut = measure(_architecture(**change, depth=int(wild) - 1), X, key=KEY, seeds=1)
    for name in ("log_variance", "log_gradient_z", "log_gradient_w", "log_gradient_b"):
        readings = getattr(whole, name)[1]
        np.testing.assert_allclose(readings[: wild - 1], getattr(cut, name)[1], rtol=1e-4)
        assert not np.isfinite(readings[wild - 1 :]).any()


@pytest.mark.every_run("3-1", "4-0")
@pytest.mark.parametrize(("count", "status"), [(1, 1), (2, 1), (3, 1), (4, 0), (9, 0)])
def test_batch_norm_over_three_inputs_or_fewer_says_that_it_is_degenerate(count, status):
    inputs = np.random.default_rng(3).standard_normal((count, FEATURES))
    measured = measure(
        _architecture(norm="batch_norm", weight_var=[1.0, 2.0]), inputs, key=KEY, seeds=1
    )
    np.testing.assert_array_equal(measured.status, [status, status])
    assert np.isfinite(measured.variance).all()


def test_masks_are_checked():
    with pytest.raises(
        ValueError, match="dropout_masks must be one of 'independent', 'shared', got"
    ):
        measure(_architecture(), X, key=KEY, seeds=1, dropout_masks="none")
