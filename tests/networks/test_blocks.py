"""Blocks: their equations, what is trained in them, dropout's masks, batch norm's statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop.networks import MLP, Statistics, initialisers
from tests.networks import blocks
from tests.networks.blocks import BLOCKS, EVERY_RUN, architecture

KEY, MASKS = jax.random.key(11), jax.random.key(12)
X = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
CLOSE = {"atol": 3e-5, "rtol": 3e-5}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_forward_is_the_documented_equation(block):
    network = MLP(architecture(**block), 7, 3, rngs=KEY)
    z, features = blocks.by_hand(
        architecture(**block), *blocks.parameters(network), X.astype(np.float64)
    )
    np.testing.assert_allclose(network.preactivations(X), np.stack(z), **CLOSE)
    np.testing.assert_allclose(network.features(X), features, **CLOSE)
    weight, bias = network.readout.effective()
    np.testing.assert_allclose(network(X), features @ np.asarray(weight).T + bias, atol=1e-4)


@pytest.mark.parametrize("masks", ["independent", "shared"])
@pytest.mark.parametrize("name", ["plain-None", "residual-layer_norm", "plain-batch_norm"])
def test_dropout_multiplies_activations_by_the_documented_masks(name, masks):
    dropped = architecture(dropout=0.3, **BLOCKS[name])
    network, rows = MLP(dropped, 7, rngs=KEY), len(X) if masks == "independent" else 1
    uniform = [np.asarray(initialisers.unit_mask(MASKS, layer, rows, 12)) for layer in range(1, 5)]
    kept = [(u < np.float32(0.7)) / 0.7 for u in uniform]
    z, features = blocks.by_hand(dropped, *blocks.parameters(network), X.astype(np.float64), kept)
    np.testing.assert_allclose(network.preactivations(X, key=MASKS, masks=masks), z, **CLOSE)
    np.testing.assert_allclose(network.features(X, key=MASKS, masks=masks), features, **CLOSE)


def test_without_a_key_nothing_is_dropped():
    with_dropout = MLP(architecture(dropout=0.5), 7, 3, rngs=KEY)
    np.testing.assert_array_equal(with_dropout(X), MLP(architecture(), 7, 3, rngs=KEY)(X))
    assert np.abs(with_dropout(X, key=MASKS) - with_dropout(X)).max() > 0.1
    by_rngs = with_dropout(X, key=nnx.Rngs(dropout=4))
    np.testing.assert_array_equal(by_rngs, with_dropout(X, key=nnx.Rngs(dropout=4).dropout()))


def test_masks_keep_the_stated_fraction_and_differ_between_inputs_layers_and_keys():
    draws = [initialisers.unit_mask(k, n, 2, 4000) for k in (KEY, MASKS) for n in (1, 2)]
    rows = np.concatenate(draws)
    standard_error = (0.3 * 0.7 / 4000) ** 0.5
    np.testing.assert_allclose((rows < 0.7).mean(1), 0.7, atol=4 * standard_error)
    correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    assert np.abs(correlations).max() < 5 / 4000**0.5


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_rows_of_normalised_weights_have_the_stated_norm_whatever_their_direction(
    block, parameterisation
):
    change = {"norm": "weight_norm", "block": block, "parameterisation": parameterisation}
    network = MLP(architecture(**change), 7, rngs=KEY)
    for affine in (network.first, network.hidden):
        affine.weight = nnx.Param(3 * affine.weight[...])
        norms = np.linalg.norm(affine.effective()[0], axis=-1)
        np.testing.assert_allclose(norms, 1.7**0.5, rtol=1e-6)
    gradient = jax.grad(lambda network: jnp.sum(jnp.sin(network(X))))(network)
    along = jnp.sum(gradient.hidden.weight[...] * network.hidden.weight[...], -1)
    np.testing.assert_allclose(along, 0.0, atol=1e-5)  # the length of V changes nothing
    assert jnp.abs(gradient.hidden.gain[...]).min() > 0


@pytest.mark.every_run(*EVERY_RUN)
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_parameterisations_are_one_function(block):
    standard, ntk = (
        MLP(architecture(parameterisation=p, **block), 7, 3, rngs=KEY) for p in ("standard", "ntk")
    )
    np.testing.assert_allclose(standard(X), ntk(X), atol=2e-5)


@pytest.mark.parametrize(("norm", "layers"), [("layer_norm", 5), ("post_rms_norm", 4)])
def test_norms_are_followed_by_a_trained_scale_and_shift(norm, layers):
    network = MLP(architecture(norm=norm), 7, 3, rngs=KEY)
    assert network.hidden.scale[...].shape == (4, 12)
    holders = ["hidden", "last"][: layers - 3]
    assert hasattr(network.last, "scale") == (len(holders) == 2)
    gradient = jax.grad(lambda network: jnp.sum(jnp.sin(network(X))))(network)
    for name in ("scale", "shift"):
        for holder in holders:
            assert jnp.abs(getattr(getattr(gradient, holder), name)[...]).max(-1).min() > 0
    before = network(X)
    for holder in holders:
        layer = getattr(network, holder)
        layer.scale[...] = 0 * layer.scale[...]
    constant = network(X)
    assert np.abs(before - constant).max() > 0.1
    np.testing.assert_allclose(constant, np.broadcast_to(constant[:1], constant.shape), atol=1e-6)


def test_all_four_numbers_may_be_traced():
    numbers = {"weight_var": 1.5, "bias_var": 0.2, "dropout": 0.4, "branch_scale": 0.3}

    def energy(numbers):
        block = architecture(block="residual", norm="rms_norm", **numbers)
        return jnp.sum(MLP(block, 7, rngs=KEY)(X, key=MASKS) ** 2)

    together = jax.jit(jax.vmap(energy))({k: jnp.asarray([v, v / 2]) for k, v in numbers.items()})
    for i, divisor in enumerate((1, 2)):
        alone = energy({k: v / divisor for k, v in numbers.items()})
        assert float(together[i]) == pytest.approx(float(alone), rel=1e-4)
    slopes = jax.grad(energy)(numbers)
    assert all(np.isfinite(v) and v != 0 for v in slopes.values())


def test_one_program_for_any_depth():
    def program(depth):
        block = architecture(depth=depth, width=3, block="residual", norm="batch_norm", dropout=0.1)
        network = MLP(block, 7, rngs=KEY)
        return jax.jit(lambda one: one(X, key=MASKS)).lower(network).as_text()

    assert len(program(400)) < len(program(4)) + 800  # longer numbers only


# ------------------------------------------------------------------------- batch statistics


@pytest.mark.parametrize("block", ["plain", "residual"])
def test_held_statistics_of_the_same_batch_change_nothing_and_free_the_inputs(block):
    network = MLP(architecture(norm="batch_norm", block=block), 7, 3, rngs=KEY)
    held = network.holding(network.statistics(X))
    np.testing.assert_allclose(held(X), network(X), atol=2e-5)
    np.testing.assert_allclose(held(X[2]), network(X)[2], atol=2e-5)
    np.testing.assert_allclose(jax.vmap(held)(X), held(X), atol=1e-5)
    assert np.abs(network(X[:4]) - network(X)[:4]).max() > 1e-3
    assert network.couples_inputs  # the original is as it was


def test_statistics_are_a_pytree_that_can_be_averaged_inside_jit():
    network = MLP(architecture(norm="batch_norm"), 7, rngs=KEY)

    @jax.jit
    def evaluate(network, batches, x):
        every = jax.lax.map(network.statistics, batches)
        return network.holding(jax.tree.map(lambda v: jnp.mean(v, 0), every))(x)

    batches = np.stack([X, X[::-1], X])
    np.testing.assert_allclose(evaluate(network, batches, X), network(X), atol=2e-5)


def test_held_statistics_are_not_trained_and_scale_and_shift_are():
    network = MLP(architecture(norm="batch_norm"), 7, rngs=KEY)
    held = network.holding(network.statistics(X))
    _, params, rest = nnx.split(held, nnx.Param, ...)
    for holder in ("hidden", "last"):
        assert {"scale", "shift"} <= set(params[holder])
        assert {"mean", "variance"} == set(rest[holder])


def test_a_unit_that_does_not_vary_is_left_at_its_shift():
    network = MLP(architecture(norm="batch_norm"), 7, rngs=KEY)
    same = np.repeat(X[:1], 4, axis=0)
    loss = lambda network: jnp.sum(network(same))  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(network)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


def _batch_norm():
    return MLP(architecture(norm="batch_norm"), 7, rngs=KEY)


BAD = {
    "one input through batch statistics": (
        lambda: _batch_norm()(X[0]),
        r"x must be a batch, .* got shape \(7,\); .* hold them fixed: network.holding",
    ),
    "holding without batch norm": (
        lambda: MLP(architecture(), 7, rngs=KEY).holding(_batch_norm().statistics(X)),
        "norm must be 'batch_norm' to hold statistics",
    ),
    "statistics of another network": (
        lambda: _batch_norm().holding(Statistics(jnp.ones((2, 12)), jnp.ones((2, 12)))),
        r"statistics must have mean and variance of shape \(5, 12\) .* got \(2, 12\)",
    ),
    "unknown masks": (
        lambda: _batch_norm()(X, masks="both"),
        "masks must be one of 'independent', 'shared', got 'both'",
    ),
    "a grid of dropout": (
        lambda: MLP(architecture(dropout=[0.1, 0.2]), 7, rngs=KEY),
        r"must have scalar .* dropout, .* got a grid of shape \(2,\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
