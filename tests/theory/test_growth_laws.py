"""GrowthKind laws against the trajectories that they summarise."""

import numpy as np
import pytest

from sigprop import kinds, theory
from sigprop.architecture import Architecture
from sigprop.theory import GrowthKind

DEPTH = 20_000


def net(activation, weight_var=1.3, bias_var=0.1, depth=DEPTH, **block):
    return Architecture(depth, 8, activation, weight_var, bias_var, **block)


def measured_rates(architecture, kind):
    """Slope of the last half of Σ ln χ in what ``kind`` grows along."""
    path = theory.predict(architecture)
    total = np.cumsum(np.log(path.chi))
    layers = np.arange(1, total.size + 1)
    ruler = {
        GrowthKind.EXPONENTIAL: layers,
        GrowthKind.SQUARE_ROOT: np.sqrt(layers),
        GrowthKind.POWER: np.log(layers),
    }[kind]
    late = slice(total.size // 2, None)
    return np.polyfit(ruler[late], total[late], 1)[0], path


CASES = [
    ("relu", {"block": "residual"}, GrowthKind.EXPONENTIAL, GrowthKind.EXPONENTIAL),
    ("gelu", {"block": "residual"}, GrowthKind.EXPONENTIAL, GrowthKind.EXPONENTIAL),
    ("tanh", {"block": "residual"}, GrowthKind.LINEAR, GrowthKind.SQUARE_ROOT),
    ("erf", {"block": "residual", "dropout": 0.2}, GrowthKind.LINEAR, GrowthKind.SQUARE_ROOT),
    (
        "hard_tanh",
        {"block": "residual", "branch_scale": 0.5},
        GrowthKind.LINEAR,
        GrowthKind.SQUARE_ROOT,
    ),
    ("softsign", {"block": "residual"}, GrowthKind.LINEAR, GrowthKind.SQUARE_ROOT),
    ("sigmoid", {"block": "residual"}, GrowthKind.LINEAR, GrowthKind.SQUARE_ROOT),
    ("sin", {"block": "residual"}, GrowthKind.LINEAR, GrowthKind.EXPONENTIAL),
    ("relu", {"block": "residual", "norm": "layer_norm"}, GrowthKind.LINEAR, GrowthKind.POWER),
    ("tanh", {"block": "residual", "norm": "rms_norm"}, GrowthKind.LINEAR, GrowthKind.POWER),
    ("gelu", {"norm": "layer_norm"}, GrowthKind.CONSTANT, GrowthKind.EXPONENTIAL),
    ("erf", {"norm": "post_rms_norm"}, GrowthKind.CONSTANT, GrowthKind.EXPONENTIAL),
    (
        "tanh",
        {"block": "residual", "norm": "post_layer_norm"},
        GrowthKind.CONSTANT,
        GrowthKind.EXPONENTIAL,
    ),
    ("relu", {"norm": "batch_norm"}, GrowthKind.CONSTANT, GrowthKind.EXPONENTIAL),
    ("tanh", {"norm": "batch_norm", "dropout": 0.3}, GrowthKind.CONSTANT, GrowthKind.EXPONENTIAL),
    ("relu", {"block": "residual", "norm": "batch_norm"}, GrowthKind.LINEAR, GrowthKind.POWER),
    ("tanh", {}, GrowthKind.CONSTANT, GrowthKind.EXPONENTIAL),
    ("gelu", {"dropout": 0.1}, GrowthKind.CONSTANT, GrowthKind.EXPONENTIAL),
]


@pytest.mark.parametrize(("activation", "block", "variance_kind", "kind"), CASES, ids=str)
def test_a_law_is_what_its_trajectory_does(activation, block, variance_kind, kind):
    # Exponential growth needs few layers; the slow laws approach their rates as 1/√l or slower.
    fast = kind == GrowthKind.EXPONENTIAL
    # (softsign reaches its ends as 1/x, and so E[φ²] its limit as ln(l)/√l.)
    slow = 16 * DEPTH if activation == "softsign" else DEPTH
    architecture = net(activation, depth=400 if fast else slow, **block)
    law = theory.growth_law(architecture)
    assert (law.variance_kind, law.gradient_kind) == (variance_kind, kind)
    rate, path = measured_rates(architecture, kind)
    np.testing.assert_allclose(law.gradient_rate, rate, rtol=1e-5 if fast else 0.02, atol=1e-9)
    grown = path.variance[-1] / path.variance[-2]
    if variance_kind == GrowthKind.EXPONENTIAL:
        np.testing.assert_allclose(law.variance_rate, np.log(grown), rtol=1e-4)
    if variance_kind == GrowthKind.LINEAR:
        step = path.variance[-1] - path.variance[-2]
        np.testing.assert_allclose(law.variance_rate, step, rtol=0.02)
    if variance_kind == GrowthKind.CONSTANT:
        np.testing.assert_allclose(grown, 1.0, rtol=1e-9)


def test_relu_without_a_norm():
    exploding = theory.growth_law(net("relu", 3.0, 0.0))
    assert exploding.variance_kind == exploding.gradient_kind == GrowthKind.EXPONENTIAL
    np.testing.assert_allclose(exploding.variance_rate, np.log(1.5), rtol=1e-12)
    biased = theory.growth_law(net("relu", 2.0, 0.1))
    assert (biased.variance_kind, biased.variance_rate) == (GrowthKind.LINEAR, 0.1)
    assert abs(biased.gradient_rate) < 1e-12


@pytest.mark.parametrize(
    ("activation", "block"),
    [
        ("tanh", {}),
        ("tanh", {"dropout": 0.3}),
        ("tanh", {"norm": "layer_norm"}),
        ("gelu", {"norm": "post_rms_norm", "dropout": 0.1}),
        ("erf", {"norm": "post_layer_norm", "block": "residual", "branch_scale": 0.7}),
    ],
    ids=str,
)
def test_gradients_keep_their_size_at_the_critical_weight_variance(activation, block):
    law = theory.growth_law(net(activation, **block))
    assert law.critical_status == theory.CriticalStatus.STABLE
    at = theory.growth_law(net(activation, law.critical_weight_var, **block))
    assert abs(at.gradient_rate) < 1e-10


def test_where_there_is_no_critical_weight_variance():
    none, every = theory.CriticalStatus.NONE, theory.CriticalStatus.EVERY
    found = lambda *a, **b: theory.growth_law(net(*a, **b)).critical_status  # noqa: E731
    assert found("relu", 2.0, 0.0, norm="layer_norm") == every
    assert found("relu", 2.0, 0.1, norm="layer_norm") == none
    assert found("tanh", 2.0, 0.0, norm="layer_norm") == none  # always explodes
    assert found("relu", norm="batch_norm") == none
    assert found("linear", norm="batch_norm") == every
    assert found("tanh", block="residual") == none


def test_batches():
    relu = net("relu", norm="batch_norm")
    finite = theory.growth_law(relu, batch=64)
    np.testing.assert_allclose(
        np.exp(finite.gradient_rate), theory.batch_norm_rate("relu", batch=64), rtol=1e-12
    )
    assert np.isnan(theory.growth_law(relu, batch=3).gradient_rate)
    deep = net("relu", norm="batch_norm", block="residual", depth=3000)
    path = theory.predict(deep, batch=5)
    doubled = path.log_gradient[200] - path.log_gradient[401]
    law = theory.growth_law(deep, batch=5)
    np.testing.assert_allclose(law.gradient_rate, theory.batch_norm_rate("relu", batch=5))
    np.testing.assert_allclose(doubled / np.log(2), law.gradient_rate, rtol=0.01)


def test_the_law_of_a_layer_of_ones_own_is_what_its_trajectory_does():
    branch = kinds.Sequence(
        kinds.Norm(), kinds.Pointwise(), kinds.Dense("first_var"), kinds.Pointwise(),
        kinds.Dense(bias_var=None),
    )  # fmt: skip
    deep = Architecture(
        4000, 64, "tanh", 2.0, 0.1, layer=kinds.Skip(branch), numbers={"first_var": 1.3}
    )
    law, path = theory.growth_law(deep), theory.predict(deep)
    assert (law.variance_kind, law.gradient_kind) == (GrowthKind.LINEAR, GrowthKind.POWER)
    np.testing.assert_allclose(path.variance[-1] / 4000, law.variance_rate, rtol=1e-3)
    doubled = path.log_gradient[1999] - path.log_gradient[3999]
    np.testing.assert_allclose(doubled / np.log(2), law.gradient_rate, rtol=1e-3)
    bare = kinds.Sequence(kinds.Norm(), kinds.Pointwise(), kinds.Dense("first_var"))
    plain = Architecture(4, 64, "tanh", 1.0, 0.1, layer=bare, numbers={"first_var": 1.3})
    usual = Architecture(4, 64, "tanh", 1.3, 0.1, norm="layer_norm")
    rates = [theory.growth_law(net).gradient_rate for net in (plain, usual)]
    np.testing.assert_allclose(*rates, rtol=1e-12)


def test_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"architecture must be one network, got a grid of shape"):
        theory.growth_law(net("relu", [1.0, 2.0]))
