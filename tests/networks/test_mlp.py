"""The multilayer perceptron: its equations, its draws, and how it goes through JAX."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop.architecture import Architecture
from sigprop.networks import MLP, initialisers

KEY = jax.random.key(11)
DISTRIBUTIONS = initialisers.DISTRIBUTIONS


def _architecture(**change):
    given = {"depth": 5, "width": 12, "activation": "tanh", "weight_var": 1.7, "bias_var": 0.3}
    return Architecture(**(given | change))


def _by_hand(architecture, x, out_features=None):
    """z^1 .. z^depth (and the readout) from the documented draws, one plain product at a time."""
    width, found = architecture.width, []
    sizes = [x.shape[-1]] + [width] * architecture.depth
    sizes += [] if out_features is None else [out_features]
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        unit = initialisers.unit_weight(KEY, layer, architecture.distribution, fan_out, fan_in)
        weight = np.asarray(unit, np.float64) * (architecture.weight_var / fan_in) ** 0.5
        bias = np.asarray(initialisers.unit_bias(KEY, layer, fan_out), np.float64)
        x = found[-1] if found else x
        x = np.tanh(x) if found else x
        found.append(x @ weight.T + architecture.bias_var**0.5 * bias)
    return found


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
@pytest.mark.parametrize("initialiser", [*DISTRIBUTIONS, "he", "xavier_normal"])
def test_forward_is_the_documented_equation_on_the_documented_draws(initialiser, parameterisation):
    architecture = _architecture(initialiser=initialiser, parameterisation=parameterisation)
    network = MLP(architecture, 7, 3, rngs=KEY)
    x = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    *z, readout = _by_hand(architecture, x.astype(np.float64), 3)
    np.testing.assert_allclose(network.preactivations(x), np.stack(z), atol=2e-5)
    np.testing.assert_allclose(network.features(x), np.tanh(z[-1]), atol=2e-5)
    np.testing.assert_allclose(network(x), readout, atol=2e-5)
    bare = MLP(architecture, 7, rngs=KEY)
    np.testing.assert_allclose(bare(x), z[-1], atol=2e-5)


SIZES = [(1, 1, 1, ()), (1, 5, 3, (2,)), (2, 3, 5, (2, 3)), (4, 6, 6, (0,)), (3, 1, 4, ())]


@pytest.mark.parametrize(("depth", "width", "in_features", "batch"), SIZES)
def test_shapes(depth, width, in_features, batch):
    network = MLP(_architecture(depth=depth, width=width), in_features, rngs=KEY)
    x = jnp.ones((*batch, in_features))
    assert network(x).shape == network.features(x).shape == (*batch, width)
    assert network.preactivations(x).shape == (depth, *batch, width)


def test_rngs_and_keys_are_both_taken():
    architecture, x = _architecture(), jnp.ones(7)
    from_rngs = MLP(architecture, 7, rngs=nnx.Rngs(params=3))(x)
    np.testing.assert_array_equal(
        from_rngs, MLP(architecture, 7, rngs=nnx.Rngs(params=3).params())(x)
    )
    legacy = MLP(architecture, 7, rngs=jax.random.PRNGKey(3))(x)
    np.testing.assert_array_equal(legacy, MLP(architecture, 7, rngs=jax.random.key(3))(x))


def test_readout_has_its_own_variances():
    wide = _architecture(depth=1, width=4000)
    network = MLP(wide, 3, 50, rngs=KEY, readout_weight_var=9.0, readout_bias_var=0.0)
    weight, bias = network.readout.effective()
    assert float(jnp.var(weight) * 4000) == pytest.approx(9.0, rel=5 * (2 / weight.size) ** 0.5)
    assert not bias.any()


def test_params_are_weights_in_standard_and_unit_draws_in_ntk():
    unit = initialisers.unit_weight(KEY, 1, "gaussian", 12, 7)
    standard, ntk = (
        MLP(_architecture(parameterisation=p), 7, rngs=KEY) for p in ("standard", "ntk")
    )
    np.testing.assert_array_equal(ntk.first.weight[...], unit)
    np.testing.assert_allclose(standard.first.weight[...], unit * (1.7 / 7) ** 0.5, rtol=1e-6)


@pytest.mark.parametrize("out_features", [None, 2])
def test_parameterisations_are_one_function_with_rescaled_gradients(out_features):
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 7)), jnp.float32)
    gradients, outputs = [], []
    for parameterisation in ("standard", "ntk"):
        architecture = _architecture(parameterisation=parameterisation)
        graph, params, rest = nnx.split(
            MLP(architecture, 7, out_features, rngs=KEY), nnx.Param, ...
        )
        loss = lambda p: jnp.sum(jnp.sin(nnx.merge(graph, p, rest)(x)))  # noqa: B023, E731
        outputs.append(nnx.merge(graph, params, rest)(x))
        gradients.append(jax.grad(loss)(params))
    np.testing.assert_allclose(*outputs, atol=1e-5)
    standard, ntk = gradients
    scale = np.sqrt(1.7 / np.asarray([7, 12]))
    np.testing.assert_allclose(
        ntk.first.weight[...], scale[0] * standard.first.weight[...], atol=1e-4
    )
    np.testing.assert_allclose(
        ntk.hidden.weight[...], scale[1] * standard.hidden.weight[...], atol=1e-4
    )
    np.testing.assert_allclose(
        ntk.hidden.bias[...], 0.3**0.5 * standard.hidden.bias[...], atol=1e-4
    )


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_construction_maps_over_variances_and_keys(parameterisation):
    weight_vars, keys = jnp.asarray([0.5, 1.0, 2.0]), jax.random.split(KEY, 3)

    def network(weight_var, key):
        architecture = _architecture(weight_var=weight_var, parameterisation=parameterisation)
        return MLP(architecture, 7, rngs=key)

    networks = jax.jit(jax.vmap(network))(weight_vars, keys)
    x = jnp.ones((2, 7))
    together = jax.vmap(lambda one: one(x))(networks)
    for i, (weight_var, key) in enumerate(zip(weight_vars, keys)):
        alone = network(float(weight_var), key)(x)
        np.testing.assert_allclose(together[i], alone, atol=1e-5)


def test_outputs_differentiate_with_respect_to_variances():
    def energy(weight_var):
        architecture = _architecture(
            activation="linear", depth=3, weight_var=weight_var, bias_var=0.0
        )
        return jnp.sum(MLP(architecture, 7, rngs=KEY)(jnp.ones(7)) ** 2)

    # A linear network without bias is homogeneous of degree depth in the weight variance.
    value, slope = jax.value_and_grad(energy)(1.3)
    assert float(slope) == pytest.approx(3 * float(value) / 1.3, rel=1e-5)


def test_jit_and_grad_work_on_the_module_itself():
    network, x = MLP(_architecture(), 7, rngs=KEY), jnp.ones((2, 7))
    compiled = jax.jit(lambda one, x: one(x))
    np.testing.assert_allclose(compiled(network, x), network(x), atol=1e-6)
    gradient = jax.grad(lambda one: jnp.sum(one(x)))(network)
    assert gradient.hidden.weight[...].shape == (4, 12, 12)
    assert float(jnp.abs(gradient.first.bias[...]).max()) > 0


def test_the_program_does_not_grow_with_depth():
    def program(depth):
        network = MLP(_architecture(depth=depth, width=3), 7, rngs=KEY)
        return jax.jit(lambda one: one(jnp.ones(7))).lower(network).as_text()

    assert len(program(400)) < len(program(4)) + 400  # longer numbers only


BAD = [
    ({"in_features": 0}, "in_features must be an integer >= 1, got 0"),
    ({"out_features": 0}, "out_features must be an integer >= 1, got 0"),
    ({"architecture": _architecture(weight_var=[1.0, 2.0])}, r"got a grid of shape \(2,\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_one_clear_line(change, message):
    given = {"architecture": _architecture(), "in_features": 3, "rngs": KEY}
    with pytest.raises(ValueError, match=message):
        MLP(**(given | change))
