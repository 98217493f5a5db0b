import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet

from sigprop import plots
from sigprop.plots import plane, style


def meshes(ax):
    return [c for c in ax.collections if isinstance(c, QuadMesh)]


def contours(ax, linestyle=None):
    """Vertices of every contour line on ``ax``, of one line style if given."""
    sets = [c for c in ax.collections if isinstance(c, ContourSet)]
    if linestyle is not None:
        sets = [c for c in sets if c.get_edgecolor()[0][:3].max() == 0]  # theory is black
        sets = [c for c in sets if _style_of(c) == linestyle]
    return np.concatenate(
        [path.vertices for c in sets for path in c.get_paths() if len(path.vertices)] or [[]]
    )


def _style_of(contour_set):
    offset_and_dashes = contour_set.get_linestyle()[0]
    if offset_and_dashes[1] is None:
        return "solid"
    return "dotted" if offset_and_dashes[1][0] < 2.5 * contour_set.get_linewidth()[0] else "dashed"


def test_colours_show_the_data_in_its_place(make_dataset):
    ds = make_dataset()
    ax = plots.phase_diagram(ds, quantity="gradient_rate_theory")
    (mesh,) = meshes(ax)
    shown = np.asarray(mesh.get_array()).reshape(11, 16)
    np.testing.assert_array_equal(shown, ds["gradient_rate_theory"][0].T)
    corners = mesh.get_coordinates()
    column = int(np.searchsorted(corners[0, :, 0], 2.0)) - 1  # the cell that covers (2, 0.5)
    row = int(np.searchsorted(corners[:, 0, 1], 0.5)) - 1
    expected = ds["gradient_rate_theory"][0].sel(weight_var=2.0, bias_var=0.5)
    assert shown[row, column] == expected.item()
    assert r"\sigma_w^2" in ax.get_xlabel()
    assert r"\sigma_b^2" in ax.get_ylabel()


def test_growth_colours_are_centred_and_shared(make_dataset):
    ds = make_dataset()
    norms = [
        meshes(plots.phase_diagram(ds, quantity=f"gradient_rate_{kind}"))[0].norm
        for kind in ("theory", "measured")
    ]
    assert norms[0](0.0) == pytest.approx(0.5)
    assert norms[0].vmin == -norms[0].vmax
    assert (norms[0].vmin, norms[0].vmax) == (norms[1].vmin, norms[1].vmax)


@pytest.mark.parametrize("quantity", ["gradient_rate_theory", "gradient_rate_measured"])
@pytest.mark.parametrize("points", [2, 16])
def test_the_lines_are_the_studys_whatever_the_grid(make_dataset, quantity, points):
    cells = {"weight_var": np.linspace(0.25, 4.0, points), "bias_var": np.linspace(0.0, 1.0, 2)}
    ax = plots.phase_diagram(make_dataset(**cells), quantity=quantity)
    drawn = {line.get_gid(): line for line in ax.lines if line.get_gid() in plane.BOUNDARIES}
    looks = {gid: line.get_linestyle() for gid, line in drawn.items()}
    assert looks == {"critical": "-", "unstable": "--", "edge": ":"}
    for gid, start in (("critical", 1.0), ("unstable", 0.5)):
        x, y = (np.asarray(a, float) for a in drawn[gid].get_data())
        np.testing.assert_allclose(x, start + y)
        assert np.nanmin(y) == 0.0
        assert np.nanmax(y) > 1.0, "to the border"
    assert set(drawn["edge"].get_xdata()) == {3.6}
    assert ax.get_ylim()[0] == 0.0


def test_a_dataset_without_lines_is_drawn_without(make_dataset):
    ds = make_dataset().drop_vars([name for name in make_dataset() if "line" in str(name)])
    figure = plots.phase_diagram_figure(ds)
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["measured correlation at the last layer, in (c)"]


def test_recipes_are_marked_where_they_land(make_dataset):
    ax = plots.phase_diagram(make_dataset())
    marks = {m.get_xdata()[0]: m.get_ydata()[0] for m in ax.lines if m.get_gid() == "recipe"}
    assert marks == {1.0: 0.0, 2.0: 0.0}
    assert {t.get_text() for t in ax.texts} == {"xavier, lecun", "he"}
    above = plots.phase_diagram(make_dataset(bias_var=[0.5, 0.6, 0.7]))
    assert not above.texts, "recipes have no bias variance"


def test_undefined_cells_are_left_uncoloured(make_dataset):
    ds = make_dataset()
    ds["gradient_rate_measured"][0, 0, 3, 4] = np.nan
    ax = plots.phase_diagram(ds)
    mask = np.ma.getmaskarray(meshes(ax)[0].get_array()).reshape(11, 16)
    assert mask.sum() == 1
    assert mask[4, 3]
    assert ax.patch.get_hatch()


def test_the_figure_has_four_panels_and_survives_export(make_dataset):
    figure = plots.phase_diagram_figure(make_dataset())
    titles = [ax.get_title(loc="left") for ax in figure.axes if meshes(ax) and ax.get_title("left")]
    assert [t[:3] for t in titles] == ["(a)", "(b)", "(c)", "(d)"]
    for kind in ("png", "pdf"):
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        assert file.tell() > 10_000
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("unstable" in label for label in labels)
    assert any("bounded" in label for label in labels)


