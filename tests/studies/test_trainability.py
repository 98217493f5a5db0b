"""The trainability study, and what is read off it: boundaries and the multiple of xi_c."""

import numpy as np
import pytest
import xarray as xr

from sigprop import sweeps, theory
from sigprop.studies import BoundaryStatus, Trainability, with_boundaries
from sigprop.studies.trainable_depth import boundary_depth, depth_scale_fit

STUDY = Trainability(width=32, steps=60, batch_size=32, examples=256)
GRID = {
    "activation": ["tanh"],
    "depth": [2, 24],
    "weight_var": [0.6, 1.76],
    "learning_rate": [1e-5, 0.1],
    "seed": [0],
}


@pytest.fixture(scope="module")
def ds():
    return sweeps.run(STUDY, GRID, progress=False)


def test_shallow_networks_train_and_deep_ones_far_from_criticality_do_not(ds):
    """At weight_var 0.6, xi_c is 1.7 layers: 24 layers are fourteen of them."""
    best = ds["train_accuracy"].isel(activation=0, seed=0, budget=-1).max("learning_rate")
    assert float(best.sel(depth=2, weight_var=1.76)) > 0.7
    assert float(best.sel(depth=24, weight_var=0.6)) < 0.3
    assert (ds["diverged_at"] == -1).all()


def test_theory_stands_beside_it(ds):
    told = theory.fixed_point("tanh", weight_var=np.asarray([0.6, 1.76]), bias_var=0.05)
    found = ds["depth_scale_correlation_theory"].values[0]
    np.testing.assert_allclose(found, told.depth_scale_correlation, rtol=1e-12)
    assert ds["depth_scale_correlation_theory"].dims == ("activation", "weight_var")


def test_chunks_do_not_change_the_answers(ds):
    one_depth = sweeps.run(STUDY, GRID, progress=False, memory_budget=4 * STUDY.bytes_per_cell)
    xr.testing.assert_equal(ds, one_depth)


def test_the_step_size_is_chosen_on_validation_digits_and_read_on_training_digits(ds):
    told = with_boundaries(ds)
    best = ds["validation_accuracy"].mean("seed").idxmax("learning_rate")
    np.testing.assert_array_equal(told["learning_rate_chosen"], best)
    at = {"activation": "tanh", "depth": 2, "weight_var": 1.76, "budget": 60}
    rate = float(best.sel(at))
    assert rate == 0.1
    expected = ds["train_accuracy"].sel(at).sel(learning_rate=rate, seed=0)
    assert float(told["accuracy"].sel(at)) == float(expected)


def made_up(k, noise=0.0):
    """Accuracy falls from 1 to 0.2, straight, so that half is passed at exactly k xi_c."""
    scale = np.asarray([2.0, 3.0, 5.0, 8.0, 8.5, 5.5, 3.5, 2.5])
    shift = 1 + noise * np.asarray([1, -1, 1, -1, 1, -1, 1, -1])
    depth = np.arange(1.0, 81.0)
    rows = np.clip(1 - (depth[:, None] - 0.5 * k * scale * shift) / (k * scale * shift), 0.0, 1.0)
    dims = ("activation", "depth", "weight_var", "learning_rate", "seed", "budget")
    accuracy = np.stack([rows, rows], axis=-1)[None, :, :, None, None, :]
    phase = np.repeat([int(theory.Phase.ORDERED), int(theory.Phase.CHAOTIC)], 4)
    return xr.Dataset(
        {
            "train_accuracy": (dims, accuracy),
            "validation_accuracy": (dims, accuracy),
            "depth_scale_correlation_theory": (("activation", "weight_var"), scale[None]),
            "phase_theory": (("activation", "weight_var"), phase[None]),
        },
        {"activation": ["tanh"], "depth": depth, "weight_var": np.arange(8.0),
         "learning_rate": [0.1], "seed": [0], "budget": [50, 100]},
    )  # fmt: skip


def test_a_planted_multiple_is_found():
    told = with_boundaries(made_up(6.0))
    np.testing.assert_allclose(told["fit_k"], 6.0, rtol=1e-12)
    np.testing.assert_allclose(told["fit_exponent"], 1.0, rtol=1e-12)
    np.testing.assert_allclose(told["fit_spearman"], 1.0)
    assert (told["fit_points"].values[:, 0, 0] == [8, 4, 4]).all()
    assert told["side"].values.tolist() == ["both", "ordered", "chaotic"]


def test_its_error_is_that_of_the_mean_of_logarithms():
    fit = with_boundaries(made_up(6.0, noise=0.1)).sel(side="both").isel(activation=0, budget=0)
    logs = np.log(6.0 * (1 + 0.1 * np.asarray([1, -1] * 4)))
    k = np.exp(logs.mean())
    assert float(fit["fit_k"]) == pytest.approx(k)
    assert float(fit["fit_k_stderr"]) == pytest.approx(k * logs.std(ddof=1) / np.sqrt(8))


def test_bounds_are_marked_and_left_out_of_the_fit():
    told = with_boundaries(made_up(12.0)).isel(activation=0, budget=0)
    beyond = 12.0 * told["depth_scale_correlation_theory"].values > 80
    status = told["boundary_status"].values
    assert (status[beyond] == BoundaryStatus.ABOVE_RANGE).all()
    assert (status[~beyond] == BoundaryStatus.FOUND).all()
    assert float(told["fit_points"].sel(side="both")) == (~beyond).sum()
    np.testing.assert_allclose(told["fit_k"].sel(side="both"), 12.0, rtol=1e-12)


def test_where_nothing_trained_there_is_no_boundary():
    found = boundary_depth(np.asarray([4.0, 8.0]), np.asarray([0.15, 0.1]))
    assert found == (4.0, BoundaryStatus.BELOW_RANGE)


def test_two_points_fit_nothing():
    fit = depth_scale_fit(np.ones(2), np.ones(2), np.ones(2, bool))
    assert fit["points"] == 2
    assert np.isnan(fit["k"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 61}, "steps must be even, to be read half-way, got 61"),
        ({"width": 1}, "width must be an integer >= 2, got 1"),
        ({"bias_var": -1.0}, "bias_var must be .*, got -1.0"),
        ({"optimiser": "adm"}, "optimiser must be one of .*, got 'adm'"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(ValueError, match=message):
        Trainability(**(STUDY.config() | change))


@pytest.mark.parametrize(
    ("axis", "values", "message"),
    [
        ("depth", [0], "depth must be an integer >= 1, got 0"),
        ("depth", [2.5], "depth must be an integer >= 1, got 2.5"),
        ("weight_var", [-1.0], "weight_var must be .*, got -1.0"),
        ("learning_rate", [0.0], "learning_rate must be .*, got 0.0"),
    ],
)
def test_grids_that_cannot_be_trained_are_refused_before_anything_is(axis, values, message):
    with pytest.raises(ValueError, match=message):
        sweeps.run(STUDY, GRID | {axis: values}, progress=False)
