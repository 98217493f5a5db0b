"""Which remedy cures which failing run: a matrix of verdicts, and how far each run got."""

import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import matplotlib.patches
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["remedies", "verdict_matrix"]

_COLOURS = {
    "cured": "#1B7837",
    "helped": "#A6DBA0",
    "no_effect": "#F7F7F2",
    "worse": "#C8553D",
    "not_applicable": "#D0D0D0",
}
_LETTERS = {"cured": "C", "helped": "H", "no_effect": "·", "worse": "W", "not_applicable": ""}
_LIGHT_TEXT = ("cured", "worse")


def verdict_matrix(ds: xr.Dataset, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
    """A cell for every remedy (rows) and patient (columns): colour, letter, and the accuracy.

    Parameters
    ----------
    ds
        With ``verdict`` (a flag variable) by ``patient`` and ``remedy``, and ``accuracy`` by
        ``seed`` too.
    ax
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    ax = style.new_axes(ax)
    codes = ds["verdict"].transpose("remedy", "patient")
    names = codes.attrs["flag_meanings"].split()
    colours = matplotlib.colors.ListedColormap([_COLOURS[name] for name in names])
    norm = matplotlib.colors.BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    x, y = (np.arange(size + 1) - 0.5 for size in codes.shape[::-1])
    ax.pcolormesh(x, y, codes.values, cmap=colours, norm=norm, edgecolors="white", linewidth=1.2)
    accuracy = ds["accuracy"].mean("seed").transpose("remedy", "patient").values
    for (row, column), code in np.ndenumerate(codes.values):
        name = names[code]
        look: dict = {"color": "white" if name in _LIGHT_TEXT else "black", "va": "center"}
        ax.text(column - 0.32, row, _LETTERS[name], fontweight="bold", ha="center", **look)
        if np.isfinite(accuracy[row, column]):
            ax.text(column + 0.42, row, f"{accuracy[row, column]:.2f}", ha="right", **look)
    _label(ax, codes)
    return ax


def _label(ax: matplotlib.axes.Axes, codes: xr.DataArray) -> None:
    patients = [_words(name).replace(" ", "\n", 1) for name in codes["patient"].values]
    ax.set_xticks(range(len(patients)), patients)
    ax.set_yticks(range(codes.sizes["remedy"]), [_words(n) for n in codes["remedy"].values])
    ax.set_ylim(codes.sizes["remedy"] - 0.5, -0.5)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def remedies(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """The matrix, and beside each other how far the untreated and the control got.

    Parameters
    ----------
    ds
        As for `verdict_matrix`, with ``accuracy_untreated`` and ``accuracy_control`` by ``patient``
        and ``seed``, and the same of ``loss``.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    with style.paper_style():
        rows = ds.sizes["remedy"]
        size = (max(1.05 * ds.sizes["patient"] + 1.9, 4.0), 0.2 * rows + 2.6)
        figure, (top, below) = plt.subplots(
            2, 1, figsize=size, height_ratios=[4, rows], sharex=True
        )
        _draw_ends(top, ds)
        verdict_matrix(ds, below)
        below.tick_params(labeltop=False, labelbottom=True)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    return figure


def _draw_ends(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    """Every seed of every treated run as a dot, between bars for untreated and control."""
    places = np.arange(ds.sizes["patient"])
    for course, colour, marker in (("control", "black", "_"), ("untreated", "0.45", "x")):
        mean = ds[f"accuracy_{course}"].mean("seed")
        look = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 8}
        ax.plot(places, mean, label=course, zorder=3, **look)
    treated = ds["accuracy"].mean("seed").transpose("patient", "remedy").values
    spread = np.linspace(-0.3, 0.3, treated.shape[1])
    for place, values in zip(places, treated):
        ax.plot(place + spread, values, ".", color=style.LINE_COLOURS[0], markersize=3)
    none = np.isnan(treated).all(axis=1)
    for place in places[none]:
        ax.text(place, 0.5, "(loss,\nnot accuracy)", ha="center", va="center", color="0.4")
    ax.set(ylabel="test accuracy", ylim=(-0.03, 1.03))
    ax.plot([], [], ".", color=style.LINE_COLOURS[0], label="each remedy, in the order below")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _legend() -> list[matplotlib.patches.Patch]:
    return [
        matplotlib.patches.Patch(
            facecolor=colour, edgecolor="0.5", label=f"{_LETTERS[name]} {_words(name)}".strip()
        )
        for name, colour in _COLOURS.items()
    ]
