"""Vanished and exploded cells are data; bad arguments are one clear line."""

import jax
import numpy as np
import pytest

from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.propagation import measure

KEY = jax.random.key(1)
INPUTS = np.random.default_rng(0).standard_normal((2, 20)).astype(np.float32)
PER_LAYER = (
    "variance", "log_variance", "correlation", "one_minus_correlation",
    "log_gradient_z", "log_gradient_w", "log_gradient_b",
)  # fmt: skip


def _measure(activation, weight_var, bias_var=0.0, depth=300, **given):
    architecture = Architecture(depth, 20, activation, weight_var=weight_var, bias_var=bias_var)
    return measure(architecture, given.pop("inputs", INPUTS), key=KEY, seeds=1, **given)


@pytest.mark.parametrize("activation", ["gelu", "softplus", "selu", "mish"])
def test_a_cell_freezes_at_its_first_non_finite_layer(activation):
    measured = _measure(activation, [0.5, 30.0], 0.01)
    calm, wild = measured.diverged_at_layer
    assert calm == 0
    assert 1 < wild < 300
    for name in PER_LAYER:
        readings = getattr(measured, name)
        assert np.isfinite(readings[0]).all(), name
        assert np.isfinite(readings[1, : wild - 1]).all(), name
        assert not np.isfinite(readings[1, wild - 1 :]).any(), name


def test_gradients_of_a_frozen_cell_are_those_of_the_network_cut_before_it():
    whole = _measure("gelu", [20.0])
    last = int(whole.diverged_at_layer[0]) - 1
    cut = _measure("gelu", [20.0], depth=last)
    assert cut.diverged_at_layer == 0
    for name in PER_LAYER:
        np.testing.assert_allclose(
            getattr(whole, name)[:, :last], getattr(cut, name), rtol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(whole.gradient_rate, cut.gradient_rate, rtol=1e-5)


def test_neighbours_of_a_diverging_cell_are_untouched():
    together, alone = _measure("gelu", [1.5, 30.0], 0.1), _measure("gelu", [1.5], 0.1)
    for name in PER_LAYER:
        np.testing.assert_array_equal(getattr(together, name)[0], getattr(alone, name)[0])


def test_signals_below_and_above_floating_point_keep_their_logs():
    """float32 squares end near 1e-38 and 1e38; log_variance and gradients go on."""
    for inputs in (1e-25 * INPUTS, 1e25 * INPUTS):
        scaled, plain = (_measure("linear", 1.0, depth=5, inputs=x) for x in (inputs, INPUTS))
        shift = np.log(np.mean(np.square(inputs, dtype=np.float64)) / np.mean(INPUTS**2))
        np.testing.assert_allclose(scaled.log_variance, plain.log_variance + shift, rtol=1e-5)
        np.testing.assert_allclose(scaled.correlation, plain.correlation, atol=1e-5)
        np.testing.assert_allclose(scaled.log_gradient_z, plain.log_gradient_z, atol=1e-5)
        np.testing.assert_allclose(
            scaled.log_gradient_w, plain.log_gradient_w + shift, rtol=1e-5, atol=1e-4
        )


def test_a_vanishing_tanh_network_is_linear_in_its_logs():
    measured = _measure("tanh", 0.1, depth=60)
    reached = measured.log_variance > -170  # z itself leaves float32 near exp(-87)
    assert reached[:40].all()
    slope = np.polyfit(np.arange(10, 40), measured.log_variance[10:40], 1)[0]
    assert slope == pytest.approx(measured.gradient_rate, rel=0.05)
    assert measured.diverged_at_layer == 0


def test_zero_weights_and_zero_inputs():
    dead = _measure("relu", 0.0, 0.0, depth=4)
    np.testing.assert_array_equal(dead.variance, 0.0)
    assert np.isnan(dead.correlation).all()
    np.testing.assert_array_equal(dead.log_gradient_z[:-1], -np.inf)
    biased = _measure("relu", 0.0, 0.5, depth=4)
    assert (biased.variance > 0).all()
    np.testing.assert_allclose(biased.correlation, 1.0, atol=1e-6)
    still = _measure("tanh", 1.0, 0.2, depth=4, inputs=np.zeros((2, 20)))
    np.testing.assert_allclose(still.correlation, 1.0, atol=1e-6)
    np.testing.assert_array_equal(still.log_gradient_w[0], -np.inf)


NAN = np.where(np.arange(40).reshape(2, 20) == 7, np.nan, 1.0)
BAD = [
    ({"inputs": np.ones(5)}, r"inputs must have shape .* got shape \(5,\)"),
    ({"inputs": np.ones((2, 0))}, r"got shape \(2, 0\)"),
    ({"inputs": np.ones((3, 2, 5)), "seeds": 1}, r"with seeds=1, got shape \(3, 2, 5\)"),
    ({"inputs": NAN}, r"inputs must be finite, got nan at index \(0, 7\)"),
    ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
    ({"draws": "none"}, "draws must be one of 'shared', 'independent', got 'none'"),
    ({"memory_budget": -1}, "memory_budget must be an integer >= 0, got -1"),
    (
        {"network": MLP(Architecture(2, 4, "tanh", 1.0), 20, rngs=KEY), "seeds": 2},
        "seeds must be 1",
    ),
    ({"network": MLP(Architecture(2, 4, "tanh", 1.0), 3, rngs=KEY)}, "inputs must have 3 features"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_one_clear_line(change, message):
    given = {"network": Architecture(2, 20, "tanh", 1.0), "inputs": INPUTS, "key": KEY}
    with pytest.raises(ValueError, match=message) as caught:
        measure(**(given | change))
    assert "\n" not in str(caught.value)


def test_a_stack_of_networks_and_a_traced_call_are_refused():
    make = lambda key: MLP(Architecture(2, 4, "tanh", 1.0), 20, rngs=key)  # noqa: E731
    with pytest.raises(ValueError, match="network must be one MLP, got a stack"):
        measure(jax.vmap(make)(jax.random.split(KEY)), INPUTS, key=KEY, seeds=1)
    with pytest.raises(ValueError, match="measure must be called outside jit"):
        jax.jit(lambda x: measure(Architecture(2, 4, "tanh", 1.0), x, key=KEY, seeds=1).variance)(
            INPUTS
        )
