"""Condition numbers of kernels against depth: theory as lines, networks as points."""

import matplotlib.axes
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["kernel_condition", "kernel_condition_figure"]

_NAMES = {"nngp": "NNGP", "ntk": "NTK"}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
# Where axes end: the ordered phase leaves every scale, the others should stay readable.
_MOST = {"nngp": 3e4, "ntk": 3e2}


def kernel_condition(
    ds: xr.Dataset, ax: matplotlib.axes.Axes | None = None, kernel: str = "ntk"
) -> matplotlib.axes.Axes:
    """Condition number of one kernel against depth, a line for every weight_var.

    Parameters
    ----------
    ds
        What the kernel-condition study gave, for one activation; the smallest bias_var is shown.
    ax
        Where to draw; a new figure if None.
    kernel
        "ntk" (with the measured networks) or "nngp".

    Raises
    ------
    ValueError
        For another kernel, several activations, or more weight_var than can be told apart.
    """
    if kernel not in _NAMES:
        raise ValueError(f"kernel must be one of {', '.join(_NAMES)}, got {kernel!r}")
    if ds["activation"].size != 1:
        raise ValueError(f"ds must hold one activation, got {ds['activation'].values.tolist()}")
    if ds.sizes["weight_var"] > len(_MARKERS):
        raise ValueError(
            f"ds must hold at most {len(_MARKERS)} weight_var, got {ds.sizes['weight_var']}"
        )
    line = ds.squeeze("activation") if "activation" in ds.dims else ds
    line = line.isel(bias_var=0)
    ax = style.new_axes(ax)
    for i, weight_var in enumerate(line["weight_var"].values):
        _draw(ax, line.sel(weight_var=weight_var), kernel, i)
    ax.set(xscale="log", yscale="log", xlabel=r"depth $D$ (affine layers)")
    ax.set_ylim(0.8, min(ax.get_ylim()[1], _MOST[kernel]))
    ax.set_ylabel(rf"condition number $\kappa$ of the {_NAMES[kernel]}")
    return ax


def _draw(ax: matplotlib.axes.Axes, cell: xr.Dataset, kernel: str, index: int) -> None:
    colour = style.LINE_COLOURS[index]
    phase = _phase(cell)
    ax.plot(
        cell["depth"], cell[f"{kernel}_condition_theory"], color=colour, linewidth=1.3,
        linestyle=_DASHES[index], label=rf"{float(cell['weight_var']):.3g}, {phase}",
    )  # fmt: skip
    if kernel != "ntk":
        return
    _draw_points(ax, cell, "log_ntk_condition", fmt=_MARKERS[index], color=colour)
    if "log_ntk_condition_infinite_width_measured" in cell:
        hollow = {"fmt": _MARKERS[index], "color": colour, "markerfacecolor": "white"}
        _draw_points(ax, cell, "log_ntk_condition_infinite_width", alpha=0.6, **hollow)


def _draw_points(ax: matplotlib.axes.Axes, cell: xr.Dataset, name: str, **look) -> None:
    middle, error = (cell[f"{name}_{part}"].values for part in ("measured", "stderr"))
    low, high = np.exp(middle - error), np.exp(middle + error)
    ax.errorbar(
        cell["measured_depth"], np.exp(middle), yerr=(np.exp(middle) - low, high - np.exp(middle)),
        markersize=3.5, linewidth=0.8, **look,
    )  # fmt: skip


def _phase(cell: xr.Dataset) -> str:
    codes = cell["phase_theory"].attrs
    words = dict(zip(codes["flag_values"], codes["flag_meanings"].split()))
    return words[int(cell["phase_theory"])]


def kernel_condition_figure(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """A row for every activation: the NTK over networks, and the NNGP."""
    names = ds["activation"].values
    with style.paper_style():
        figure, axes = plt.subplots(
            len(names), 2, figsize=(6.8, 0.4 + 2.5 * len(names)), squeeze=False
        )
        for row, name in zip(axes, names):
            one = ds.sel(activation=[name])
            for ax, kernel in zip(row, ("ntk", "nngp")):
                kernel_condition(one, ax, kernel)
            row[0].set_title(
                f"{name}: NTK, theory (lines) and networks: width {ds.attrs['width']}\n"
                r"(full) and $N \to \infty$ from two widths (hollow)"
            )
            row[1].set_title(f"{name}: NNGP, theory")
            row[1].legend(title=r"$\sigma_w^2$, phase")
    return figure
