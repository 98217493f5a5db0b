"""One quantity layer by layer: theory as lines, measurement as points with error bars."""

from collections.abc import Sequence

import matplotlib.axes
import numpy as np
import xarray as xr

from sigprop.plots import plane, style

__all__ = ["depth_profile"]

_LOGARITHMIC = ("variance", "one_minus_correlation")
_POINTS = 20


def depth_profile(
    ds: xr.Dataset,
    ax: matplotlib.axes.Axes | None = None,
    quantity: str = "log_gradient_z",
    weight_var: Sequence[float] | None = None,
    bias_var: float | None = None,
) -> matplotlib.axes.Axes:
    """``quantity`` against the layer, at one bias_var, for a few weight_var.

    Parameters
    ----------
    ds
        What the phase-diagram study gave, for one activation and initialiser.
    ax
        Where to draw; a new figure if None.
    quantity
        ``"variance"``, ``"correlation"``, ``"log_gradient_z"``: anything the dataset holds along
        ``layer`` as ``<quantity>_theory``, ``_measured`` and ``_stderr``.
    weight_var, bias_var
        Which cells; the nearest ones in the dataset are shown. Five spread evenly, and the
        smallest bias_var, by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the dataset has no such quantity along ``layer``.
    """
    along_layers = [str(n) for n in ds.data_vars if "layer" in ds[n].dims]
    known = [n.removesuffix("_theory") for n in along_layers if n.endswith("_theory")]
    if quantity not in known:
        raise ValueError(f"quantity must be one of {', '.join(known)}, got {quantity!r}")
    ds = plane.one_network(ds)
    ax = style.new_axes(ax)
    bias_var = float(ds["bias_var"].min()) if bias_var is None else bias_var
    line = ds.sel(bias_var=bias_var, method="nearest")
    for colour, cell in zip(style.LINE_COLOURS, _cells(line, weight_var)):
        _draw(ax, cell, quantity, colour)
    if quantity in _LOGARITHMIC:
        ax.set_yscale("log")
    label = style.SYMBOLS.get(quantity, quantity.replace("_", " "))
    ax.set(xlabel=style.SYMBOLS["layer"], ylabel=label)
    ax.set_title(rf"$\sigma_b^2$ = {float(line['bias_var']):.3g}", loc="left")
    ax.legend(title=r"$\sigma_w^2$")
    return ax


def _cells(line: xr.Dataset, weight_var: Sequence[float] | None) -> list[xr.Dataset]:
    if weight_var is None:
        count = min(5, line.sizes["weight_var"])
        wanted = np.linspace(0, line.sizes["weight_var"] - 1, count).round().astype(int)
        return [line.isel(weight_var=i) for i in wanted]
    if len(weight_var) > len(style.LINE_COLOURS):
        most = len(style.LINE_COLOURS)
        raise ValueError(f"weight_var must be at most {most} values, got {len(weight_var)}")
    return [line.sel(weight_var=value, method="nearest") for value in weight_var]


def _draw(ax: matplotlib.axes.Axes, cell: xr.Dataset, quantity: str, colour: str) -> None:
    layers = cell["layer"].values
    ax.plot(layers, cell[f"{quantity}_theory"], color=colour, linewidth=1.2)
    step = max(1, len(layers) // _POINTS)
    shown = cell.isel(layer=slice(None, None, step))
    ax.errorbar(
        shown["layer"],
        shown[f"{quantity}_measured"],
        yerr=shown[f"{quantity}_stderr"],
        fmt="o",
        markersize=2.5,
        linewidth=0.8,
        color=colour,
        label=f"{float(cell['weight_var']):.3g}",
    )
