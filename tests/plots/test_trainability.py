import numpy as np
import pytest

from sigprop import plots
from sigprop.studies import with_boundaries
from tests.studies.test_trainability import made_up


@pytest.fixture
def ds():
    ds = made_up(12.0)
    ds["phase_theory"].attrs = {"flag_values": [0, 1, 2],
                                "flag_meanings": "ordered critical chaotic"}  # fmt: skip
    return with_boundaries(ds)


def test_the_map_shows_accuracy_with_multiples_of_the_depth_scale_over_it(ds):
    ax = plots.trainability(ds, multiples=(2.0,))
    scale = ds["depth_scale_correlation_theory"].values[0]
    lines = [line for line in ax.lines if line.get_gid() != "boundary"]
    drawn = np.asarray([np.asarray(line.get_ydata(), float) for line in lines])
    expected = [2 * scale[:4], 12 * scale[:4], 2 * scale[4:], 12 * scale[4:]]
    np.testing.assert_allclose(drawn, expected)  # the multiple and the fitted one, side by side
    (marks,) = [line for line in ax.lines if line.get_gid() == "boundary"]
    np.testing.assert_allclose(
        np.asarray(marks.get_ydata(), float), 12 * scale[12 * scale < 80], rtol=1e-12
    )
    shown = np.concatenate([np.asarray(mesh.get_array()) for mesh in ax.collections], axis=1)
    np.testing.assert_allclose(shown, ds["accuracy"].values[0, :, :, -1])
    assert ax.get_yscale() == "log"


def test_boundaries_lie_on_the_fitted_line_and_bounds_are_arrows(ds):
    ax = plots.trainable_depth(ds)
    bounds = [line for line in ax.lines if line.get_gid() == "bound"]
    assert {float(y) for line in bounds for y in np.asarray(line.get_ydata())} == {80.0}
    fits = [line for line in ax.lines if "xi_c" in str(line.get_label())]
    assert len(fits) == 2
    x, y = (np.asarray(values, float) for values in fits[0].get_data())
    np.testing.assert_allclose(y, 12 * x)


def test_the_figure_has_a_map_for_each_budget_and_says_how_well_ranks_agree(ds):
    figure = plots.trainability_figure(ds)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert "50 updates" in titles[0]
    assert "100 updates" in titles[1]
    assert "= 0.99" in titles[2]  # two bounds tie


def test_one_activation_at_a_time(ds):
    with pytest.raises(ValueError, match="ds must hold one activation"):
        plots.trainability(ds.isel(activation=[0, 0]))
