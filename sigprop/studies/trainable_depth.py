"""How deep networks train, and how that depth goes with the correlation depth scale."""

import enum
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from sigprop.theory import Phase

__all__ = ["BoundaryStatus", "boundary_depth", "depth_scale_fit", "with_boundaries"]

SIDES = ("both", "ordered", "chaotic")


class BoundaryStatus(enum.IntEnum):
    """Whether the boundary lies among the depths that were trained."""

    FOUND = 0
    ABOVE_RANGE = 1
    BELOW_RANGE = 2


def boundary_depth(
    depth: Float[np.ndarray, " depths"],
    accuracy: Float[np.ndarray, " depths"],
    *,
    chance: float = 0.1,
) -> tuple[float, BoundaryStatus]:
    """Depth at which accuracy falls to half of its peak for good, linear between depths.

    Parameters
    ----------
    depth
        Ascending.
    accuracy
        At each depth, >= 0.
    chance
        Accuracy of guessing. Where half of the peak is no more, no depth has trained.

    Returns
    -------
    depth, status
        The last depth and `ABOVE_RANGE`, or the first and `BELOW_RANGE` (no depth has trained),
        where the boundary lies beyond: a bound, not a boundary.

    Examples
    --------
    >>> boundary_depth(np.asarray([4.0, 8.0, 16.0]), np.asarray([1.0, 0.75, 0.25]))
    (12.0, <BoundaryStatus.FOUND: 0>)
    >>> boundary_depth(np.asarray([4.0, 8.0, 16.0]), np.asarray([1.0, 0.9, 0.8]))
    (16.0, <BoundaryStatus.ABOVE_RANGE: 1>)
    """
    half = np.max(accuracy) / 2
    if half <= chance:
        return float(depth[0]), BoundaryStatus.BELOW_RANGE
    last = int(np.flatnonzero(accuracy >= half)[-1])
    if last == len(depth) - 1:
        return float(depth[-1]), BoundaryStatus.ABOVE_RANGE
    fallen = (accuracy[last] - half) / (accuracy[last] - accuracy[last + 1])
    return float(depth[last] + fallen * (depth[last + 1] - depth[last])), BoundaryStatus.FOUND


def depth_scale_fit(
    boundary: Float[np.ndarray, " points"],
    scale: Float[np.ndarray, " points"],
    found: np.ndarray,
) -> dict[str, float]:
    r"""The multiple k of L* = k ξ, with errors that are relative: ln k = mean ln(L*/ξ).

    Parameters
    ----------
    boundary, scale
        L* and ξ, > 0, in layers.
    found
        False where L* is only a bound; the fit leaves these out, the rank correlation does not.

    Returns
    -------
    dict
        ``k`` and ``k_stderr``; ``exponent`` and ``exponent_stderr`` of the freer law L* ~ ξ^a;
        ``spearman`` of L* and ξ; ``points`` fitted. nan where there are fewer than three.

    Examples
    --------
    >>> scale = np.asarray([2.0, 4.0, 8.0, 16.0])
    >>> fit = depth_scale_fit(6 * scale, scale, scale > 0)
    >>> [round(fit[name], 6) for name in ("k", "exponent", "spearman")]
    [6.0, 1.0, 1.0]
    """
    names = ("k", "k_stderr", "exponent", "exponent_stderr", "spearman")
    usable = np.asarray(found, bool) & np.isfinite(scale)
    if usable.sum() < 3:
        return dict.fromkeys(names, np.nan) | {"points": float(usable.sum())}
    x, y = np.log(scale[usable]), np.log(boundary[usable])
    k = np.exp(np.mean(y - x))
    error = np.std(y - x, ddof=1) / np.sqrt(len(x))
    line: Any = scipy.stats.linregress(x, y)
    ranked = np.isfinite(scale)
    ranks: Any = scipy.stats.spearmanr(boundary[ranked], scale[ranked])
    values = (k, k * error, line.slope, line.stderr, ranks.statistic)
    return {name: float(value) for name, value in zip(names, values)} | {"points": float(len(x))}


def with_boundaries(ds: xr.Dataset) -> xr.Dataset:
    """The dataset of `Trainability` with what it says of the depth that can be trained.

    The step size is chosen at each (depth, weight_var, budget) by validation accuracy, mean over
    seeds; accuracy is read on training digits there, as Schoenholz et al. (2017) do. Added:
    ``accuracy`` and ``learning_rate_chosen``; ``boundary_depth`` with ``boundary_status``; and, for
    ``side`` both, ordered and chaotic, what `depth_scale_fit` gives.
    """
    mean = ds[["train_accuracy", "validation_accuracy"]].mean("seed")
    best = mean["validation_accuracy"].argmax("learning_rate")
    accuracy = mean["train_accuracy"].isel(learning_rate=best).drop_vars("learning_rate")
    accuracy.attrs = {"long_name": "training accuracy at the chosen step size", "units": "1"}
    rate = ds["learning_rate"].isel(learning_rate=best).drop_vars("learning_rate")
    rate.attrs = {"long_name": "step size chosen on validation digits", "units": "1"}
    ds = ds.assign(accuracy=accuracy, learning_rate_chosen=rate)
    ds = ds.assign(_boundaries(accuracy))
    return ds.assign(_fits(ds)).assign_coords(side=list(SIDES))


def _boundaries(accuracy: xr.DataArray) -> dict[str, xr.DataArray]:
    rows = accuracy.transpose("activation", "weight_var", "budget", "depth")
    depth = rows["depth"].values.astype(float)
    found = [boundary_depth(depth, row) for row in rows.values.reshape(-1, len(depth))]
    place = rows.isel(depth=0, drop=True)
    values = np.asarray([value for value, _ in found]).reshape(place.shape)
    codes = np.asarray([int(code) for _, code in found], np.int8).reshape(place.shape)
    flag = {
        "flag_values": [int(code) for code in BoundaryStatus],
        "flag_meanings": " ".join(code.name.lower() for code in BoundaryStatus),
    }
    text = {"long_name": "depth at which accuracy is half of its peak", "units": "layers"}
    return {
        "boundary_depth": place.copy(data=values).assign_attrs(text),
        "boundary_status": place.copy(data=codes).assign_attrs(
            long_name="whether the boundary lies among the depths", units="", **flag
        ),
    }


def _fits(ds: xr.Dataset) -> dict[str, tuple]:
    """Every number of the fit over (side, activation, budget)."""
    phases = {"ordered": [Phase.ORDERED], "chaotic": [Phase.CHAOTIC], "both": list(Phase)}
    table: list[dict[str, float]] = []
    for side in SIDES:
        for activation in ds["activation"].values:
            line = ds.sel(activation=activation)
            chosen = np.isin(line["phase_theory"].values, [int(p) for p in phases[side]])
            scale = line["depth_scale_correlation_theory"].values[chosen]
            for budget in ds["budget"].values:
                at = line.sel(budget=budget)
                boundary = at["boundary_depth"].values[chosen]
                found = at["boundary_status"].values[chosen] == BoundaryStatus.FOUND
                table.append(depth_scale_fit(boundary, scale, found))
    dims = ("side", "activation", "budget")
    shape = (len(SIDES), ds.sizes["activation"], ds.sizes["budget"])
    return {
        f"fit_{name}": (dims, np.asarray([row[name] for row in table]).reshape(shape), {
            "long_name": f"{name} of boundary depth = k xi_c", "units": "1"})
        for name in table[0]
    }  # fmt: skip
