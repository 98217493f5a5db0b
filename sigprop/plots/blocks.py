"""Gradient growth of every block over many layers: theory as lines, measurement as points."""

from collections.abc import Sequence

import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["block_growth", "block_growth_figure"]

_MARKERS = ("o", "s", "^", "v", "D", "P")
_DASHES = ("-", (0, (3, 3)))
_PER_PANEL = len(style.LINE_COLOURS)  # as many as can be told apart
_POINTS = 9


def block_growth(
    ds: xr.Dataset,
    ax: matplotlib.axes.Axes | None = None,
    blocks: Sequence[str] | None = None,
) -> matplotlib.axes.Axes:
    """What the squared gradient gains from a layer back to the first, on logarithmic axes.

    On them growth by a factor a layer is a line of slope 1, growth like exp √l one of slope 1/2,
    and a power of l nearly flat.

    Parameters
    ----------
    ds
        What the blocks study gave, for one activation and weight_var.
    ax
        Where to draw; a new figure if None.
    blocks
        Which; all by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the dataset holds more than one activation or weight_var.
    """
    for dim in ("activation", "weight_var"):
        if ds[dim].size != 1:
            raise ValueError(f"ds must hold one {dim}, got {ds[dim].size}; choose with ds.sel")
    ds = ds.squeeze(["activation", "weight_var"]) if "activation" in ds.dims else ds
    ax = style.new_axes(ax)
    names = [str(name) for name in ds["block"].values] if blocks is None else list(blocks)
    for number, name in enumerate(names):
        _draw(ax, ds.sel(block=name), name, number)
    ax.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.7)
    ax.set(
        xlim=(1, float(ds["layer"].max())),
        xlabel=style.SYMBOLS["layer"],
        ylabel=r"$\ln\,\|g^1\|^2 - \ln\,\|g^l\|^2$",
    )
    ax.set_title(
        rf"{ds['activation'].item()}, $\sigma_w^2$ = {float(ds['weight_var']):.3g}", loc="left"
    )
    return ax


def _look(number: int) -> dict:
    """Every second line is dashed and on top: two laws that are one both show."""
    return {
        "color": style.LINE_COLOURS[number % _PER_PANEL],
        "marker": _MARKERS[number % _PER_PANEL],
        "linestyle": _DASHES[number % 2],
        "zorder": 2.0 + 0.1 * (number % 2),
    }


def _draw(ax: matplotlib.axes.Axes, line: xr.Dataset, name: str, number: int) -> None:
    look = _look(number)
    layer = line["layer"].values
    ax.plot(
        layer,
        line["log_gradient_theory"],
        color=look["color"],
        linestyle=look["linestyle"],
        zorder=look["zorder"],
        linewidth=1.0,
    )
    # Points of different blocks stand beside each other, not on top.
    ends = min(2.0 * 1.35 ** (number % 3), layer[-1]), layer[-1] / 1.15 ** (number % 3)
    wanted = np.unique(np.geomspace(*ends, _POINTS).round().astype(int))
    points = line.sel(layer=wanted)
    ax.errorbar(
        wanted,
        points["log_gradient_corrected_measured"],
        yerr=points["log_gradient_corrected_stderr"],
        fmt=look["marker"],
        color=look["color"],
        markersize=3.2,
        markeredgewidth=0.8,
        elinewidth=0.8,
        capsize=0,
    )


def block_growth_figure(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """A column for every activation, at the first weight_var, and a row for every six blocks.

    Parameters
    ----------
    ds
        What the blocks study gave.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    ds = ds.isel(weight_var=[0])
    names = [str(name) for name in ds["block"].values]
    groups = [names[start : start + _PER_PANEL] for start in range(0, len(names), _PER_PANEL)]
    columns = ds.sizes["activation"]
    size = 2.7 * columns + 1.6, 2.6 * len(groups) + 0.5
    with style.paper_style():
        figure, axes = plt.subplots(
            len(groups), columns, figsize=size, sharex=True, sharey="row", squeeze=False
        )
        for row, group in zip(axes, groups):
            for number, ax in enumerate(row):
                block_growth(ds.isel(activation=[number]), ax, blocks=group)
                ax.label_outer()
            row[-1].legend(handles=_handles(group), loc="center left", bbox_to_anchor=(1.02, 0.5))
        for ax in axes[1:].flat:
            ax.set_title("")
        figure.suptitle(
            "squared gradient gained back to the first layer\nlines: infinite width; points: "
            f"networks of width {ds.attrs['width']}, {ds.attrs['seeds']} seeds",
            fontsize=8.5,
        )
    return figure


def _handles(names: Sequence[str]) -> list[matplotlib.lines.Line2D]:
    looks = [{**_look(number), "linewidth": 1.0, "markersize": 4} for number in range(len(names))]
    labels = [name.replace("_", " ") for name in names]
    return [
        matplotlib.lines.Line2D([], [], label=label, **look) for label, look in zip(labels, looks)
    ]
