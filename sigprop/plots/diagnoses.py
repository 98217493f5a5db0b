"""What the doctor found, layer by layer: signal, gradient, and units that do nothing."""

from typing import Any

import matplotlib.axes
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["diagnosis"]

_MOST_LABELS = 24


def diagnosis(report: Any) -> matplotlib.figure.Figure:
    """Three panels along the layers: output size, gradient norm, dead and saturated units.

    Parameters
    ----------
    report
        What `sigprop.diagnose` returned (anything with ``to_dataset()``), or that dataset.

    Returns
    -------
    matplotlib.figure.Figure
        The gradient's panel has the fitted growth as a line, with two standard errors of its slope
        around it, and a grey band a factor of 10 wide to either side of the last layer's norm.

    Raises
    ------
    ValueError
        If no layer was read.
    """
    ds = report if isinstance(report, xr.Dataset) else report.to_dataset()
    if not ds.sizes["layer"]:
        raise ValueError("report must have at least one layer to draw, got none")
    with style.paper_style():
        figure, axes = plt.subplots(
            3, 1, sharex=True, figsize=(5.6, 4.8), height_ratios=[2, 3, 1.4]
        )
        _signal(axes[0], ds)
        _gradient(axes[1], ds)
        _idle(axes[2], ds)
        axes[0].set_title(f"{ds.attrs['verdict']}: loss {ds.attrs['loss']:.3g}")
        _label_layers(axes[2], ds)
    return figure


def _signal(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    _points(ax, ds, ds["rms"].values)
    ax.set(yscale="log", ylabel="rms output")


def _gradient(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    with np.errstate(over="ignore"):
        norm = np.exp(ds["log_gradient"].values / 2)
    _points(ax, ds, norm)
    ax.set(yscale="log", ylabel=r"$\|\partial\,\mathrm{loss}/\partial z^l\|$")
    judged = np.flatnonzero(ds["weighs"].values & (norm > 0) & np.isfinite(norm))
    rate, stderr = (ds.attrs[name] for name in ("gradient_rate", "gradient_rate_stderr"))
    if judged.size and np.isfinite(rate):
        last = float(norm[judged[-1]])
        ax.axhspan(last / 10, last * 10, color="0.9", zorder=0, label="a factor of 10")
        _fit(ax, judged, norm[judged], rate, stderr)
        ax.legend(loc="best")


def _fit(ax: matplotlib.axes.Axes, at: np.ndarray, norm: np.ndarray, rate: float, stderr: float):
    """The growth as a line through the middle of the points, with its uncertainty."""
    back = np.arange(at.size)[::-1] - (at.size - 1) / 2
    middle = float(np.median(np.log(norm) - rate * back / 2))
    one, line, other = (np.exp(middle + (rate + k * stderr) * back / 2) for k in (-2, 0, 2))
    colour = style.LINE_COLOURS[1]
    label = rf"growth of $\ln\|g\|^2$: {rate:+.3f} ± {stderr:.3f} a layer"
    ax.plot(at, line, color=colour, linewidth=1.2, label=label)
    low, high = np.minimum(one, other), np.maximum(one, other)
    ax.fill_between(at, low, high, color=colour, alpha=0.25, linewidth=0)


def _idle(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    """Units on a flat part of their activation, and among them those without any gradient."""
    places = np.arange(ds.sizes["layer"])
    for name, colour, width in (("saturated", "#66CCEE", 0.8), ("dead", "#AA3377", 0.45)):
        heights = 100 * np.nan_to_num(ds[name].values)
        ax.bar(places, heights, width, color=colour, label=name)
    ax.set(ylim=(0, 100), ylabel="units (%)")
    ax.legend(loc="upper right", ncols=2)


def _points(ax: matplotlib.axes.Axes, ds: xr.Dataset, values: np.ndarray) -> None:
    """Layers with weights as discs, all others as small rings; what cannot be drawn as crosses."""
    places, weighs = np.arange(values.size), ds["weighs"].values
    drawn = np.isfinite(values) & (values > 0)
    colour = style.LINE_COLOURS[0]
    ax.plot(places[weighs & drawn], values[weighs & drawn], "o", color=colour, markersize=3.5)
    others = ~weighs & drawn
    ax.plot(places[others], values[others], "o", color=colour, fillstyle="none", markersize=2.5)
    lost = places[~drawn]
    if lost.size:
        bottom = np.full(lost.size, 0.04)
        place = ax.get_xaxis_transform()
        ax.plot(lost, bottom, "x", color="black", markersize=4, transform=place, clip_on=False)


def _label_layers(ax: matplotlib.axes.Axes, ds: xr.Dataset) -> None:
    names = ds["layer"].values
    step = -(-names.size // _MOST_LABELS)
    shown = np.arange(0, names.size, step)
    ax.set_xticks(shown, names[shown], rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    ax.set_xlabel("layer, from the input to the loss")
