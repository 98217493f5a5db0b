"""Singular-value spectra of deep Jacobians: measured histograms under predicted densities."""

from typing import Any

import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.patches
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import xarray as xr

from sigprop.plots import plane, style

__all__ = ["one_spectrum", "spectrum", "spectrum_figure", "spectrum_growth"]

_LABELS = {
    "log_largest": r"largest singular value $s_{\max}$",
    "relative_variance": r"Var$\,\lambda$ / (mean $\lambda$)$^2$",
    "log_mean_square": r"mean $\lambda$",
}
_MARKERS = "osD^vP"


def one_spectrum(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` for its only activation, initialiser and bias_var.

    Raises
    ------
    ValueError
        If there are several to choose from.
    """
    ds = plane.one_network(ds)
    if "bias_var" not in ds.dims:
        return ds
    if ds.sizes["bias_var"] > 1:
        values = ", ".join(f"{v:g}" for v in ds["bias_var"].values)
        raise ValueError(f"ds must hold one bias_var (choose with ds.sel), got {values}")
    return ds.isel(bias_var=0)


def spectrum(
    ds: xr.Dataset, ax: matplotlib.axes.Axes | None = None, depth: int | None = None
) -> matplotlib.axes.Axes:
    """Density of ln s over ``depth`` layers: bars measured, line predicted.

    Parameters
    ----------
    ds
        What the Jacobian-spectrum study gave, for one activation, initialiser and bias_var.
    ax
        Where to draw; a new figure if None.
    depth
        One of ``ds.histogram_depth``; the largest if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        For a dataset of several networks, or a depth without a histogram.
    """
    ds = one_spectrum(ds)
    kept = ds["histogram_depth"].values.tolist()
    depth = kept[-1] if depth is None else depth
    if depth not in kept:
        raise ValueError(f"depth must be one of {', '.join(map(str, kept))}, got {depth}")
    ax = style.new_axes(ax)
    at = ds.sel(histogram_depth=depth)
    edges, density = at["edge_log_singular_value"].values, at["density_measured"].values
    ax.stairs(density, edges, fill=True, color="0.82")
    ax.errorbar(
        (edges[1:] + edges[:-1]) / 2,
        density,
        at["density_stderr"].values,
        fmt="none",
        ecolor="0.45",
        elinewidth=0.7,
    )
    curve = at["density_theory"].values
    ax.plot(at["point_log_singular_value"], curve, color=style.LINE_COLOURS[0], linewidth=1.4)
    highest = max(float(density.max(initial=0.0)), 1e-300)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.35 * highest))
    ax.set(xlabel=r"$\ln s$", ylabel=r"density of $\ln s$")
    _write_zeros(ax, ds.sel(depth=depth))
    return ax


def _write_zeros(ax: matplotlib.axes.Axes, at: xr.Dataset) -> None:
    """The part of the spectrum that no logarithm shows."""
    told, found = (float(at[f"zero_fraction_{kind}"]) for kind in ("theory", "measured"))
    if max(told, found) > 0:
        text = f"zeros: {told:.0%} predicted\n{found:.1%} measured"
        ax.text(0.03, 0.95, text, transform=ax.transAxes, va="top", fontsize="small")


def spectrum_growth(
    ds: xr.Dataset, ax: matplotlib.axes.Axes | None = None, quantity: str = "log_largest"
) -> matplotlib.axes.Axes:
    """A statistic of the spectrum against depth, for every network: theory as lines.

    Parameters
    ----------
    ds
        What the Jacobian-spectrum study gave, for one bias_var.
    ax
        Where to draw; a new figure if None.
    quantity
        ``"log_largest"``, ``"relative_variance"`` or ``"log_mean_square"``; the logarithms are
        shown as powers on a logarithmic axis.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        For an unknown quantity.
    """
    if quantity not in _LABELS:
        raise ValueError(f"quantity must be one of {', '.join(_LABELS)}, got {quantity!r}")
    ax = style.new_axes(ax)
    for number, network in enumerate(map(one_spectrum, plane.pairs_of(ds))):
        _draw_growth(ax, network, quantity, number)
    ax.set(xscale="log", yscale="log", xlabel="square layers $k$", ylabel=_LABELS[quantity])
    depths = ds["depth"].values
    ax.set_xticks(depths[:: max(1, len(depths) // 6)], labels=depths[:: max(1, len(depths) // 6)])
    style.plain_log_ticks(ax.yaxis)
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    return ax


def _draw_growth(ax, network: xr.Dataset, quantity: str, number: int) -> None:
    theory, measured, stderr = (
        network[f"{quantity}_{kind}"].values for kind in ("theory", "measured", "stderr")
    )
    if quantity.startswith("log_"):
        theory, measured = np.exp(theory), np.exp(measured)
        stderr = measured * stderr
    look = _look(number)
    ax.plot(network["depth"], theory, color=look["color"], linestyle=look["linestyle"])
    ax.errorbar(
        network["depth"], measured, stderr, fmt=look["marker"], color=look["color"],
        markersize=3.5, linewidth=0.8, markerfacecolor="white",
    )  # fmt: skip


def _look(number: int) -> dict[str, Any]:
    return {
        "color": style.LINE_COLOURS[number % len(style.LINE_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": ("solid", "dashed", "dashdot", "dotted")[number % 4],
    }


def spectrum_figure(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Histograms by network (rows) and depth (columns), and how their width and top edge grow.

    Parameters
    ----------
    ds
        What the Jacobian-spectrum study gave, for one bias_var.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    networks = [one_spectrum(network) for network in plane.pairs_of(ds)]
    depths = ds["histogram_depth"].values
    with style.paper_style():
        figure = plt.figure(figsize=(2.05 * len(depths) + 3.1, 1.4 * max(len(networks), 3) + 1.0))
        left, right = np.ravel(
            figure.subfigures(1, 2, width_ratios=[2.05 * len(depths), 3.1], squeeze=False)
        )
        axes = left.subplots(len(networks), len(depths), squeeze=False)
        for network, row in zip(networks, axes):
            for depth, ax in zip(depths, row):
                spectrum(network, ax, int(depth))
                # Every panel has a range of its own: a spectrum widens manifold on its way.
                ax.locator_params(nbins=4)
                ax.tick_params(labelsize="x-small", pad=1.5, length=2)
                ax.set(ylabel="", xlabel=r"$\ln s$" if network is networks[-1] else "")
            row[0].set_ylabel(_name(network))
        for depth, ax in zip(depths, axes[0]):
            ax.set_title(rf"$k$ = {depth} layers")
        left.supylabel(r"density of $\ln s$", fontsize="medium")
        for ax, quantity in zip(right.subplots(2, 1), ("log_largest", "relative_variance")):
            spectrum_growth(ds, ax, quantity)
        figure.suptitle(_caption(ds), fontsize=9)
        figure.legend(handles=_legend(networks), loc="outside lower center", ncols=4)
    return figure


def _name(network: xr.Dataset) -> str:
    return (
        f"{plane.name_of(network)}\n"
        rf"$\sigma_w^2$ = {float(network['weight_var']):.3g}"
    )


def _caption(ds: xr.Dataset) -> str:
    size = ", ".join(f"{name} {ds.attrs[name]}" for name in ("width", "seeds") if name in ds.attrs)
    bias = ", ".join(f"{value:g}" for value in np.atleast_1d(ds["bias_var"].values))
    return rf"$\partial z^{{k+1}}/\partial z^1$ at initialisation: {size}, $\sigma_b^2$ = {bias}"


def _legend(networks: list[xr.Dataset]) -> list:
    line = matplotlib.lines.Line2D
    entries = [
        matplotlib.patches.Patch(color="0.82", label="measured, ± standard error"),
        line([], [], color=style.LINE_COLOURS[0], label="free probability"),
    ]
    for number, network in enumerate(networks):
        name = plane.name_of(network)
        entries.append(line([], [], label=name, markersize=3.5, mfc="white", **_look(number)))
    return entries
