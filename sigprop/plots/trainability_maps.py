"""Accuracy over depth and weight variance, multiples of the correlation depth scale over it."""

import matplotlib.axes
import matplotlib.collections
import matplotlib.colors
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["trainability", "trainability_figure", "trainable_depth"]

_SIDES = (("ordered", "o", style.LINE_COLOURS[0]), ("chaotic", "^", style.LINE_COLOURS[1]))
_SCALE = "depth_scale_correlation_theory"


def trainability(
    ds: xr.Dataset,
    ax: matplotlib.axes.Axes | None = None,
    budget: int | None = None,
    multiples: tuple[float, ...] = (3.0, 6.0),
) -> matplotlib.axes.Axes:
    """Accuracy over weight variance and depth, multiples of xi_c and measured boundaries over it.

    Parameters
    ----------
    ds
        What ``with_boundaries`` gives, for one activation.
    ax
        Where to draw; a new figure if None.
    budget
        Which reading; the last if None.
    multiples
        Of xi_c, > 0, drawn besides the fitted one.

    Raises
    ------
    ValueError
        For several activations.
    """
    ds = _one_activation(ds)
    at = ds.isel(budget=-1) if budget is None else ds.sel(budget=budget)
    ax = style.new_axes(ax)
    # Between the two sides nothing was trained: each has cells of its own.
    for phase, _, _ in _SIDES:
        side = at.isel(weight_var=_in_phase(at, phase))
        if side.sizes["weight_var"]:
            _draw_cells(ax, side)
            _draw_scale(ax, side, multiples)
            _draw_fitted(ax, side)
    found = _flagged(at, "boundary_status", "found")
    mark = {"marker": "o", "markersize": 3.5, "linestyle": "none", "markeredgecolor": "black"}
    ax.plot(at["weight_var"][found], at["boundary_depth"][found], color="white", gid="boundary",
            label="half of the peak", **mark)  # fmt: skip
    depth = at["depth"].values
    ax.set(yscale="log", ylim=(depth[0], depth[-1]), ylabel="depth $L$ (layers)")
    ax.set_xlabel(style.SYMBOLS["weight_var"])
    style.plain_log_ticks(ax.yaxis)
    ax.set_title(f"{_name(ds)}, {int(at['budget'])} updates")
    return ax


def _draw_cells(ax: matplotlib.axes.Axes, side: xr.Dataset) -> None:
    depth = side["depth"].values
    rows = _log_edges(depth)
    columns = style.edges(side["weight_var"].values)
    values = side["accuracy"].transpose("depth", "weight_var").values
    norm = matplotlib.colors.Normalize(0.0, 1.0)
    ax.pcolormesh(columns, rows, values, norm=norm, cmap="cividis", rasterized=True)


def _log_edges(centres: np.ndarray) -> np.ndarray:
    """Borders half-way between depths on a log axis."""
    logs = np.log(centres)
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp([2 * logs[0] - middle[0], *middle, 2 * logs[-1] - middle[-1]])


def _draw_scale(ax: matplotlib.axes.Axes, side: xr.Dataset, multiples: tuple[float, ...]) -> None:
    for multiple, dashes in zip(multiples, (":", "--", "-.", "-") * len(multiples)):
        ax.plot(side["weight_var"], multiple * side[_SCALE], color="black", linestyle=dashes,
                linewidth=1.3, path_effects=style.halo(2.2),
                label=rf"${multiple:g}\,\xi_c$")  # fmt: skip


def _draw_fitted(ax: matplotlib.axes.Axes, side: xr.Dataset) -> None:
    k = float(side["fit_k"].sel(side="both"))
    if np.isfinite(k):
        ax.plot(side["weight_var"], k * side[_SCALE], color="black", linewidth=1.5,
                path_effects=style.halo(2.4), label=r"fitted $k\,\xi_c$")  # fmt: skip


def trainable_depth(ds: xr.Dataset, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
    """Boundary depth against xi_c: filled after all updates, hollow after half; fits as lines.

    Bounds, where the boundary lies beyond the deepest network, are drawn as arrows.
    """
    ds = _one_activation(ds)
    ax = style.new_axes(ax)
    for budget, full in zip(ds["budget"].values, (False, True)):
        at = ds.sel(budget=budget)
        for phase, marker, colour in _SIDES:
            side = at.isel(weight_var=_in_phase(at, phase))
            found = _flagged(side, "boundary_status", "found")
            ax.plot(side[_SCALE][found], side["boundary_depth"][found], marker, color=colour,
                    markersize=4, markerfacecolor=colour if full else "white",
                    label=f"{phase}, {budget} updates")  # fmt: skip
            ax.plot(side[_SCALE][~found], side["boundary_depth"][~found], marker=r"$\uparrow$",
                    color=colour, linestyle="none", gid="bound")  # fmt: skip
        _draw_fit(ax, at, "-" if full else "--")
    ax.set(xscale="log", yscale="log")
    ax.set(
        xlabel=r"correlation depth scale $\xi_c$ (layers)", ylabel="trainable depth $L^*$ (layers)"
    )
    for axis in (ax.xaxis, ax.yaxis):
        style.plain_log_ticks(axis)
    return ax


def _draw_fit(ax: matplotlib.axes.Axes, at: xr.Dataset, dashes: str) -> None:
    fit = at.sel(side="both")
    if not np.isfinite(fit["fit_k"]):
        return
    ends = np.asarray([at[_SCALE].min(), at[_SCALE].where(np.isfinite(at[_SCALE])).max()])
    k, error = float(fit["fit_k"]), float(fit["fit_k_stderr"])
    ax.plot(ends, k * ends, color="0.3", linestyle=dashes, linewidth=1.1,
            label=rf"$({k:.1f} \pm {error:.1f})\,\xi_c$")  # fmt: skip


def trainability_figure(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """The map at every budget, and boundary depth against depth scale."""
    with style.paper_style():
        figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.0), width_ratios=(1, 1, 1.05))
        for ax, budget in zip(axes, ds["budget"].values):
            trainability(ds, ax, int(budget))
        handles = {h.get_label(): h for h in axes[0].lines if not h.get_label().startswith("_")}
        axes[0].legend(
            handles.values(), handles.keys(), loc="lower right", frameon=True, framealpha=0.9
        )
        mesh = next(c for c in axes[1].collections if c.get_array() is not None)
        figure.colorbar(mesh, ax=axes[1], label="training accuracy")
        trainable_depth(ds, axes[2])
        rank = float(ds["fit_spearman"].isel(activation=0, budget=-1).sel(side="both"))
        axes[2].set_title(rf"trainable depth, Spearman $\rho$ = {rank:.2f}")
        axes[2].set_ylim(top=2.5 * axes[2].get_ylim()[1])  # room for the legend
        axes[2].legend(fontsize=6.5, loc="upper left")
    return figure


def _one_activation(ds: xr.Dataset) -> xr.Dataset:
    if ds["activation"].size != 1:
        raise ValueError(f"ds must hold one activation, got {ds['activation'].values.tolist()}")
    return ds.squeeze("activation") if "activation" in ds.dims else ds


def _name(ds: xr.Dataset) -> str:
    return f"{ds['activation'].item()}, width {ds.attrs.get('width', '?')}"


def _in_phase(ds: xr.Dataset, phase: str) -> np.ndarray:
    return np.flatnonzero(_flagged(ds, "phase_theory", phase))


def _flagged(ds: xr.Dataset, name: str, meaning: str) -> np.ndarray:
    codes = ds[name].attrs
    words = codes["flag_meanings"].split()
    return ds[name].values == codes["flag_values"][words.index(meaning)]
