from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import jacobian, sweeps, theory
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.studies import JacobianSpectrum, spectrum_statistics, square_jacobians
from sigprop.studies.spectrum_prediction import SpectrumPrediction, merged
from sigprop.studies.square_jacobians import SquareNetwork

SMALL = JacobianSpectrum(depth=4, width=32, seeds=3, deep_depth=20, deep_width=10, bins=8)
GRID = {
    "activation": ["relu", "hard_tanh"],
    "initialiser": ["gaussian", "orthogonal"],
    "bias_var": [0.05],
}


@pytest.fixture(scope="module")
def ds():
    return sweeps.run(SMALL, GRID, progress=False)


def test_theory_and_measurement_have_parallel_names(ds):
    for name in ("log_mean_square", "relative_variance", "log_largest", "zero_fraction"):
        for kind in ("theory", "measured", "stderr"):
            dims = ds[f"{name}_{kind}"].dims
            assert dims == ("activation", "initialiser", "bias_var", "depth")


def test_networks_stand_at_the_critical_point(ds):
    for activation in GRID["activation"]:
        expected = theory.critical_weight_var(activation, bias_var=np.asarray(GRID["bias_var"]))
        found = ds["weight_var"].sel(activation=activation)
        np.testing.assert_allclose(found, expected.weight_var, rtol=1e-12)
    kept = ds.sel(activation="hard_tanh", bias_var=0.05)
    fixed = theory.fixed_point(
        "hard_tanh", weight_var=float(kept["weight_var"]), bias_var=0.05
    ).variance
    np.testing.assert_allclose(kept["variance0_theory"], fixed, rtol=1e-9)
    np.testing.assert_allclose(kept["variance_last_theory"], fixed, rtol=1e-9)


def test_measured_values_are_those_of_the_network_from_z1(ds):
    at = ds.sel(activation="hard_tanh", initialiser="gaussian", bias_var=0.05)
    architecture = Architecture(5, 32, "hard_tanh", float(at["weight_var"]), 0.05)
    for seed in range(SMALL.seeds):
        network = MLP(architecture, 64, rngs=jax.random.fold_in(jax.random.key(0), seed))
        q1 = float(at["variance0_theory"])
        scale = np.sqrt((q1 - 0.05) / float(at["weight_var"]))
        z1 = network.first(jnp.asarray(scale * SMALL.images[seed], jnp.float32))
        whole = jax.jacrev(_rest, argnums=1)(network, z1)
        expected = np.linalg.svd(np.asarray(whole), compute_uv=False)
        found = at["log_singular_value_measured"].sel(depth=4, seed=seed)
        large = expected > 1e-3 * expected[0]
        np.testing.assert_allclose(found[large], np.log(expected[large]), atol=1e-3)
        first = np.linalg.svd(network.first.effective()[0], compute_uv=False)
        measured = at["input_layer_log_singular_value_measured"].sel(seed=seed)
        np.testing.assert_allclose(measured, np.log(first), atol=1e-5)


def _rest(network, z):
    weights, biases = network.hidden.effective()
    for weight, bias in zip(weights, biases):
        z = weight @ network.activation(z) + bias
    return z


def test_statistics_are_those_of_the_stored_values(ds):
    values = ds["log_singular_value_measured"].transpose(..., "seed", "singular_index")
    squares = np.exp(2 * values)
    mean = squares.mean("singular_index")
    np.testing.assert_allclose(
        ds["relative_variance_measured"],
        (squares.var("singular_index") / mean**2).mean("seed"),
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        ds["log_mean_square_stderr"],
        np.log(mean).std("seed", ddof=1) / np.sqrt(SMALL.seeds),
        rtol=1e-9,
    )
    np.testing.assert_allclose(
        ds["log_largest_measured"], values.max("singular_index").mean("seed"), rtol=1e-12
    )
    zeros = np.isneginf(values).mean("singular_index").mean("seed")
    np.testing.assert_allclose(ds["zero_fraction_measured"], zeros)
    assert (zeros.sel(activation="relu") > 0.3).all()


def test_histograms_count_the_stored_values(ds):
    at = ds.sel(activation="relu", initialiser="gaussian", bias_var=0.05, histogram_depth=4)
    values = at["log_singular_value_measured"].sel(depth=4)
    edges = at["edge_log_singular_value"].values
    inside = ((values >= edges[0]) & (values <= edges[-1])).mean()
    total = float((at["density_measured"] * np.diff(edges)).sum())
    assert total == pytest.approx(float(inside))
    assert total == pytest.approx(1 - float(at["zero_fraction_measured"].sel(depth=4)), abs=0.02)


