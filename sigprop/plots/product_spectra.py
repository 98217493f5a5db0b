"""Every singular value of a very deep Jacobian, layer by layer, as a heat map."""

import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import plane, style
from sigprop.plots.jacobian_spectrum import one_spectrum

__all__ = ["log_spectra", "log_spectra_figure"]

_LABEL = r"$\ln s \,/\, k$ (nats a layer)"


def log_spectra(
    ds: xr.Dataset,
    ax: matplotlib.axes.Axes | None = None,
    norm: matplotlib.colors.Normalize | None = None,
    colorbar: bool = True,
) -> matplotlib.axes.Axes:
    """Growth a layer of all singular values by size (upwards) against depth; zeros are hatched.

    Parameters
    ----------
    ds
        What the Jacobian-spectrum study gave, for one activation, initialiser and bias_var.
    ax
        Where to draw; a new figure if None.
    norm
        Colour scale; one that suits ``ds`` if None.
    colorbar
        Whether to add it.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    ds = one_spectrum(ds)
    ax = style.new_axes(ax)
    style.undefined_background(ax)
    layers, count = ds["layer"].values, ds.sizes["deep_index"]
    growth = ds["log_singular_value_deep_measured"].values / layers[:, None]
    middles = np.sqrt(layers[1:] * layers[:-1])
    x = np.concatenate([layers[:1] * 0.9, middles, layers[-1:] * 1.05])
    y = np.arange(count + 1) / count
    norm = _norm([growth]) if norm is None else norm
    mesh = ax.pcolormesh(
        x, y, np.ma.masked_invalid(growth.T), norm=norm, cmap="cividis", rasterized=True
    )
    ax.set(xscale="log", xlabel="square layers $k$", ylabel="fraction of larger singular values")
    ax.set(ylim=(1, 0))
    if colorbar:
        ax.figure.colorbar(mesh, ax=ax, label=_LABEL, extend="min")
    return ax


def _norm(growths: list[np.ndarray]) -> matplotlib.colors.Normalize:
    """From well above the lowest tail to the largest value."""
    finite = np.concatenate([growth[np.isfinite(growth)] for growth in growths])
    if not finite.size:
        return matplotlib.colors.Normalize(-1.0, 0.0)
    low, high = float(np.quantile(finite, 0.03)), float(finite.max())
    return matplotlib.colors.Normalize(low, max(high, low + 1e-6))


def log_spectra_figure(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """A heat map for every network, and beside each what its last row is predicted to become.

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
    norm = _norm([(n["log_singular_value_deep_measured"] / n["layer"]).values for n in networks])
    columns = 2 if len(networks) > 1 else 1
    rows = -(-len(networks) // columns)
    with style.paper_style():
        figure = plt.figure(figsize=(4.6 * columns + 0.8, 2.3 * rows + 0.7))
        axes = figure.subplots(
            rows, 2 * columns, width_ratios=[3, 1.3] * columns, squeeze=False, sharey=True
        )
        pairs = axes.reshape(-1, 2)
        for network, (heat, last) in zip(networks, pairs):
            log_spectra(network, heat, norm, colorbar=False)
            _draw_exponents(network, last)
            heat.set_title(plane.name_of(network))
            heat.set_ylabel("fraction of larger\nsingular values")
        for unused in pairs[len(networks) :].flat:
            unused.set_visible(False)
        figure.colorbar(pairs[0, 0].collections[0], ax=axes, label=_LABEL, extend="min", pad=0.01)
        width = ds.attrs.get("deep_width", "")
        figure.suptitle(
            rf"singular values of $\partial z^{{k+1}}/\partial z^1$ by size, one network of width "
            f"{width}, on the right after the last layer",
            fontsize=9,
        )
    return figure


def _draw_exponents(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    """The last row over what theory says it tends to."""
    count, last = ds.sizes["deep_index"], ds.isel(layer=-1)
    fraction = (np.arange(count) + 0.5) / count
    measured = (last["log_singular_value_deep_measured"] / last["layer"]).values
    shown = slice(None, None, max(1, count // 32))
    ax.plot(measured[shown], fraction[shown], "o", markersize=2.5, color="0.4", label="measured")
    ax.plot(
        ds["lyapunov_exponent_theory"], fraction, color=style.LINE_COLOURS[1],
        linewidth=1.3, label=r"theory, $k \to \infty$",
    )  # fmt: skip
    ax.set(xlabel=_LABEL)
    ax.legend(loc="lower left", fontsize="x-small", handlelength=1.2)
