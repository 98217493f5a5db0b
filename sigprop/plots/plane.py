"""What every figure over (weight_var, bias_var) shares: cells, theoretical lines, recipes."""

import itertools
import json
from collections import defaultdict

import matplotlib.axes
import matplotlib.collections
import matplotlib.colors
import matplotlib.lines
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = [
    "boundary_legend",
    "draw_boundaries",
    "draw_cells",
    "draw_contours",
    "draw_recipes",
    "name_of",
    "one_network",
    "pairs_of",
]

AXES = ("bias_var", "weight_var")  # rows, columns

# The dots are wide enough to show under a critical line that coincides.
BOUNDARIES = {
    "critical": (r"theory: $\chi_1 = 1$", {"color": "black", "linewidth": 1.8}),
    "unstable": (
        r"$\chi_1 = 1$, unstable", {"color": "black", "linewidth": 1.2, "linestyle": "dashed"}
    ),
    "edge": (
        "edge of bounded variance", {"color": "black", "linewidth": 3.6, "linestyle": "dotted"}
    ),
}  # fmt: skip
"""Label and look of every kind of line."""


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
    """One dataset for every (activation, initialiser) in ``ds``, dimensions dropped.

    Of names that stand for the same networks the first.
    """
    for dim in ("activation", "initialiser"):
        if dim not in ds.dims and dim in ds.coords:
            ds = ds.expand_dims(dim)
    same_as = json.loads(ds.attrs.get("same_as", "{}"))
    pairs = itertools.product(ds["activation"].values.tolist(), ds["initialiser"].values.tolist())
    networks = {}
    for activation, initialiser in pairs:
        known = same_as.get(activation, activation), same_as.get(initialiser, initialiser)
        networks.setdefault(known, ds.sel(activation=activation, initialiser=initialiser))
    return list(networks.values())


def name_of(network: xr.Dataset) -> str:
    """What to call one of `pairs_of`, as in "tanh, he (= gaussian)"."""
    same_as = json.loads(network.attrs.get("same_as", "{}"))
    names = [str(network[dim].item()) for dim in ("activation", "initialiser")]
    return ", ".join(f"{n} (= {same_as[n]})" if n in same_as else n for n in names)


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
    """The theoretical lines that the study gave; axes keep their limits.

    Solid: chi_1 = 1 at the fixed point the network flows to. Dashed: chi_1 = 1 at fixed points
    that no network stays at. Dotted: beyond it the variance grows without bound.
    """
    limits = ax.axis()
    for kind, line in boundaries(ds).items():
        ax.plot(*line, gid=kind, **BOUNDARIES[kind][1])
    ax.axis(limits)


def boundaries(ds: xr.Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(weight_var, bias_var) along each kind of line that crosses the diagram, by name."""
    if "critical_line_status_theory" not in ds:  # a dataset of an earlier version
        return {}
    critical = ds["critical_line_weight_var_theory"], ds["critical_line_bias_var_theory"]
    status = ds["critical_line_status_theory"]
    stays = flagged(status, "stable") | flagged(status, "unbounded")
    edge = ds["bounded_weight_var_theory"]
    found = {
        "edge": (edge.values, edge["edge_bias_var"].values),
        "critical": tuple(line.where(stays).values for line in critical),
        "unstable": tuple(_joined(line.values, flagged(status, "unstable")) for line in critical),
    }
    return {kind: line for kind, line in found.items() if _crosses(ds, *line)}


def _joined(line: np.ndarray, chosen: xr.DataArray) -> np.ndarray:
    """The chosen points and their neighbours, so that a line has no gap where its look changes."""
    near = np.pad(chosen.values, 1)
    return np.where(near[1:-1] | near[2:] | near[:-2], line, np.nan)


def _crosses(ds: xr.Dataset, weight_var: np.ndarray, bias_var: np.ndarray) -> bool:
    inside = np.isfinite(weight_var)
    for axis, line in (("weight_var", weight_var), ("bias_var", bias_var)):
        borders = style.edges(ds[axis].values)
        inside &= (line >= borders[0]) & (line <= borders[-1])
    return bool(inside.any())


def boundary_legend(networks: list[xr.Dataset]) -> list[matplotlib.lines.Line2D]:
    """One entry for each kind of line that occurs."""
    present = {kind for network in networks for kind in boundaries(network)}
    return [
        matplotlib.lines.Line2D([], [], label=label, **look)
        for kind, (label, look) in BOUNDARIES.items()
        if kind in present
    ]


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
