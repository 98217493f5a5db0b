"""Jacobians of networks of blocks, against automatic differentiation of the whole network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import jacobian
from sigprop.networks import MLP
from tests.networks.blocks import BLOCKS, EVERY_RUN, architecture

KEY = jax.random.key(3)
X = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def _network(block):
    """Acting on one input: batch norm with the statistics of a batch."""
    network = MLP(architecture(**block), 7, rngs=KEY)
    held = block["norm"] == "batch_norm"
    return network.holding(network.statistics(X)) if held else network


@pytest.mark.every_run(*EVERY_RUN)
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_all_layers_together_are_the_jacobian_of_the_features(block):
    network = _network(block)
    whole, through = jax.jit(
        jax.jacrev(lambda x: (network.features(x), network.preactivations(x)))
    )(X[0])
    layers = jacobian.layer_jacobians(network, X[0])
    assert [layer.shape for layer in layers] == [(12, 7)] + [(12, 12)] * 4
    np.testing.assert_allclose(np.linalg.multi_dot(list(layers)[::-1]), whole, **CLOSE)

    z1 = network.first(X[0])
    hidden = jacobian.layer_jacobians(jacobian.hidden_layers(network), z1)
    assert hidden.shape == (4, 12, 12)
    chain = np.asarray(through[0])
    for layer, expected in zip(hidden, through[1:]):
        chain = layer @ chain
        np.testing.assert_allclose(chain, expected, **CLOSE)


def test_spans_and_spectra_of_a_block():
    network = _network(BLOCKS["residual-layer_norm"])
    whole = jax.jacrev(network.features)(X[0])
    spectrum = jacobian.spectra(network, X[0])[-1]
    np.testing.assert_allclose(spectrum, np.linalg.svd(whole, compute_uv=False), **CLOSE)
    remaining = jacobian.span_jacobians(network, X[0], "remaining")[0]
    np.testing.assert_allclose(remaining, whole, **CLOSE)


@pytest.mark.parametrize("block", ["plain", "residual"])
def test_through_batch_statistics_the_whole_batch_is_meant(block):
    network = MLP(architecture(norm="batch_norm", block=block, depth=3, width=5), 7, rngs=KEY)
    layers = jacobian.layer_jacobians(network, X)
    assert [layer.shape for layer in layers] == [(30, 42), (30, 30), (30, 30)]
    whole = jax.jacrev(network.features)(X).reshape(30, 42)
    np.testing.assert_allclose(np.linalg.multi_dot(list(layers)[::-1]), whole, **CLOSE)
    z = network.preactivations(X)
    hidden = jacobian.span_jacobians(jacobian.hidden_layers(network), z[0], "cumulative")[-1]
    first = jax.jacrev(network.first)(X).reshape(30, 42)
    expected = jax.jacrev(lambda x: network(x))(X).reshape(30, 42)
    np.testing.assert_allclose(hidden @ first, expected, **CLOSE)


@pytest.mark.parametrize("depth", [1, 2])
def test_shallow_blocks(depth):
    network = MLP(architecture(norm="layer_norm", block="residual", depth=depth), 12, rngs=KEY)
    x = jnp.linspace(-1.0, 2.0, 12)
    spans = jacobian.span_jacobians(network, x, "cumulative")
    assert spans.shape == (depth, 12, 12)
    np.testing.assert_allclose(spans[-1], jax.jacrev(network.features)(x), **CLOSE)


def test_deep_residual_spectra_keep_every_digit():
    """α = 0: every layer is the identity, which no product of W and a diagonal ever is."""
    still = architecture(block="residual", branch_scale=0.0, depth=400, activation="linear")
    network = MLP(still, 12, rngs=KEY)
    logs = jacobian.log_spectra(network, jnp.ones(12), every=400)
    first = jacobian.spectra(network, jnp.ones(12), "layer")[0]
    np.testing.assert_allclose(logs[-1], np.log(first), atol=1e-5)


AMBIGUOUS = {
    "layers": lambda network: jacobian.spectra(network, X[0]),
    "hidden layers": lambda network: jacobian.spectra(
        jacobian.hidden_layers(network), network.first(X[0])
    ),
    "any function": lambda network: jacobian.singular_values(network, X[0]),
}


@pytest.mark.parametrize("ask", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_one_input_through_batch_statistics_is_refused_with_both_ways_out(ask):
    network = MLP(architecture(norm="batch_norm"), 7, rngs=KEY)
    with pytest.raises(ValueError, match=r"x must be a batch.*network.holding\(network.stat"):
        ask(network)
