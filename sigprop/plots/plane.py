"""What every figure over (weight_var, bias_var) shares: cells, theoretical lines, recipes."""

import json
from collections import defaultdict

import matplotlib.axes
import matplotlib.collections
import matplotlib.colors
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = [
    "draw_boundaries",
    "draw_cells",
    "draw_contours",
    "draw_recipes",
    "flagged",
    "one_network",
    "pairs_of",
    "unstable_branches",
]

AXES = ("bias_var", "weight_var")  # rows, columns


def one_network(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` without its activation and initialiser dimensions, which must be of length 1.

    Raises
    ------
    ValueError
        If there are several to choose from.
    """
    for dim in ("activation", "initialiser"):
        if dim not in ds.dims:
            continue
        if ds.sizes[dim] > 1:
            names = ", ".join(str(v) for v in ds[dim].values)
            raise ValueError(f"ds must hold one {dim} (choose with ds.sel), got {names}")
        ds = ds.isel({dim: 0})
    return ds


def pairs_of(ds: xr.Dataset) -> list[xr.Dataset]:
    """One dataset for every (activation, initialiser) in ``ds``, dimensions dropped."""
    for dim in ("activation", "initialiser"):
        if dim not in ds.dims and dim in ds.coords:
            ds = ds.expand_dims(dim)
    return [
        ds.sel(activation=activation, initialiser=initialiser)
        for activation in ds["activation"].values
        for initialiser in ds["initialiser"].values
    ]


def draw_cells(
    ax: matplotlib.axes.Axes,
    values: xr.DataArray,
    norm: matplotlib.colors.Normalize,
    cmap: str | matplotlib.colors.Colormap,
) -> matplotlib.collections.QuadMesh:
    """One coloured rectangle a cell; cells that are not numbers stay hatched."""
    style.undefined_background(ax)
    x, y = style.edges(values["weight_var"].values), style.edges(values["bias_var"].values)
    shown = np.ma.masked_invalid(values.transpose(*AXES).values)
    # Vector output shows hairlines between cells, and thousands of them: a bitmap inside the PDF.
    mesh = ax.pcolormesh(x, y, shown, norm=norm, cmap=cmap, rasterized=True)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.set(xlabel=style.SYMBOLS["weight_var"], ylabel=style.SYMBOLS["bias_var"])
    return mesh


def draw_contours(ax: matplotlib.axes.Axes, values: xr.DataArray, levels, **look) -> bool:
    """Contour lines of ``values``; whether any of ``levels`` lies within them."""
    table = np.ma.masked_invalid(values.transpose(*AXES).values.astype(np.float64))
    if min(table.shape) < 2 or table.count() == 0:
        return False
    inside = [level for level in levels if table.min() < level < table.max()]
    if inside:
        ax.contour(values["weight_var"], values["bias_var"], table, levels=inside, **look)
    return bool(inside)


def draw_boundaries(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    """Theoretical lines: where the attractor is critical, unstable branches, edge of boundedness.

    Solid: chi_1 = 1 at the fixed point the network flows to. Dashed: chi_1 = 1 at fixed points
    that no network stays at. Dotted: beyond it the variance grows without bound.
    """
    # At the first unbounded cell; beads wide enough to show under a critical line that coincides.
    unbounded = flagged(ds["variance_status_theory"], "unbounded").astype(np.float64)
    dotted = {"colors": "black", "linewidths": 3.6, "linestyles": "dotted"}
    draw_contours(ax, unbounded, [0.98], **dotted)
    # Clipped: the logarithm of a nearly dead cell would drag the interpolated line with it.
    log_chi = xr.apply_ufunc(np.log, ds["chi_1_theory"].clip(0.01, 100.0))
    solid = {"colors": "black", "linewidths": 1.8, "linestyles": "solid"}
    draw_contours(ax, log_chi, [0.0], **solid)
    for branch in unstable_branches(ds).transpose("branch", "bias_var"):
        ax.plot(branch, ds["bias_var"], color="black", linewidth=1.2, linestyle="dashed")


def unstable_branches(ds: xr.Dataset) -> xr.DataArray:
    """weight_var of the unstable critical points at every bias_var; empty branches dropped."""
    unstable = ds["critical_point_weight_var_theory"].where(ds["critical_point_stable_theory"] != 1)
    return unstable.dropna("branch", how="all")


def flagged(codes: xr.DataArray, meaning: str) -> xr.DataArray:
    """Where a status variable has the code that ``meaning`` stands for."""
    meanings = codes.attrs["flag_meanings"].split()
    return codes == codes.attrs["flag_values"][meanings.index(meaning)]


def draw_recipes(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    """Marks at bias_var = 0 where the named initialisers land, if they lie in the diagram."""
    low, high = ax.get_xlim()
    if ax.get_ylim()[0] > 0:
        return
    names = defaultdict(list)
    for name, weight_var in json.loads(ds.attrs.get("recipes", "{}")).items():
        names[weight_var].append(name)
    for height, (weight_var, recipes) in enumerate(sorted(names.items())):
        if low <= weight_var <= high:
            mark = {"marker": "^", "markersize": 6, "color": "white", "markeredgecolor": "black"}
            ax.plot(weight_var, 0.0, clip_on=False, zorder=5, gid="recipe", **mark)
            ax.annotate(
                ", ".join(recipes),
                (weight_var, 0.0),
                xytext=(0, 5 + 9 * height),  # staggered: neighbours would overlap
                ha="center",
                textcoords="offset points",
                fontsize="small",
                path_effects=style.halo(2.0),
            )
