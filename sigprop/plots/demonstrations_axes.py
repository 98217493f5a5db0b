"""The classic demonstrations on one page."""

import matplotlib.axes
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from sigprop.plots import style

__all__ = ["basics"]

_COLOURS = style.LINE_COLOURS
_STYLES = ("-", "--", "-.", ":")


def basics(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Six panels: the line, the overflow and its cures, flat units, a check, norms by epoch.

    Parameters
    ----------
    ds
        What the basics study gave; the first seed is drawn.

    Returns
    -------
    matplotlib.figure.Figure
        Not yet saved.
    """
    ds = ds.isel(seed=0)
    with style.paper_style():
        figure, axes = plt.subplots(2, 3, figsize=(7.6, 4.8))
        draws = (_line, _parabola, _slopes, _check, _gradient_norms, _weight_norms)
        for letter, draw, ax in zip("abcdef", draws, axes.flat):
            draw(ds, ax)
            ax.set_title(f"{letter}  {ax.get_title(loc='left')}", loc="left")
    return figure


def _line(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    ax.plot(ds["line_x"], ds["line_y"], ".", color="0.6", markersize=2.5, label="examples")
    x = np.asarray([-1.0, 1.0])
    slope, intercept = float(ds["line_slope"]), float(ds["line_intercept"])
    label = f"{slope:.2f} x + {intercept:.2f}"
    ax.plot(x, slope * x + intercept, color=_COLOURS[0], label=label)
    ax.set(title="gradient descent finds the line", xlabel="$x$", ylabel="$y$")
    ax.legend()


def _parabola(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    steps = np.arange(1, ds.sizes["step"] + 1)
    for course, colour, dashes in zip(ds["course"].values, _COLOURS, _STYLES):
        one = ds.sel(course=course)
        label = f"{course}: {float(one['parabola_step_size']):.2g}"
        # Where a run has diverged nothing is drawn; a mark at its last loss says that it did.
        loss = one["parabola_loss"].values
        ax.plot(steps, loss, color=colour, linestyle=dashes, label=label)
        if int(one["parabola_diverged_at"]) >= 0:
            last = np.flatnonzero(np.isfinite(loss))[-1]
            ax.plot(steps[last], loss[last], "X", color=colour, markersize=6)
    ax.set(xscale="log", yscale="log", title="$y = x^2$ on 1..1000 overflows")
    ax.set(xlabel="update", ylabel="mean squared error")
    ax.legend(title="step size", loc="center right", alignment="left")


def _slopes(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    for entries, colour, dashes in zip(ds["entries"].values, _COLOURS, _STYLES):
        one = ds.sel(entries=entries)
        measured, told = (float(one[f"wide_mean_square_slope{end}"]) for end in ("", "_theory"))
        label = f"{entries}: {measured:.2g} ({told:.2g})"
        share = one["wide_slope_share"]
        ax.step(ds["slope_bin"], share, where="mid", color=colour, linestyle=dashes, label=label)
    ax.set(title="1000-100-1, tanh: flat units", yscale="log", ylabel="share of units")
    ax.set(xlabel=r"$\log_{10}$ of the slope $\phi'(z)$", ylim=(1e-4, 30))
    title = r"weights: mean $\phi'^2$ (theory)"
    ax.legend(title=title, loc="upper left", fontsize=6.5, alignment="left")


def _check(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    for kind, colour, marker in zip(ds["gradient"].values, _COLOURS, ("o", "x")):
        one = ds.sel(gradient=kind)
        wrong = int(one["check_wrong"].sum())
        x, y = one["check_difference"], one["check_gradient"]
        ax.plot(x, y, marker, color=colour, markersize=4, fillstyle="none",
                label=f"{kind}: {wrong} wrong")  # fmt: skip
    ends = np.asarray(ax.get_xlim())
    ax.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    ax.set(title="back-propagation checked", xlabel="slope by differences")
    ax.set(ylabel="slope by back-propagation")
    ax.legend()


def _gradient_norms(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    _by_epoch(ds, "classifier_gradient_norm", ax)
    ax.set(title="classifier: gradients", yscale="log", ylabel=r"$\|\partial L/\partial\theta_l\|$")


def _weight_norms(ds: xr.Dataset, ax: matplotlib.axes.Axes) -> None:
    _by_epoch(ds, "classifier_weight_norm", ax)
    accuracy = float(ds["classifier_test_accuracy"])
    ax.set(title=f"weights; test accuracy {accuracy:.3f}", ylabel=r"$\|\theta_l\|$")


def _by_epoch(ds: xr.Dataset, name: str, ax: matplotlib.axes.Axes) -> None:
    for layer, colour, dashes in zip(ds["classifier_layer"].values, _COLOURS, _STYLES):
        values = ds[name].sel(classifier_layer=layer)
        ax.plot(ds["epoch"], values, color=colour, linestyle=dashes, label=layer)
    ax.set(xlabel="epoch")
    ax.legend()
