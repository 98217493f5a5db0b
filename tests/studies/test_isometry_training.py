"""The isometry-training study: what it measures, the claims in little, mistakes; its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from sigprop import networks, plots, sweeps
from sigprop.architecture import Architecture
from sigprop.studies import IsometryTraining, isometry_fits
from sigprop.studies.isometry_training import _digits, steps_to

STUDY = IsometryTraining(steps=90, examples=64, threshold=0.06, rates=4, rate_factor=2.0, seeds=2)
GRID = {
    "activation": ["linear"],
    "initialiser": ["orthogonal", "gaussian"],
    "depth": [2, 6, 18],
}


@pytest.fixture(scope="module")
def ds():
    return isometry_fits.with_fits(sweeps.run(STUDY, GRID, progress=False))


def test_isometry_keeps_steps_flat_and_gaussian_weights_do_not(ds):
    exponent, error = ds["steps_exponent"].isel(activation=0), ds["steps_exponent_stderr"].max()
    assert int(ds["networks_censored"].sum()) == 0
    assert float(exponent.sel(initialiser="orthogonal")) < 0.3
    assert float(exponent.sel(initialiser="gaussian")) > 0.5
    assert float(error) < 0.3
    rates = ds["rate_exponent"].sel(initialiser="orthogonal")
    assert abs(float(rates.item()) + 1) < 0.35  # half a factor of 2 at either end of a factor 9


def test_steps_are_those_of_plain_gradient_descent(ds):
    """One cell again, by a loop written out, on the same draws."""
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 6), 2)[1]
    network = networks.MLP(Architecture(6, 64, "linear", 1.0, 0.0), 64, 10, rngs=key)
    data = _digits(64, 1 / 64)
    wanted = jax.nn.one_hot(jnp.asarray(data.targets), 10)

    def loss(network):
        return jnp.mean((network(jnp.asarray(data.inputs)) - wanted) ** 2)

    @jax.jit
    def step(network):
        value, gradient = jax.value_and_grad(loss)(network)
        return jax.tree.map(lambda p, g: p - rate * g, network, gradient), value

    at = {"activation": 0, "depth": 1, "rate_times_depth": 1}
    rate = float(ds["learning_rate"].isel(depth=1, rate_times_depth=1))
    assert rate == pytest.approx(4 / 6)
    losses = []
    for _ in range(STUDY.steps):
        network, value = step(network)
        losses.append(float(value))
    expected = ds["steps_measured"].isel(at).sel(initialiser="gaussian", network=1)
    assert float(steps_to(np.asarray(losses), 0.06)) == pytest.approx(float(expected), rel=1e-3)


def test_tuned_is_the_best_of_what_was_tried(ds):
    xr.testing.assert_allclose(
        ds["steps_tuned"], ds["steps_measured"].min("rate_times_depth"), rtol=1e-12
    )
    best = (ds["learning_rate"] == ds["learning_rate_tuned"]) & ds["steps_measured"].notnull()
    found = ds["steps_measured"].where(best).max("rate_times_depth")
    np.testing.assert_allclose(found.transpose(*ds["steps_tuned"].dims), ds["steps_tuned"])


def test_theory_columns(ds):
    """Linear: L for Gaussian weights (Fuss-Catalan), 0 for orthogonal ones."""
    spread = ds["spectrum_variance_theory"].isel(activation=0)
    np.testing.assert_allclose(spread.sel(initialiser="gaussian"), GRID["depth"], rtol=1e-10)
    np.testing.assert_allclose(spread.sel(initialiser="orthogonal"), 0.0, atol=1e-10)
    assert ds["weight_var"].values.tolist() == [1.0]
    assert ds["bias_var"].values.tolist() == [0.0]


def test_censored_networks_are_data():
    short = IsometryTraining(steps=2, examples=32, rates=3, seeds=2, lowest_rate=1e-3)
    grid = {"activation": ["tanh"], "initialiser": ["orthogonal"], "depth": [3]}
    ds = isometry_fits.with_fits(sweeps.run(short, grid, progress=False))
    assert ds["steps_tuned"].isnull().all()
    assert ds["networks_censored"].values.tolist() == [[[2]]]
    assert int(ds["networks_at_edge"].sum()) == 0
    lines = isometry_fits.fits_table(ds)
    assert lines[1].count("> 2") == 1
    assert "too few depths" in lines[1]
    assert float(ds["weight_var"].item()) > 1
    assert 0 < float(ds["bias_var"].item()) < 1e-4


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5])
def test_the_error_of_an_exponent_is_its_spread_over_repetitions(exponent):
    """Noise of 10% a network: the slope's error follows from it, and is met by repetition."""
    rng, depths = np.random.default_rng(0), np.asarray([4.0, 8.0, 16.0, 32.0, 64.0])
    laws = [
        isometry_fits.power_law(
            depths, depths[:, None] ** exponent * np.exp(0.1 * rng.standard_normal((5, 6)))
        )
        for _ in range(400)
    ]
    found, errors, _ = np.asarray(laws).T
    x = np.log(depths) - np.log(depths).mean()
    exact = 0.1 / np.sqrt(6) / np.sqrt(np.sum(x**2))
    assert found.mean() == pytest.approx(exponent, abs=4 * exact / 20)
    assert found.std() == pytest.approx(exact, rel=0.15)
    # The larger of two estimates is above either, on average by some tenths.
    assert exact < np.sqrt(np.mean(errors**2)) < 1.6 * exact


def test_a_depth_with_a_censored_network_is_left_out():
    depths = np.asarray([1.0, 2.0, 4.0, 8.0])
    values = np.stack([depths, depths], axis=1)
    values[3] = [np.nan, 100.0]
    exponent, error, prefactor = isometry_fits.power_law(depths, values)
    assert (exponent, prefactor) == pytest.approx((1.0, 1.0))
    assert error < 1e-12


def test_the_figure_shows_what_the_dataset_holds(ds):
    figure = plots.isometry_training_figure(ds)
    left, right = figure.axes
    assert left.get_xscale() == left.get_yscale() == right.get_yscale() == "log"
    assert [ax.get_xlabel() for ax in figure.axes] == [r"depth $L$"] * 2
    drawn = [np.asarray(line.get_ydata()) for line in left.lines if line.get_linestyle() == "None"]
    expected = np.exp(np.log(ds["steps_tuned"]).mean("network")).isel(activation=0)
    np.testing.assert_allclose(drawn, expected.transpose("initialiser", "depth"))
    legend = left.get_legend()
    assert legend is not None
    exponent = float(ds["steps_exponent"].sel(initialiser="gaussian").item())
    assert f"{exponent:.2f}" in legend.get_texts()[1].get_text()


def test_figures_of_what_is_not_there_are_refused(ds):
    with pytest.raises(ValueError, match="quantity must be one of steps, rate, got 'loss'"):
        plots.isometry_training(ds, quantity="loss")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates": 2}, "rates must be an integer >= 3, got 2"),
        ({"rate_factor": 1.0}, "rate_factor must be finite and > 1, got 1.0"),
        ({"variance": 0.0}, "variance must be finite and > 0, got 0.0"),
        ({"examples": 5000}, "examples must be <= 1257, got 5000"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(ValueError, match=message):
        IsometryTraining(**(STUDY.config() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initialiser": ["he"]}, "initialiser must be one of"),
        ({"depth": [1]}, "depth must be an integer >= 2, got 1"),
        ({"activation": ["sigmoid"]}, "activation must have a critical point of variance"),
    ],
)
def test_mistakes_in_the_grid(change, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(STUDY, GRID | change, progress=False)
