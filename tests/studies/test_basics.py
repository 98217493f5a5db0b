"""The classic demonstrations, at a small size: each makes its point by number."""

import numpy as np
import pytest

from sigprop import plots, studies, sweeps


@pytest.fixture(scope="module")
def ds():
    study = studies.Basics(steps=200, epochs=12, width=64)
    return sweeps.run(study, {"seed": [0]}, progress=False).isel(seed=0)


def test_gradient_descent_ends_where_least_squares_does(ds):
    for name, true in (("slope", 3.0), ("intercept", 2.0)):
        np.testing.assert_allclose(ds[f"line_{name}"], ds[f"line_{name}_exact"], atol=1e-4)
        np.testing.assert_allclose(ds[f"line_{name}"], true, atol=0.05)


def test_the_parabola_overflows_and_both_cures_hold(ds):
    at = ds["parabola_diverged_at"]
    assert 0 <= int(at.sel(course="as it is")) < 10
    for course in ("smaller step", "standardised inputs"):
        assert int(at.sel(course=course)) == -1
        loss = ds["parabola_loss"].sel(course=course).values
        assert np.isfinite(loss).all()
        assert loss[-1] < loss[0] / 5


def test_slopes_vanish_as_theory_says_where_entries_are_large(ds):
    measured, told = ds["wide_mean_square_slope"], ds["wide_mean_square_slope_theory"]
    # 512 inputs by 100 units, of which one in 50 has a slope to speak of: 3 standard errors.
    np.testing.assert_allclose(measured, told, rtol=0.12)
    np.testing.assert_allclose(ds["wide_slope_share"].sum("slope_bin"), 1.0)
    dead = ds["wide_dead_share"]
    assert float(dead.sel(entries="N(0, 1) entries")) > 0.9
    assert float(dead.sel(entries="N(0, 1/fan-in)")) < 0.02


def test_the_check_passes_the_right_gradient_and_finds_the_wrong_sign(ds):
    wrong = ds["check_wrong"].sum("comparison")
    assert int(wrong.sel(gradient="right")) == 0
    assert int(wrong.sel(gradient="spoilt")) >= 2


def test_the_classifier_learns_and_its_norms_are_read_by_epoch(ds):
    assert float(ds["classifier_test_accuracy"]) > 0.85
    assert ds["classifier_weight_norm"].shape == ds["classifier_gradient_norm"].shape == (13, 3)
    assert (ds["classifier_weight_norm"] > 0).all()
    loss = ds["classifier_loss"].values
    assert loss[-1] < loss[0] / 2


def test_the_figure_has_a_panel_for_each(ds):
    figure = plots.basics(ds.expand_dims("seed"))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [t[0] for t in titles] == list("abcdef")
    np.testing.assert_array_equal(figure.axes[5].lines[0].get_xdata(), np.arange(13))


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="batch_size must be at most the 1257 examples"):
        studies.Basics(batch_size=5000)
    with pytest.raises(ValueError, match="epochs must be an integer >= 1, got 0"):
        studies.Basics(epochs=0)
