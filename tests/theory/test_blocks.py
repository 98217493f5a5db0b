"""Theory of residual, normalised and dropped-out blocks: closed forms, references, properties."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from sigprop import theory
from sigprop.architecture import Architecture

REFERENCE = json.loads(
    (pathlib.Path(__file__).parents[1] / "reference" / "blocks.json").read_text()
)
ACTIVATIONS = ("relu", "tanh", "gelu", "erf")


def net(activation="tanh", depth=12, weight_var=1.3, bias_var=0.1, **block):
    return Architecture(depth, 8, activation, weight_var, bias_var, **block)


def moments(activation, variance=1.0):
    """E[φ²], E[φ'²] from the plain maps."""
    square = theory.variance_map(activation, variance, weight_var=1.0, bias_var=0.0)
    return float(square), float(theory.chi(activation, variance, weight_var=1.0))


# ------------------------------------------------------------------- residual


@pytest.mark.parametrize("case", REFERENCE["residual"])
def test_residual_values_to_25_digits(case):
    known = REFERENCE["residual"][case]
    layers = [int(row["l"]) for row in known["rows"]]
    path = theory.predict(
        net(
            case.removeprefix("residual_"),
            max(layers) + 1,
            float(known["sigma_w2"]),
            float(known["sigma_b2"]),
            block="residual",
        ),
        variance0=float(known["q0"]),
        correlation0=float(known["c0"]),
    )
    gain = np.exp(np.cumsum(np.log(path.chi)))
    for row, layer in zip(known["rows"], layers):
        np.testing.assert_allclose(path.variance[layer], float(row["q"]), rtol=1e-10)
        np.testing.assert_allclose(
            path.one_minus_correlation[layer], float(row["one_minus_c"]), rtol=1e-10
        )
        np.testing.assert_allclose(gain[layer - 1], float(row["grad_factor"]), rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_residual_layer_adds_to_variance_covariance_and_gradient(activation):
    scale, weight_var, bias_var = 0.6, 1.7, 0.2
    path = theory.predict(
        net(activation, 4, weight_var, bias_var, block="residual", branch_scale=scale),
        correlation0=0.25,
    )
    q, c = path.variance[1], path.correlation[1]
    gain = {"weight_var": scale**2 * weight_var}
    np.testing.assert_allclose(
        path.variance[2],
        q + theory.variance_map(activation, q, **gain, bias_var=bias_var),
        rtol=1e-12,
    )
    np.testing.assert_allclose(path.chi[1], 1 + theory.chi(activation, q, **gain), rtol=1e-12)
    added = theory.variance_map(activation, q, **gain, bias_var=bias_var)
    shared = added * theory.correlation_map(activation, c, variance=q, **gain, bias_var=bias_var)
    np.testing.assert_allclose(path.correlation[2], (q * c + shared) / path.variance[2], rtol=1e-11)


def test_residual_tanh_grows_linearly_and_its_log_gradient_like_a_square_root():
    path = theory.predict(net("tanh", 10_000, 1.0, 0.0, block="residual"))
    layers = np.arange(1, 10_001)
    assert abs(path.variance[-1] / 10_000 - 1) < 0.02
    total = np.concatenate([[0.0], np.cumsum(np.log(path.chi[:-1]))])
    # E[φ'(√q z)²] → ∫φ'²/√(2πq), ∫(1 - tanh²)² = 4/3, summed along q = l.
    slope = np.polyfit(np.sqrt(layers[1000:]), total[1000:], 1)[0]
    assert abs(slope / (4 / 3 * np.sqrt(2 / np.pi)) - 1) < 0.02


@pytest.mark.parametrize("depth", [10, 1000])
def test_a_branch_scaled_by_the_root_of_the_depth_is_bounded(depth):
    scaled = net("relu", depth, 2.0, 0.0, block="residual", branch_scale="1/sqrt(depth)")
    path = theory.predict(scaled)
    np.testing.assert_allclose(path.log_gradient[0], (depth - 1) * np.log1p(1 / depth), rtol=1e-10)
    assert np.exp(path.log_gradient[0]) < np.e


def test_a_residual_stream_that_leaves_float64_is_infinite_and_its_gradient_is_not():
    path = theory.predict(net("relu", 3000, 2.0, 0.0, block="residual"))
    assert np.isinf(path.variance[-1])
    np.testing.assert_allclose(path.gradient_rate, np.log(2.0), rtol=1e-12)


# ------------------------------------------------------------------- normalisation over units


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "post_layer_norm", "post_rms_norm"])
def test_a_normalised_plain_layer_has_one_gradient_factor(activation, norm):
    square, slope = moments(activation)
    path = theory.predict(net(activation, 6, 1.3, 0.1, norm=norm), variance0=3.0)
    factor = 1.3 * slope / (1.3 * square + 0.1)
    np.testing.assert_allclose(path.chi[2:], factor, rtol=1e-12)
    settled = 1.0 if norm.startswith("post") else 1.3 * square + 0.1
    np.testing.assert_allclose(path.variance[1:], settled, rtol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_normalising_before_the_branch_makes_growth_polynomial(activation):
    square, slope = moments(activation)
    depth, added = 4000, 1.3 * square + 0.1
    path = theory.predict(net(activation, depth, 1.3, 0.1, block="residual", norm="layer_norm"))
    np.testing.assert_allclose(path.variance, 1 + added * np.arange(depth), rtol=1e-10)
    exponent = 1.3 * slope / added
    late = slice(depth // 2, depth - 1)
    power = np.polyfit(np.log(path.variance[late]), -path.log_gradient[late], 1)[0]
    assert abs(power / exponent - 1) < 1e-3


def test_normalising_after_the_sum_makes_growth_exponential():
    square, slope = moments("tanh")
    path = theory.predict(net("tanh", 50, 1.3, 0.1, block="residual", norm="post_layer_norm"))
    factor = (1 + 1.3 * slope) / (1 + 1.3 * square + 0.1)
    np.testing.assert_allclose(path.chi, factor, rtol=1e-12)
    np.testing.assert_allclose(path.variance, 1.0)


# ------------------------------------------------------------------- batch norm


@pytest.mark.parametrize("name", REFERENCE["batch_norm_large_batch"])
def test_batch_norm_rate_of_a_large_batch(name):
    activation = "leaky_relu(0.2)" if name == "leaky_relu_0.2" else name
    known = float(REFERENCE["batch_norm_large_batch"][name])
    assert abs(theory.batch_norm_rate(activation) / known - 1) < 1e-10


@pytest.mark.parametrize("batch", [4, 5, 8, 64, 1024])
def test_batch_norm_rate_of_a_linear_layer(batch):
    known = (batch - 2) / (batch - 3)
    assert abs(theory.batch_norm_rate("linear", batch=batch) / known - 1) < 1e-11


@pytest.mark.parametrize("batch", [5, 8, 33, 128])
def test_batch_norm_rate_of_relu_in_closed_form(batch):
    """Homogeneous moments on a sphere are those of Gaussians: arc-cosine kernels at -1/(B-1)."""
    r = -1 / (batch - 1)
    angle = np.pi - np.arccos(r)
    product = (np.sqrt(1 - r * r) + r * angle) / (2 * np.pi)
    both = angle / (2 * np.pi)
    trace = (batch - 2) / 2 + (1 / 2 + (batch - 1) * (both + product)) / batch - 1 / 2 + 0.5 / batch
    known = batch / (batch - 3) / (batch - 1) * trace / (0.5 - product)
    assert abs(theory.batch_norm_rate("relu", batch=batch) / known - 1) < 1e-10


@pytest.mark.parametrize("case", REFERENCE["batch_norm_monte_carlo"])
def test_batch_norm_rate_of_a_finite_batch_lies_on_its_monte_carlo(case):
    """Fifteen independent cases: each within 4 of its standard errors."""
    name, batch = case.split("|B=")
    known = REFERENCE["batch_norm_monte_carlo"][case]
    rate = theory.batch_norm_rate(name, batch=int(batch))
    assert abs(rate - float(known["rate"])) < 4 * float(known["se"])


def test_two_entries_of_a_normalised_batch_by_brute_force():
    """E[φ(y_a) φ(y_b)] for tanh at B = 6 by direct integration over the two-entry density."""
    batch = 6
    r = -1 / (batch - 1)
    power = (batch - 5) / 2

    def at(s, t):
        inside = max(1 - t * t, 0.0)
        y_a = np.sqrt(batch - 1) * t
        y_b = np.sqrt(batch - 1) * (r * t + np.sqrt(1 - r * r) * np.sqrt(inside) * s)
        return np.tanh(y_a) * np.tanh(y_b) * (1 - s * s) ** power * inside ** (power + 0.5)

    value, _ = integrate.dblquad(at, -1, 1, -1, 1, epsabs=1e-11)
    mass = stats.beta  # normalisation of both densities
    weight = [1 / mass(p + 1, p + 1).pdf(0.5) * 2 for p in (power, power + 0.5)]
    square = integrate.quad(
        lambda t: np.tanh(np.sqrt(batch - 1) * t) ** 2 * (1 - t * t) ** (power + 0.5), -1, 1
    )[0]
    lost = square / weight[1] - value / (weight[0] * weight[1])
    path = theory.predict(
        net("tanh", 3, 1.0, 0.0, norm="batch_norm"), batch=batch, correlation0=0.0
    )
    apart = path.one_minus_correlation[1] * path.variance[1]
    np.testing.assert_allclose(apart, lost, rtol=1e-8)


@given(st.floats(1e-3, 1e3), st.floats(0.0, 10.0))
def test_batch_norm_forgets_the_variances(weight_var, bias_var):
    path = theory.predict(net("relu", 4, weight_var, bias_var, norm="batch_norm"))
    np.testing.assert_allclose(np.exp(path.gradient_rate), np.pi / (np.pi - 1), rtol=1e-12)


def test_a_batch_norm_trajectory_ends_in_independent_cotangents():
    """The last step from G = 1 rather than P: for a linear φ, E tr[Q]/B instead of /(B - 1)."""
    batch = 10
    path = theory.predict(
        net("linear", 5, 1.0, 0.0, norm="batch_norm"), batch=batch, correlation0=0.0
    )
    rate = (batch - 2) / (batch - 3)
    np.testing.assert_allclose(path.chi[1:3], rate, rtol=1e-12)
    np.testing.assert_allclose(path.chi[3], rate * (batch - 1) / batch, rtol=1e-12)


def test_a_skip_makes_batch_norm_polynomial():
    path = theory.predict(net("relu", 4000, 1.0, 0.0, block="residual", norm="batch_norm"))
    apart = path.variance * path.one_minus_correlation
    late = slice(2000, 3999)
    power = np.polyfit(np.log(apart[late]), -path.log_gradient[late], 1)[0]
    assert abs(power / (np.pi / (np.pi - 1)) - 1) < 1e-3


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_three_inputs_or_fewer_are_degenerate(batch):
    path = theory.predict(net("relu", norm="batch_norm"), batch=batch)
    assert path.status == theory.TheoryStatus.DEGENERATE
    assert np.isnan(path.gradient_rate)
    assert np.isnan(theory.batch_norm_rate("relu", batch=batch))


# ------------------------------------------------------------------- dropout


@pytest.mark.parametrize("masks", ["independent", "shared"])
def test_relu_dropout_keeps_variance_and_gradient_at_twice_the_keep_probability(masks):
    """Pretorius et al. 2018: weight_var = 2ρ."""
    path = theory.predict(
        net("relu", 20, 2 * 0.7, 0.0, dropout=0.3), correlation0=0.5, dropout_masks=masks
    )
    np.testing.assert_allclose(path.variance, 1.0, rtol=1e-12)
    np.testing.assert_allclose(path.log_gradient, 0.0, atol=1e-12)


def test_independent_masks_keep_inputs_apart_and_shared_ones_do_not():
    at = theory.critical_weight_var("tanh", bias_var=0.05).weight_var
    dropped = net("tanh", 2000, 0.9 * 0.8 * at, 0.05, dropout=0.2)
    apart = theory.predict(dropped, correlation0=1.0)
    together = theory.predict(dropped, correlation0=1.0, dropout_masks="shared")
    assert apart.correlation[-1] < 0.9
    np.testing.assert_allclose(together.one_minus_correlation, 0.0, atol=1e-15)


def test_dropout_is_a_larger_weight_variance_for_one_input():
    dropped = theory.predict(net("gelu", 9, 1.5, 0.1, dropout=0.4))
    larger = theory.predict(net("gelu", 9, 1.5 / 0.6, 0.1))
    np.testing.assert_allclose(dropped.variance, larger.variance, rtol=1e-12)
    np.testing.assert_allclose(dropped.chi, larger.chi, rtol=1e-12)


@pytest.mark.parametrize("norm", [None, "layer_norm", "post_rms_norm", "batch_norm"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_no_dropout_is_dropout_of_rate_zero_and_weight_norm_changes_nothing(norm, block):
    path = theory.predict(net("erf", 7, block=block, norm=norm), correlation0=0.3)
    tiny = theory.predict(net("erf", 7, block=block, norm=norm, dropout=1e-13), correlation0=0.3)
    np.testing.assert_allclose(path.correlation, tiny.correlation, rtol=1e-10)
    np.testing.assert_allclose(path.log_gradient, tiny.log_gradient, rtol=1e-10, atol=1e-12)
    if norm is None:
        same = theory.predict(net("erf", 7, block=block, norm="weight_norm"), correlation0=0.3)
        np.testing.assert_array_equal(path.variance, same.variance)


# ------------------------------------------------------------------- shapes, transforms, bad input


BLOCKS = [
    {"block": "residual", "norm": "layer_norm", "dropout": 0.1},
    {"block": "residual", "norm": "batch_norm", "dropout": 0.1},
    pytest.param({"block": "residual", "branch_scale": 0.5}, marks=pytest.mark.slow),
    pytest.param({"norm": "post_layer_norm"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_under_jit_vmap_and_grad(block):
    def rate(weight_var):
        own = net("tanh", 8, weight_var, **block)
        return theory.predict(own, correlation0=0.2).gradient_rate

    at = np.asarray([0.8, 1.7])
    exact = rate(at)
    mapped = jax.jit(jax.vmap(rate))(jnp.asarray(at))
    np.testing.assert_allclose(mapped, exact, rtol=2e-5)
    slope = jax.grad(rate)(1.7)
    step = 1e-4
    np.testing.assert_allclose(slope, (rate(1.7 + step) - rate(1.7 - step)) / (2 * step), rtol=2e-3)


def test_every_number_of_the_record_may_be_an_array():
    grid = net(
        "relu", 5, [1.0, 2.0], [[0.0], [0.1], [0.2]], block="residual", branch_scale=[0.5, 1.0]
    )
    path = theory.predict(grid)
    assert path.variance.shape == (3, 2, 5)
    one = theory.predict(net("relu", 5, 2.0, 0.2, block="residual", branch_scale=1.0))
    np.testing.assert_array_equal(path.variance[2, 1], one.variance)


def test_bad_input():
    with pytest.raises(ValueError, match="batch is for norm='batch_norm', got 8"):
        theory.predict(net(), batch=8)
    with pytest.raises(ValueError, match=r"dropout_masks must be one of .*, got 'both'"):
        theory.predict(net(), dropout_masks="both")
    with pytest.raises(ValueError, match="batch must be an integer >= 1, got 0"):
        theory.predict(net(norm="batch_norm"), batch=0)
    with pytest.raises(ValueError, match="correlation0 must"):
        theory.predict(net(norm="batch_norm"), correlation0=1.5)
    with pytest.raises(ValueError, match=r"variance0 must be finite and >= 0, got -1\.0"):
        theory.predict(net(block="residual"), variance0=-1.0)
