import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import jacobian, sweeps, theory
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.studies import ConditioningMap
from sigprop.studies.spectrum_prediction import moments_along

SMALL = ConditioningMap(depth=4, width=32, seeds=4)
GRID = {
    "activation": ["hard_tanh"],
    "initialiser": ["gaussian", "orthogonal"],
    "weight_var": [0.0, 0.8, 2.0],
    "bias_var": [0.0, 0.1],
}


@pytest.fixture(scope="module")
def ds():
    return sweeps.run(SMALL, GRID, progress=False)


@pytest.mark.parametrize("initialiser", ["gaussian", "orthogonal"])
def test_measured_is_the_spectrum_of_the_network_from_z1(ds, initialiser):
    """The scanned product of all cells is what `jacobian.spectra` finds in each network."""
    at = ds.sel(activation="hard_tanh", initialiser=initialiser, weight_var=2.0, bias_var=0.1)
    fixed = theory.fixed_point("hard_tanh", weight_var=2.0, bias_var=0.1)
    squares = []
    for seed, image in enumerate(SMALL.images):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 32), seed)
        architecture = Architecture(5, 32, "hard_tanh", 2.0, 0.1, initialiser=initialiser)
        network = MLP(architecture, 64, rngs=key)
        scale = np.sqrt((float(fixed.variance) - 0.1) / 2.0)
        z1 = network.first(jnp.asarray(scale * image, jnp.float32))
        last = jacobian.spectra(jacobian.hidden_layers(network), z1, "cumulative")[-1]
        squares.append(np.square(np.asarray(last, np.float64)))
    squares = np.stack(squares)
    mean = squares.mean(axis=1)
    expected = np.mean(squares.var(axis=1) / mean**2)
    np.testing.assert_allclose(at["relative_variance_measured"], expected, rtol=1e-4)
    np.testing.assert_allclose(at["log_mean_square_measured"], np.log(mean).mean(), atol=1e-5)
    largest = np.log(squares.max(axis=1)) / 2
    np.testing.assert_allclose(at["log_largest_measured"], largest.mean(), atol=1e-5)
    stderr = largest.std(ddof=1) / 2
    np.testing.assert_allclose(at["log_largest_stderr"], stderr, rtol=1e-3)


@pytest.mark.parametrize("ensemble", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("activation", ["hard_tanh", "tanh", "leaky_relu"])
def test_moments_are_those_of_the_spectrum(activation, ensemble):
    variances = np.asarray([[2.0, 0.5, 0.3], [30.0, 1e-3, 4.0]])
    chi = np.asarray(theory.chi(activation, variances, weight_var=1.3))
    log_mean, relative = moments_along(activation, chi, variances, np.asarray(1.3), ensemble)
    for cell in range(2):
        law = theory.jacobian_spectrum(
            activation, depth=3, weight_var=1.3, variance=variances[cell], ensemble=ensemble
        )
        np.testing.assert_allclose(np.exp(log_mean[cell, -1]), law.mean, rtol=1e-10)
        expected = law.variance_of_squares / law.mean**2
        np.testing.assert_allclose(relative[cell, -1], expected, rtol=1e-9, atol=1e-12)


def test_a_network_without_weights_is_data(ds):
    dead = ds.sel(weight_var=0.0)
    assert np.isneginf(dead["log_mean_square_measured"]).all()
    assert np.isneginf(dead["log_mean_square_theory"]).all()
    assert np.isnan(dead["relative_variance_measured"]).all()
    assert np.isnan(dead["disagreement_corrected"]).all()
    alive = ds.sel(weight_var=[0.8, 2.0])
    for name in ("relative_variance_measured", "relative_variance_theory", "disagreement_raw"):
        assert np.isfinite(alive[name]).all()


def test_cells_do_not_depend_on_their_company():
    alone = {**GRID, "initialiser": ["gaussian"], "weight_var": [2.0], "bias_var": [0.1]}
    one = sweeps.run(SMALL, alone, progress=False)
    several = sweeps.run(SMALL, alone | {"weight_var": [0.8, 2.0]}, progress=False)
    spread = several["relative_variance_measured"].sel(weight_var=[2.0])
    np.testing.assert_allclose(one["relative_variance_measured"], spread, rtol=1e-4)


def test_no_depth_overflows():
    deep = ConditioningMap(depth=60, width=8, seeds=2)
    grid = GRID | {"activation": ["linear"], "initialiser": ["gaussian"], "bias_var": [0.0]}
    found = sweeps.run(deep, grid | {"weight_var": [1e-6, 1e6]}, progress=False)
    assert np.isfinite(found["log_mean_square_measured"]).all()
    told = found["log_mean_square_theory"].values.ravel()
    np.testing.assert_allclose(told, 60 * np.log([1e-6, 1e6]))


def test_spread_agrees_with_theory_at_infinite_width():
    """Within four standard errors at every cell; half the spread would not be."""
    study = ConditioningMap(depth=3, width=128, seeds=24)
    cells = {"weight_var": [1.5, 2.5], "bias_var": [0.05]}
    found = sweeps.run(study, GRID | cells, progress=False)
    assert (abs(found["disagreement_corrected"]) < 4).all()
    halved = found["relative_variance_infinite_width_measured"] / 2
    off = (halved - found["relative_variance_theory"]) / found[
        "relative_variance_infinite_width_stderr"
    ]
    assert (abs(off) > 4).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be an integer >= 1, got 0"),
        ({"width": 2}, "width must be an integer >= 4, got 2"),
        ({"input_second_moment": 0.0}, "input_second_moment must be > 0 and finite, got 0.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ConditioningMap(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": ["tahn"]}, "did you mean 'tanh'"),
        ({"initialiser": ["hee"]}, "initialiser must be one of"),
        ({"weight_var": [-1.0]}, "weight_var must be finite and >= 0, got -1.0"),
    ],
)
def test_bad_grids(change, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(SMALL, GRID | change, progress=False)