def test_the_legend_names_only_what_is_drawn(make_dataset):
    ds = make_dataset(weight_var=[0.5, 1.0, 1.5, 2.0])  # nothing unbounded there
    ds["critical_line_status_theory"][:, 40:] = 2
    labels = [t.get_text() for t in plots.phase_diagram_figure(ds).legends[0].get_texts()]
    assert not any("unstable" in label or "bounded" in label for label in labels)


def test_several_networks_get_a_row_each(make_dataset):
    ds = make_dataset(activations=("tanh", "relu"), initialisers=("gaussian", "orthogonal"))
    figure = plots.phase_diagram_figure(ds)
    assert sum(bool(meshes(ax) and ax.get_title("left")) for ax in figure.axes) == 16
    labels = " ".join(ax.get_ylabel() for ax in figure.axes)
    for pair in ("tanh, gaussian", "tanh, orthogonal", "relu, gaussian", "relu, orthogonal"):
        assert pair in labels


def test_names_of_the_same_networks_are_drawn_once(make_dataset):
    ds = make_dataset(activations=("swish", "silu"), initialisers=("he", "gaussian", "orthogonal"))
    ds.attrs["same_as"] = json.dumps({"he": "gaussian", "swish": "silu"})
    titles = [ax.get_title(loc="left") for ax in plots.stability_map(ds).axes]
    assert titles == ["swish (= silu), he (= gaussian)", "swish (= silu), orthogonal"]


@pytest.mark.parametrize(
    ("weight_var", "bias_var"), [([1.0], [0.0, 0.1]), ([1.0, 2.0], [0.5]), ([1.0], [0.1])]
)
def test_a_single_row_or_column_can_be_drawn(make_dataset, weight_var, bias_var):
    ds = make_dataset(weight_var=weight_var, bias_var=bias_var)
    figure = plots.phase_diagram_figure(ds)
    figure.savefig(io.BytesIO())
    mesh = meshes(figure.axes[0])[0]
    assert mesh.get_array().size == len(weight_var) * len(bias_var)


def test_choices_that_do_not_exist_are_named(make_dataset):
    with pytest.raises(ValueError, match=r"quantity must be one of .*got 'colour'"):
        plots.phase_diagram(make_dataset(), quantity="colour")
    with pytest.raises(ValueError, match=r"ds must hold one activation .*got tanh, relu"):
        plots.phase_diagram(make_dataset(activations=("tanh", "relu")))
    with pytest.raises(ValueError, match=r"quantity must be one of .*got 'chi_1'"):
        plots.depth_profile(make_dataset(), quantity="chi_1")
    with pytest.raises(ValueError, match="weight_var must be at most 6 values, got 7"):
        plots.depth_profile(make_dataset(), weight_var=[1.0] * 7)


def test_depth_profile_draws_theory_and_measurement(make_dataset):
    ds = make_dataset()
    ax = plots.depth_profile(ds, weight_var=[0.5, 2.0], bias_var=0.32)
    cell = ds.sel(weight_var=2.0, bias_var=0.3, method="nearest").squeeze()
    line = next(ln for ln in ax.lines if np.array_equal(ln.get_ydata(), cell.log_gradient_z_theory))
    np.testing.assert_array_equal(line.get_xdata(), ds["layer"])
    bars = ax.containers[1]
    every = slice(None, None, 1)
    np.testing.assert_array_equal(bars[0].get_ydata(), cell.log_gradient_z_measured[every])
    low, high = bars[2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 0.5)
    assert ax.get_title(loc="center") + ax.get_title(loc="left") == r"$\sigma_b^2$ = 0.3"


def test_depth_profile_of_a_variance_is_logarithmic(make_dataset):
    ax = plots.depth_profile(make_dataset(), quantity="variance")
    assert ax.get_yscale() == "log"
    assert len(ax.containers) == 5


def test_stability_map_colours_measured_classes_and_draws_predicted_borders(make_dataset):
    ds = make_dataset(activations=("tanh", "relu"), initialisers=("gaussian", "he", "orthogonal"))
    figure = plots.stability_map(ds)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        f"{a}, {i}" for a in ("tanh", "relu") for i in ("gaussian", "he", "orthogonal")
    ]
    ax = figure.axes[0]
    (mesh,) = meshes(ax)
    np.testing.assert_array_equal(
        np.asarray(mesh.get_array()).reshape(11, 16), ds["growth_measured"][0, 0].T
    )
    threshold = 2 * np.log(10) / 29
    for linestyle, sign in (("dashed", -1), ("solid", 1)):
        border = contours(ax, linestyle)
        expected = np.exp(sign * threshold) * (1 + border[:, 1])
        np.testing.assert_allclose(border[:, 0], expected, atol=0.05)


def test_classes_differ_in_grey():
    colours = [style.CLASS_COLOURS[name].lstrip("#") for name in style.CLASS_COLOURS]
    rgb = np.asarray([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in colours])
    grey = np.sort(rgb @ [0.299, 0.587, 0.114])
    assert (np.diff(grey) > 0.2).all()


def test_panels_draw_on_given_axes(make_dataset):
    _, (left, right) = plt.subplots(1, 2)
    assert plots.phase_diagram(make_dataset(), ax=left) is left
    assert plots.stability_panel(make_dataset(), ax=right) is right
