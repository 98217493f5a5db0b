"""Tuned steps and learning rates against depth, with their power laws."""

import matplotlib.axes
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["isometry_training", "isometry_training_figure"]

_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = {"orthogonal": "-", "gaussian": "--"}
_QUANTITIES = {
    "steps": ("steps_tuned", r"steps to the loss, rate tuned"),
    "rate": ("learning_rate_tuned", r"best learning rate $\eta$"),
}


def isometry_training(
    fitted: xr.Dataset, ax: matplotlib.axes.Axes | None = None, quantity: str = "steps"
) -> matplotlib.axes.Axes:
    """Geometric mean over networks with standard errors against depth, over the fitted power law.

    Parameters
    ----------
    fitted
        The isometry-training study's dataset with its fits.
    ax
        Where to draw; a new figure if None.
    quantity
        "steps" or "rate" (with a line of slope −1).

    Raises
    ------
    ValueError
        For another quantity, or more lines than can be told apart.
    """
    if quantity not in _QUANTITIES:
        raise ValueError(f"quantity must be one of {', '.join(_QUANTITIES)}, got {quantity!r}")
    if fitted.sizes["activation"] * fitted.sizes["initialiser"] > len(_MARKERS):
        raise ValueError(
            f"fitted must hold at most {len(_MARKERS)} lines, got {fitted.sizes['activation']} "
            f"activations and {fitted.sizes['initialiser']} initialisers"
        )
    ax = style.new_axes(ax)
    lines = [(a, i) for a in fitted["activation"].values for i in fitted["initialiser"].values]
    for index, (activation, initialiser) in enumerate(lines):
        one = fitted.sel(activation=activation, initialiser=initialiser)
        _draw(ax, one, quantity, index, f"{activation}, {initialiser}")
    ax.set(xscale="log", yscale="log", xlabel=r"depth $L$", ylabel=_QUANTITIES[quantity][1])
    ax.set_xticks(fitted["depth"].values, [f"{depth:g}" for depth in fitted["depth"].values])
    ax.xaxis.set_minor_formatter("")
    ax.minorticks_off()
    style.plain_log_ticks(ax.yaxis)
    return ax


def _draw(ax: matplotlib.axes.Axes, one: xr.Dataset, quantity: str, index: int, label: str) -> None:
    logs = np.log(one[_QUANTITIES[quantity][0]].values)
    depths, middle = one["depth"].values, np.exp(logs.mean(axis=-1))
    error = middle * logs.std(axis=-1, ddof=1) / np.sqrt(logs.shape[-1])
    # Rates lie on top of one another; a few per cent of sideways room keeps the errors readable.
    shifted = depths * (1 if quantity == "steps" else 1.04 ** (index - 1.5))
    colour = style.LINE_COLOURS[index]
    exponent, stderr, prefactor = (
        float(one[f"{quantity}_{part}"]) for part in ("exponent", "exponent_stderr", "prefactor")
    )
    if quantity == "steps" and np.isfinite(exponent):
        label += f": $a$ = {exponent:.2f} ± {stderr:.2f}"
    elif np.isfinite(exponent):
        label = f"$b$ = {exponent:.2f} ± {stderr:.2f}"
    ax.errorbar(
        shifted, middle, yerr=error, fmt=_MARKERS[index], markersize=4, linewidth=0.8,
        color=colour, label=label,
    )  # fmt: skip
    dashes = _DASHES.get(str(one["initialiser"].values), ":")
    fitted = np.isfinite(middle)
    if np.isfinite(exponent):
        law = prefactor * depths[fitted] ** exponent
        ax.plot(depths[fitted], law, dashes, color=colour, linewidth=1.2)
    if quantity == "steps" and not fitted.all():
        budget = np.full((~fitted).sum(), one.attrs["steps"])
        ax.plot(depths[~fitted], budget, _MARKERS[index], color=colour, markerfacecolor="none")


def isometry_training_figure(fitted: xr.Dataset) -> matplotlib.figure.Figure:
    """Steps on the left; best learning rates with a line ~ 1/L on the right."""
    with style.paper_style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.0))
        isometry_training(fitted, left)
        left.set_title(f"steps to loss {fitted.attrs['threshold']:g}, fits ~ $L^a$")
        isometry_training(fitted, right, "rate")
        depths = fitted["depth"].values
        start = float(np.exp(np.log(fitted["learning_rate_tuned"].isel(depth=0)).mean()))
        right.plot(depths, 2 * start * depths[0] / depths, ":", color="0.3", label="$1/L$")
        right.set_title("best learning rate, fits ~ $L^b$")
        left.set_ylim(top=left.get_ylim()[1] * 4)
        left.legend(loc="upper left")
        right.legend(loc="lower left")
    return figure
