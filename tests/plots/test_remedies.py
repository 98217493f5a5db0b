import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from sigprop import plots

MEANINGS = "cured helped no_effect worse not_applicable"


@pytest.fixture
def ds():
    """Every verdict once, and a patient that has no accuracy."""
    accuracy = np.asarray([[0.9, 0.5, 0.2, 0.1, np.nan], [np.nan] * 5])[..., None] + [0.0, 0.02]
    flags = {"flag_values": [0, 1, 2, 3, 4], "flag_meanings": MEANINGS}
    return xr.Dataset(
        {
            "verdict": (("patient", "remedy"), [[0, 1, 2, 3, 4], [4, 4, 4, 2, 0]], flags),
            "accuracy": (("patient", "remedy", "seed"), accuracy),
            "accuracy_control": (("patient", "seed"), [[0.9, 1.0], [np.nan, np.nan]]),
            "accuracy_untreated": (("patient", "seed"), [[0.2, 0.3], [np.nan, np.nan]]),
        },
        {
            "patient": ["deep_net", "line_fit"],
            "remedy": ["he", "adam", "l2", "relu", "batch_norm"],
            "seed": [0, 1],
        },
    )


def test_every_cell_has_its_letter_and_its_accuracy(ds):
    ax = plots.verdict_matrix(ds)
    texts = {(round(t.get_position()[0]), round(t.get_position()[1])): [] for t in ax.texts}
    for text in ax.texts:
        x, y = text.get_position()
        texts[round(x), round(y)].append(text.get_text())
    assert texts[0, 0] == ["C", "0.91"]
    assert texts[0, 1] == ["H", "0.51"]
    assert texts[0, 3] == ["W", "0.11"]
    assert texts[1, 4] == ["C"]
    assert [t.get_text() for t in ax.get_yticklabels()][-1] == "batch norm"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["deep\nnet", "line\nfit"]


def test_colours_are_told_apart_in_grey(ds):
    (mesh,) = plots.verdict_matrix(ds).collections
    colours = mesh.cmap(mesh.norm(np.arange(4)))[:, :3]
    grey = np.sort(colours @ [0.299, 0.587, 0.114])
    assert np.diff(grey).min() > 0.08


def test_the_figure_shows_both_ends_beside_every_remedy(ds):
    figure = plots.remedies(ds)
    figure.canvas.draw()
    top, matrix = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in top.lines}
    np.testing.assert_allclose(lines["control"][0], 0.95)
    np.testing.assert_allclose(lines["untreated"][0], 0.25)
    assert len(matrix.get_yticklabels()) == 5
    plt.close(figure)
