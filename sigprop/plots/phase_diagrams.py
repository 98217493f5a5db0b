"""The order/chaos phase diagram: prediction, measurement and how far apart they are."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import matplotlib.lines
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import plane, style

__all__ = ["PANELS", "phase_diagram", "phase_diagram_figure"]


def _growth_norm(ds: xr.Dataset) -> matplotlib.colors.Normalize:
    """Logarithmic in both directions from 0, linear within 0.1; one scale for both panels."""
    sizes = [np.abs(ds[f"gradient_rate_{kind}"].values) for kind in ("theory", "measured")]
    finite = np.concatenate([size[np.isfinite(size)] for size in sizes])
    top = max(float(finite.max(initial=0.0)), 0.2)
    return matplotlib.colors.SymLogNorm(linthresh=0.1, vmin=-top, vmax=top, base=10)


def _correlation_norm(ds: xr.Dataset) -> matplotlib.colors.Normalize:
    lowest = float(ds["fixed_point_correlation_theory"].min(skipna=True))
    return matplotlib.colors.Normalize(min(0.0, lowest) if np.isfinite(lowest) else 0.0, 1.0)


def _disagreement_norm(ds: xr.Dataset) -> matplotlib.colors.Normalize:
    return matplotlib.colors.BoundaryNorm([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5], 256, extend="both")


@dataclass(frozen=True)
class Panel:
    """How one quantity is shown."""

    title: str
    label: str
    cmap: str
    norm: Callable[[xr.Dataset], matplotlib.colors.Normalize]
    ticks: tuple[float, ...] | None = None


_GROWTH_TICKS = (-3.0, -1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0, 3.0)

PANELS = {
    "gradient_rate_theory": Panel(
        "predicted gradient growth", style.SYMBOLS["gradient_rate"], "RdBu_r", _growth_norm,
        _GROWTH_TICKS,
    ),
    "gradient_rate_measured": Panel(
        "measured gradient growth", style.SYMBOLS["gradient_rate"], "RdBu_r", _growth_norm,
        _GROWTH_TICKS,
    ),
    "fixed_point_correlation_theory": Panel(
        "fixed-point correlation", style.SYMBOLS["fixed_point_correlation"], "cividis",
        _correlation_norm,
    ),
    "disagreement_corrected": Panel(
        r"measured − predicted, $N \to \infty$", style.SYMBOLS["disagreement"], "PuOr_r",
        _disagreement_norm, (-4.0, -2.0, 0.0, 2.0, 4.0),
    ),
    "disagreement_raw": Panel(
        "measured − predicted, uncorrected", style.SYMBOLS["disagreement"], "PuOr_r",
        _disagreement_norm, (-4.0, -2.0, 0.0, 2.0, 4.0),
    ),
}  # fmt: skip
"""What `phase_diagram` can show, by the name of the variable."""


def phase_diagram(
    ds: xr.Dataset,
    ax: matplotlib.axes.Axes | None = None,
    quantity: str = "gradient_rate_measured",
    colorbar: bool = True,
) -> matplotlib.axes.Axes:
    """One quantity over (weight_var, bias_var), with the theoretical lines and recipes over it.

    Parameters
    ----------
    ds
        What the phase-diagram study gave, for one activation and initialiser.
    ax
        Where to draw; a new figure if None.
    quantity
        A key of `PANELS`.
    colorbar
        Whether to add the colour scale.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        For an unknown quantity, or a dataset of several activations or initialisers.
    """
    if quantity not in PANELS:
        raise ValueError(f"quantity must be one of {', '.join(PANELS)}, got {quantity!r}")
    ds = plane.one_network(ds)
    ax = style.new_axes(ax)
    panel = PANELS[quantity]
    mesh = plane.draw_cells(ax, ds[quantity], panel.norm(ds), panel.cmap)
    _draw_levels(ax, ds, quantity)
    plane.draw_boundaries(ax, ds)
    plane.draw_recipes(ax, ds)
    ax.set_title(panel.title, loc="left")
    if colorbar:
        bar = ax.figure.colorbar(
            mesh, ax=ax, label=panel.label, pad=0.02, ticks=_ticks(panel, mesh)
        )
        bar.ax.minorticks_off()
        if panel.ticks:
            bar.ax.yaxis.set_major_formatter("{x:g}")
    return ax


def _ticks(panel: Panel, mesh) -> list[float] | None:
    if panel.ticks is None:
        return None
    return [tick for tick in panel.ticks if mesh.norm.vmin <= tick <= mesh.norm.vmax]


def _draw_levels(ax: matplotlib.axes.Axes, ds: xr.Dataset, quantity: str) -> None:
    """Contours that carry the sign in grey, and the measured correlation over the predicted."""
    if quantity.startswith("gradient_rate"):
        thin = {"colors": "0.25", "linewidths": 0.5}
        levels = [tick for tick in _GROWTH_TICKS if tick != 0]
        plane.draw_contours(ax, ds[quantity], [t for t in levels if t > 0], **thin)
        plane.draw_contours(
            ax, ds[quantity], [t for t in levels if t < 0], linestyles="dashed", **thin
        )
    if quantity == "fixed_point_correlation_theory":
        levels = [0.2, 0.4, 0.6, 0.8]
        plane.draw_contours(ax, ds[quantity], levels, colors="black", linewidths=0.7)
        measured = ds["correlation_measured"].isel(layer=-1)
        white = {"colors": "white", "linewidths": 1.0, "linestyles": "dashed"}
        plane.draw_contours(ax, measured, levels, **white)


def phase_diagram_figure(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """The whole answer: predicted and measured growth, fixed-point correlation, disagreement.

    Parameters
    ----------
    ds
        What the phase-diagram study gave. One (activation, initialiser) fills a square of four
        panels; several get a row each.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    quantities = list(PANELS)[:4]
    networks = plane.pairs_of(ds)
    single = len(networks) == 1
    rows, columns = (2, 2) if single else (len(networks), 4)
    with style.paper_style():
        size = (7.0, 5.9) if single else (12.5, 2.7 * rows + 0.5)
        figure, axes = plt.subplots(
            rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False
        )
        for network, row in zip(networks, axes.reshape(-1, 4)):
            for letter, quantity, ax in zip("abcd", quantities, row):
                phase_diagram(network, ax, quantity)
                ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
            if not single:
                row[0].set_ylabel(f"{plane.name_of(network)}\n{style.SYMBOLS['bias_var']}")
        for ax in axes.flat:
            ax.label_outer()
        figure.suptitle(_caption(ds, networks), fontsize=9)
        figure.legend(handles=_legend(networks), loc="outside lower center", ncols=4)
    return figure


def _caption(ds: xr.Dataset, networks: list[xr.Dataset]) -> str:
    size = ", ".join(
        f"{name} {ds.attrs[name]}" for name in ("depth", "width", "seeds") if name in ds.attrs
    )
    return f"{plane.name_of(networks[0])}: {size}" if len(networks) == 1 else size


def _legend(networks: list[xr.Dataset]) -> list[matplotlib.lines.Line2D]:
    """One entry for each kind of line that occurs."""
    dashes = {"color": "0.55", "linestyle": "dashed", "linewidth": 1.0}
    label = "measured correlation at the last layer, in (c)"
    measured = matplotlib.lines.Line2D([], [], label=label, **dashes)
    return [*plane.boundary_legend(networks), measured]
