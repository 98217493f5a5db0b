"""How evenly networks stretch their inputs, beside the phase diagram: prediction, measurement."""

import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import plane, style

__all__ = ["conditioning_map", "conditioning_panel"]

_SPREAD = r"Var$\,\lambda$ / (mean $\lambda$)$^2$"
_LEAST_RANGE = 3.0  # either way from the middle of the colour scale
_TITLES = {
    "growth_theory": r"predicted growth of mean $\lambda$",
    "relative_variance_theory": "predicted spread",
    "relative_variance_measured": "measured spread",
    "disagreement_corrected": r"measured − predicted, $N \to \infty$",
}


def conditioning_panel(
    ds: xr.Dataset,
    ax: matplotlib.axes.Axes | None = None,
    quantity: str = "relative_variance_measured",
    colorbar: bool = True,
) -> matplotlib.axes.Axes:
    """One quantity over (weight_var, bias_var), with the theoretical lines over it.

    Parameters
    ----------
    ds
        What the conditioning-map study gave, for one activation and initialiser.
    ax
        Where to draw; a new figure if None.
    quantity
        ``"growth_theory"`` (of ln mean λ, a layer), ``"relative_variance_theory"``,
        ``"relative_variance_measured"`` or ``"disagreement_corrected"``.
    colorbar
        Whether to add the colour scale.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        For an unknown quantity, or a dataset of several networks.
    """
    if quantity not in _TITLES:
        raise ValueError(f"quantity must be one of {', '.join(_TITLES)}, got {quantity!r}")
    ds = plane.one_network(ds)
    ax = style.new_axes(ax)
    values, norm, cmap, label = _look(ds, quantity)
    mesh = plane.draw_cells(ax, values, norm, cmap)
    plane.draw_boundaries(ax, ds)
    ax.set_title(_TITLES[quantity], loc="left")
    if colorbar:
        bar = ax.figure.colorbar(mesh, ax=ax, label=label, pad=0.02)
        if isinstance(norm, matplotlib.colors.LogNorm):
            style.plain_log_ticks(bar.ax.yaxis)
    return ax


def _look(ds: xr.Dataset, quantity: str):
    """Values, colour scale, colour map and label."""
    if quantity == "growth_theory":
        growth = ds["log_mean_square_theory"] / ds.attrs["depth"]
        top = max(float(np.nanmax(np.abs(growth.where(np.isfinite(growth))))), 0.05)
        label = r"$\ln$ mean $\lambda$ a layer"
        return growth, matplotlib.colors.Normalize(-top, top), "RdBu_r", label
    if quantity == "disagreement_corrected":
        steps = matplotlib.colors.BoundaryNorm(
            [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5], 256, extend="both"
        )
        return ds[quantity], steps, "PuOr_r", style.SYMBOLS["disagreement"]
    values = ds[quantity]
    return values.where(values > 0), _spread_norm(ds), "cividis", _SPREAD


def _spread_norm(ds: xr.Dataset) -> matplotlib.colors.Normalize:
    """One logarithmic scale for prediction and measurement."""
    found = np.stack([ds[f"relative_variance_{kind}"].values for kind in ("theory", "measured")])
    found = found[np.isfinite(found) & (found > 1e-6)]
    if not found.size:
        return matplotlib.colors.LogNorm(0.1, 10.0)
    low, high = float(found.min()), float(found.max())
    middle = np.sqrt(low * high)  # never so narrow that noise looks like structure
    return matplotlib.colors.LogNorm(
        min(low, middle / _LEAST_RANGE), max(high, middle * _LEAST_RANGE)
    )


def conditioning_map(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """A row for every network: phase diagram, predicted and measured spread, disagreement.

    Parameters
    ----------
    ds
        What the conditioning-map study gave.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    networks = plane.pairs_of(ds)
    with style.paper_style():
        figure, axes = plt.subplots(
            len(networks), 4, figsize=(12.5, 2.3 * len(networks) + 0.8),
            sharex=True, sharey=True, squeeze=False,
        )  # fmt: skip
        for network, row in zip(networks, axes):
            for quantity, ax in zip(_TITLES, row):
                conditioning_panel(network, ax, quantity)
                ax.label_outer()
            name = plane.name_of(network)
            row[0].set_ylabel(f"{name}\n{style.SYMBOLS['bias_var']}")
        size = ", ".join(
            f"{name} {ds.attrs[name]}" for name in ("depth", "width", "seeds") if name in ds.attrs
        )
        figure.suptitle(
            rf"squared singular values $\lambda$ of $\partial z^{{k+1}}/\partial z^1$: {size}"
        )
        figure.legend(handles=plane.boundary_legend(networks), loc="outside lower center", ncols=3)
    return figure
