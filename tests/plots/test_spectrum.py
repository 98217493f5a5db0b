import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from sigprop import plots


@pytest.fixture
def ds():
    """Shaped like the study's answer; every network's numbers differ by a known factor."""
    coords = {
        "activation": ["relu", "tanh"],
        "initialiser": ["gaussian", "orthogonal"],
        "bias_var": [0.05],
        "depth": [1, 2, 4, 8],
        "histogram_depth": [2, 8],
        "layer": [1, 10, 100],
    }
    sizes = {"edge": 5, "bin": 4, "point": 9, "deep_index": 6}
    network = ("activation", "initialiser", "bias_var")
    number = np.asarray([[1.0, 2.0], [3.0, 4.0]])[..., None]

    def filled(*dims, value=0.0):
        shape = [len(coords[d]) if d in coords else sizes[d] for d in dims]
        return (*network, *dims), number.reshape(2, 2, 1, *[1] * len(dims)) * 0.1 + np.broadcast_to(
            value, (2, 2, 1, *shape)
        )

    depth = np.asarray(coords["depth"], float)
    found = {
        "weight_var": (("activation", "bias_var"), [[2.0], [1.76]]),
        "edge_log_singular_value": filled("histogram_depth", "edge", value=np.arange(5.0)),
        "point_log_singular_value": filled("histogram_depth", "point", value=np.linspace(0, 4, 9)),
        "density_theory": filled("histogram_depth", "point", value=0.2),
        "density_measured": filled("histogram_depth", "bin", value=0.25),
        "density_stderr": filled("histogram_depth", "bin", value=0.01),
        "log_singular_value_deep_measured": filled(
            "layer", "deep_index", value=-np.arange(6.0) * np.asarray([[1.0], [10.0], [100.0]])
        ),
        "lyapunov_exponent_theory": filled("deep_index", value=-np.arange(6.0)),
    }
    for name in ("log_mean_square", "relative_variance", "log_largest", "zero_fraction"):
        found[f"{name}_theory"] = filled("depth", value=depth)
        found[f"{name}_measured"] = filled("depth", value=depth + 0.01)
        found[f"{name}_stderr"] = filled("depth", value=0.1)
    attrs = {"width": 64, "seeds": 3, "deep_width": 6}
    return xr.Dataset(found, coords, attrs)


def test_spectrum_draws_the_curve_over_the_bars(ds):
    one = ds.sel(activation="tanh", initialiser="gaussian")
    ax = plots.spectrum(one, depth=2)
    (curve,) = ax.lines
    np.testing.assert_allclose(curve.get_xdata(), np.linspace(0, 4, 9) + 0.3)
    np.testing.assert_allclose(curve.get_ydata(), 0.5)
    (bars,) = ax.patches
    values, edges, _ = bars.get_data()
    np.testing.assert_allclose(values, 0.55)
    np.testing.assert_allclose(edges, np.arange(5) + 0.3)
    assert ax.get_xlabel() == r"$\ln s$"
    assert "zeros: " in ax.texts[0].get_text()


def test_spectrum_shows_the_deepest_by_default(ds):
    ds["density_theory"] = ds["density_theory"] * ds["histogram_depth"]
    ax = plots.spectrum(ds.sel(activation="relu", initialiser="gaussian"))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 8 * 0.3)


def test_spectrum_growth_has_a_line_for_every_network(ds):
    ax = plots.spectrum_growth(ds, quantity="log_largest")
    lines = [line for line in ax.lines if line.get_linestyle() != "None"]
    assert len(lines) == 4
    np.testing.assert_allclose(lines[0].get_ydata(), np.exp(ds["depth"] + 0.1))
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 4
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "s_{" in ax.get_ylabel()
    ax = plots.spectrum_growth(ds, quantity="relative_variance")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), ds["depth"] + 0.1)


def test_heat_map_shows_growth_a_layer(ds):
    ax = plots.log_spectra(ds.sel(activation="relu", initialiser="gaussian"))
    (mesh,) = ax.collections
    shown = np.asarray(mesh.get_array()).reshape(6, 3)
    expected = (ds["log_singular_value_deep_measured"][0, 0, 0] / ds["layer"]).values.T
    np.testing.assert_allclose(shown, expected)
    assert ax.get_ylim() == (1.0, 0.0), "the largest above"


def test_zeros_are_left_out_of_the_heat_map(ds):
    one = ds.sel(activation="relu", initialiser="gaussian")
    deep = one["log_singular_value_deep_measured"]
    ax = plots.log_spectra(
        one.assign(log_singular_value_deep_measured=deep.where(deep["deep_index"] < 3, -np.inf))
    )
    assert np.ma.getmaskarray(ax.collections[0].get_array()).reshape(6, 3)[3:].all()


@pytest.mark.parametrize("draw", [plots.spectrum_figure, plots.log_spectra_figure])
@pytest.mark.parametrize("networks", ["all", "one", "three"])
def test_figures_draw_on_a_canvas(ds, draw, networks):
    if networks == "one":
        ds = ds.sel(activation="relu", initialiser="gaussian")
    if networks == "three":
        ds = ds.isel(initialiser=[0])
        ds = xr.concat(
            [ds, ds.isel(activation=[0]).assign_coords(activation=["erf"])], "activation"
        )
    figure = draw(ds)
    figure.canvas.draw()
    labels = [ax.get_xlabel() for ax in figure.axes if ax.get_visible()]
    assert any("layers $k$" in label for label in labels)
    assert "z^{k+1}" in figure.get_suptitle()
    plt.close(figure)


def test_bad_input(ds):
    with pytest.raises(ValueError, match="ds must hold one activation"):
        plots.spectrum(ds)
    one = ds.sel(activation="relu", initialiser="gaussian")
    with pytest.raises(ValueError, match="depth must be one of 2, 8, got 3"):
        plots.spectrum(one, depth=3)
    with pytest.raises(ValueError, match="quantity must be one of log_largest"):
        plots.spectrum_growth(ds, quantity="mean")
    two = xr.concat([ds, ds.assign_coords(bias_var=[0.1])], "bias_var")
    with pytest.raises(ValueError, match=r"ds must hold one bias_var .*0\.05, 0\.1"):
        plots.spectrum(two.sel(activation="relu", initialiser="gaussian"))


def test_conditioning_map_has_four_panels_a_network(make_dataset):
    ds = make_dataset(initialisers=("gaussian", "orthogonal"))
    spread = ds["chi_1_theory"]
    ds["relative_variance_theory"] = spread.expand_dims(initialiser=ds["initialiser"]) + 0.1
    ds["relative_variance_measured"] = ds["relative_variance_theory"] * 1.1
    ds["log_mean_square_theory"] = np.log(ds["relative_variance_theory"])
    figure = plots.conditioning_map(ds)
    figure.canvas.draw()
    titles = [ax.get_title("left") for ax in figure.axes]
    assert sum("measured spread" in title for title in titles) == 2
    one = ds.sel(activation="tanh", initialiser="gaussian")
    ax = plots.conditioning_panel(one, quantity="relative_variance_theory")
    shown = np.asarray(ax.collections[0].get_array()).reshape(11, 16)
    np.testing.assert_allclose(shown, one["relative_variance_theory"].T)
    with pytest.raises(ValueError, match="quantity must be one of growth_theory"):
        plots.conditioning_panel(one, quantity="spread")
