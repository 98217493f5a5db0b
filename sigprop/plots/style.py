"""How figures look: fonts, colours that survive grey print and colour blindness, symbols."""

import contextlib
from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.axes
import matplotlib.axis
import matplotlib.patheffects
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

__all__ = [
    "CLASS_COLOURS",
    "LINE_COLOURS",
    "SYMBOLS",
    "edges",
    "halo",
    "new_axes",
    "paper_style",
    "plain_log_ticks",
    "undefined_background",
]

SYMBOLS = {
    "weight_var": r"weight variance $\sigma_w^2$",
    "bias_var": r"bias variance $\sigma_b^2$",
    "layer": r"layer $l$",
    "variance": r"variance $q^l$",
    "correlation": r"correlation $c^l$",
    "log_gradient_z": r"$\ln \|\partial/\partial z^l\|^2$",
    "gradient_rate": r"growth of $\ln\|g\|^2$ a layer",
    "fixed_point_correlation": r"correlation $c^*$",
    "disagreement": "standard errors",
}
"""Axis label of every quantity: its name in words and its symbol (docs/notation.md)."""

# Paul Tol's "bright" scheme, in an order whose luminances also differ in grey.
LINE_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")

CLASS_COLOURS = {"vanishing": "#2C5F8A", "stable": "#F7F4EA", "exploding": "#E58A5B"}
"""Dark, light and middle: told apart in grey as well as in colour."""


@contextlib.contextmanager
def paper_style() -> Iterator[None]:
    """Sizes and fonts of a figure that fills the width of a page."""
    settings = {
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 7.5,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,  # text stays text
        "figure.constrained_layout.use": True,
    }
    with mpl.rc_context(settings):  # type: ignore[arg-type]  # its keys are literals
        yield


def new_axes(ax: matplotlib.axes.Axes | None) -> matplotlib.axes.Axes:
    """``ax``, or the axes of a new figure."""
    if ax is not None:
        return ax
    with paper_style():
        return plt.subplots(figsize=(3.6, 3.0))[1]


def halo(width: float = 2.5) -> list[matplotlib.patheffects.AbstractPathEffect]:
    """A white rim that keeps lines and text readable on any colour."""
    return [matplotlib.patheffects.withStroke(linewidth=width, foreground="white")]


def plain_log_ticks(axis: matplotlib.axis.Axis) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written as plain numbers."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def undefined_background(ax: matplotlib.axes.Axes) -> None:
    """Hatch what no cell covers: undefined and diverged cells are left out of the colours."""
    ax.patch.set(facecolor="0.92", edgecolor="0.65", hatch="////", linewidth=0.0)


def edges(centres: np.ndarray) -> np.ndarray:
    """Borders of the cells around ``centres``; variances do not reach below 0.

    Examples
    --------
    >>> edges(np.asarray([0.0, 1.0, 3.0]))
    array([0. , 0.5, 2. , 4. ])
    """
    if len(centres) == 1:
        return np.maximum(centres[0] + np.asarray([-0.5, 0.5]), 0.0)
    middle = (centres[1:] + centres[:-1]) / 2
    ends = centres[0] - (middle[0] - centres[0]), centres[-1] + (centres[-1] - middle[-1])
    return np.maximum(np.asarray([ends[0], *middle, ends[1]]), 0.0)
