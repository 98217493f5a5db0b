import numpy as np
import pytest
import xarray as xr

from sigprop import plots

BLOCKS = [f"block_{number}" for number in range(8)]


@pytest.fixture
def ds():
    """Block b gains b ln l in theory; networks 0.1 more, ± 0.05, relu twice as much as tanh."""
    layer = np.arange(1, 201)
    theory = np.asarray([1.0, 2.0])[:, None, None, None] * np.arange(8.0)[:, None, None]
    theory = theory * np.log(layer)
    dims = ("activation", "block", "weight_var", "layer")
    found = {
        "log_gradient_theory": (dims, theory),
        "log_gradient_corrected_measured": (dims, theory + 0.1),
        "log_gradient_corrected_stderr": (dims, np.full(theory.shape, 0.05)),
    }
    coords = {"activation": ["tanh", "relu"], "block": BLOCKS, "weight_var": [1.5], "layer": layer}
    return xr.Dataset(found, coords, {"width": 64, "seeds": 3})


def test_lines_are_theory_and_points_are_networks(ds):
    ax = plots.block_growth(ds.sel(activation=["relu"]), blocks=["block_2", "block_3"])
    line, points = ax.lines[2:4]  # of block_3
    assert line.get_color() == points.get_color()
    np.testing.assert_allclose(line.get_ydata(orig=False), 6 * np.log(np.arange(1, 201)))
    layers = points.get_xdata(orig=False)
    assert (line.get_marker(), layers.size > 5) == ("None", True)
    np.testing.assert_allclose(points.get_ydata(orig=False), 6 * np.log(layers) + 0.1)
    (bars,) = ax.containers[1].lines[2]
    lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 0.1)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "symlog")
    assert "relu" in ax.get_title(loc="left")
    assert ax.get_xlabel() == "layer $l$"


def test_two_blocks_with_one_law_both_show(ds):
    """Solid below, dashed on top, in colours of their own."""
    ax = plots.block_growth(ds.sel(activation=["tanh"]), blocks=BLOCKS[:2])
    lines = [line for line in ax.lines if len(line.get_xdata()) == 200]
    assert lines[0].get_linestyle() == "-"
    assert lines[1].get_linestyle() == "--"
    assert lines[1].get_zorder() > lines[0].get_zorder()
    assert lines[0].get_color() != lines[1].get_color()


def test_a_figure_has_a_column_for_every_activation_and_a_row_for_every_six_blocks(ds):
    figure = plots.block_growth_figure(ds)
    assert len(figure.axes) == 4
    assert [len(ax.containers) for ax in figure.axes] == [6, 6, 2, 2]
    labels = [
        [text.get_text() for ax in figure.axes[row : row + 2] for text in _legend_texts(ax)]
        for row in (0, 2)
    ]
    assert labels == [[b.replace("_", " ") for b in part] for part in (BLOCKS[:6], BLOCKS[6:])]
    assert "width 64, 3 seeds" in figure.get_suptitle()


def _legend_texts(ax):
    legend = ax.get_legend()
    return legend.get_texts() if legend else []


def test_fewer_layers_than_points(ds):
    ax = plots.block_growth(ds.isel(activation=[0], layer=slice(0, 3)), blocks=BLOCKS[3:6])
    assert ax.get_xlim() == (1.0, 3.0)


def test_more_than_one_activation_must_be_chosen_from(ds):
    with pytest.raises(
        ValueError, match=r"ds must hold one activation, got 2; choose with ds\.sel"
    ):
        plots.block_growth(ds)