def test_theory_is_that_of_the_trajectory_in_a_transient():
    """Inputs far from the fixed point: laws differ from layer to layer."""
    network = SquareNetwork("hard_tanh", "gaussian", 5, 8, 1.4, 0.1, variance0=9.0)
    variances = network.variances()
    assert variances[0] == 9.0
    assert variances[-1] < 1.0
    told = SpectrumPrediction("hard_tanh", 1.4, variances, "gaussian")
    log_mean, relative = told.moments()
    for depth in (1, 3, 5):
        law = theory.jacobian_spectrum(
            "hard_tanh", depth=depth, weight_var=1.4, variance=variances[:depth]
        )
        np.testing.assert_allclose(np.exp(log_mean[depth - 1]), law.mean, rtol=1e-10)
        expected = law.variance_of_squares / law.mean**2
        np.testing.assert_allclose(relative[depth - 1], expected, rtol=1e-9)
    exact = np.log(law.max_squared) / 2
    np.testing.assert_allclose(told.log_largest(5), exact, atol=1e-5)


def test_merged_variances_stay_within_the_distance():
    variances = np.random.default_rng(0).uniform(0.1, 10.0, 200)
    np.testing.assert_allclose(merged(variances, 0.05), variances, rtol=0.05)
    assert len(np.unique(merged(variances, 0.05))) < 100
    np.testing.assert_array_equal(merged(variances, 0.0), variances)


@pytest.mark.parametrize(
    ("activation", "initialiser"),
    [("hard_tanh", "uniform"), ("relu", "orthogonal"), ("tanh", "gaussian")],
)
def test_measured_distribution_is_the_predicted_one(activation, initialiser):
    """P(ln s > t) within four standard errors over seeds; weights 10 % off would be outside.

    A network's own q^l strays by sqrt(2/N) or so, which moves its whole spectrum: that, and not the
    count of singular values (they repel), is the error, so it is taken over networks.
    """
    depth, width, seeds = 3, 300, 6
    weight_var = float(theory.critical_weight_var(activation, bias_var=0.05).weight_var)
    start = square_jacobians.start_variance(
        activation, np.asarray(weight_var), np.asarray(0.05), None
    )
    network = SquareNetwork(activation, initialiser, depth, width, weight_var, 0.05, float(start))
    images = square_jacobians.images(seeds, seed=1, input_file=None)
    values = [
        jacobian.log_singular_values(
            square_jacobians.factors_of(network, images[s], jax.random.key(s))[0]
        )
        for s in range(seeds)
    ]
    told = SpectrumPrediction(activation, weight_var, network.variances(), network.ensemble)
    top = told.log_largest(depth)
    points = np.linspace(top - 4.0, top, 81)
    density = told.density(depth, points)
    above = np.cumsum((density[1:] + density[:-1])[::-1] / 2 * np.diff(points))[::-1]

    def disagreement(found):
        each = np.mean(found[:, None] > points[:-1, None], axis=2)
        stderr = np.max(each.std(axis=0, ddof=1)) / np.sqrt(seeds)
        finite_width = 1 / width
        return np.max(np.abs(each.mean(axis=0) - above)) / (4 * stderr + finite_width)

    assert disagreement(np.stack(values)) < 1
    assert disagreement(np.stack(values) + depth * np.log(1.1) / 2) > 1
    assert disagreement(np.stack(values) - depth * np.log(1.1) / 2) > 1


def test_deep_rows_are_those_of_the_deep_network(ds):
    rows = ds["log_singular_value_deep_measured"]
    assert rows.sizes["layer"] == len(np.unique(rows["layer"]))
    assert int(rows["layer"][-1]) == 20
    exponents = ds["lyapunov_exponent_theory"].sel(activation="relu", initialiser="gaussian")
    assert np.isneginf(exponents[:, 5:]).all()
    assert np.isfinite(exponents[:, :5]).all()


def test_a_zero_network_is_data():
    found = spectrum_statistics.over_seeds(spectrum_statistics.statistics(np.full((2, 5), -np.inf)))
    assert found["zero_fraction_measured"] == 1.0
    assert np.isneginf(found["log_largest_measured"])
    edges = spectrum_statistics.bin_edges(np.full((2, 5), -np.inf), 0.0, 4)
    density, _ = spectrum_statistics.histogram(np.full((2, 5), -np.inf), edges)
    assert not density.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "depth must be an integer >= 4, got 3"),
        ({"seeds": 1}, "seeds must be an integer >= 2, got 1"),
        ({"weight_var": -1.0}, "weight_var must be > 0 and finite, got -1.0"),
        ({"input_second_moment": np.nan}, "input_second_moment must be > 0 and finite, got nan"),
        ({"input_file": "nowhere.npy"}, "inputs must be a readable .npy file, got nowhere.npy"),
        ({"bins": 0}, "bins must be an integer >= 2, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        JacobianSpectrum(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": ["tahn"]}, "did you mean 'tanh'"),
        ({"initialiser": ["hee"]}, "initialiser must be one of"),
        ({"bias_var": [-0.5]}, "bias_var must be finite and >= 0, got -0.5"),
    ],
)
def test_bad_grids(change, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(SMALL, GRID | change, progress=False)


def test_no_critical_point_asks_for_a_weight_variance(monkeypatch):
    none = SimpleNamespace(weight_var=np.nan)
    monkeypatch.setattr(theory, "critical_weight_var", lambda *args, **kwargs: none)
    with pytest.raises(
        ValueError, match=r"weight_var must be given for relu, .* at bias_var 0\.05"
    ):
        sweeps.run(SMALL, GRID, progress=False)
