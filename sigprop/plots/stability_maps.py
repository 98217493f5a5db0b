"""Which initialisation lets gradients through which activation: one panel a pair."""

import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import matplotlib.lines
import matplotlib.patches
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import plane, style

__all__ = ["stability_map", "stability_panel"]


def stability_panel(ds: xr.Dataset, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
    """Measured class of every cell in colour, borders of the predicted classes as lines.

    Parameters
    ----------
    ds
        What the phase-diagram study gave, for one activation and initialiser.
    ax
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    ds = plane.one_network(ds)
    ax = style.new_axes(ax)
    colours = matplotlib.colors.ListedColormap(list(style.CLASS_COLOURS.values()))
    norm = matplotlib.colors.BoundaryNorm([-0.5, 0.5, 1.5, 2.5], 3)
    classes = ds["growth_measured"]
    plane.draw_cells(ax, classes.where(classes < len(style.CLASS_COLOURS)), norm, colours)
    threshold = growth_threshold(ds)
    rate = ds["gradient_rate_theory"].clip(-5 * threshold, 5 * threshold)
    look = {"colors": "black", "linewidths": 1.3}
    plane.draw_contours(ax, rate, [-threshold], linestyles="dashed", **look)
    plane.draw_contours(ax, rate, [threshold], linestyles="solid", **look)
    plane.draw_recipes(ax, ds)
    return ax


def growth_threshold(ds: xr.Dataset) -> float:
    """Growth a layer (of the log squared norm) up to which a network counts as stable."""
    return 2 * float(np.log(ds.attrs["stable_factor"])) / (ds.attrs["depth"] - 1)


def stability_map(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """A panel for every activation (rows) and initialiser (columns).

    Parameters
    ----------
    ds
        What the phase-diagram study gave, for any number of activations and initialisers.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    networks = plane.pairs_of(ds)
    columns = len({n["initialiser"].item() for n in networks})
    rows = len(networks) // columns
    with style.paper_style():
        size = (max(1.9 * columns + 0.6, 3.6), 1.7 * rows + 1.1)
        figure, axes = plt.subplots(
            rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False
        )
        for network, ax in zip(networks, axes.flat):
            stability_panel(network, ax)
            name = plane.name_of(network)
            ax.set_title(name, loc="left")
            ax.label_outer()
        attrs, break_line = ds.attrs, "\n" if columns < 3 else " "
        figure.suptitle(
            f"squared gradient norm{break_line}"
            f"over {attrs['depth']} layers of width {attrs['width']}, "
            f"{attrs['seeds']} seeds",
            fontsize=9,
        )
        ncols = 5 if columns > 2 else 2
        figure.legend(handles=_legend(ds), loc="outside lower center", ncols=ncols)
    return figure


def _legend(ds: xr.Dataset) -> list:
    patches = [
        matplotlib.patches.Patch(facecolor=colour, edgecolor="0.4", label=f"measured: {name}")
        for name, colour in style.CLASS_COLOURS.items()
    ]
    factor = f"{ds.attrs['stable_factor']:g}"
    line = matplotlib.lines.Line2D
    return [
        *patches,
        line([], [], color="black", linestyle="--", label=f"predicted: norm shrinks by {factor}"),
        line([], [], color="black", linestyle="-", label=f"predicted: norm grows by {factor}"),
    ]
