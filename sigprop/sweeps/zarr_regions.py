"""Where the cells of a chunk stand inside the Zarr chunks of an array."""

from typing import TYPE_CHECKING

import numpy as np

from sigprop.sweeps.layout import ZarrArray

if TYPE_CHECKING:
    from sigprop.sweeps.store_plan import Plan

__all__ = ["at", "fill", "place"]


def place(plan: "Plan", array: ZarrArray, index: int) -> list[int]:
    """Which chunk of ``array`` holds box ``index``."""
    here = at(plan, index)
    return [here.get(dim, 0) for dim in array.dims]


def fill(
    plan: "Plan",
    array: ZarrArray,
    index: int,
    block: np.ndarray,
    inside: tuple[np.ndarray, ...],
    values: np.ndarray,
) -> bool:
    """Put ``values``, of cells at ``inside`` of box ``index``, into ``block``; whether it may be.

    An array without some axis of the grid has one owner among the boxes along it, the first, so
    that no file is written twice. A refined sweep has one writer and may not reach the first box;
    there whoever comes writes (a value does not depend on an axis that its variable is without).
    """
    here, traced = at(plan, index), list(plan.tiling.grid.traced)
    without = [dim for dim in here if dim not in array.dims]
    if not plan.refined and any(here[dim] for dim in without):
        return False
    rows = np.ones(len(values), bool)
    if not plan.refined:
        for dim in set(without) & set(traced):
            rows &= inside[traced.index(dim)] == 0
    static = [0] * sum(dim in array.dims for dim in plan.static_axes)
    kept = [part[rows] for dim, part in zip(traced, inside) if dim in array.dims]
    block[(*static, *kept)] = values[rows] if kept else values[rows][0]
    return True


def at(plan: "Plan", index: int) -> dict[str, int]:
    """The place of box ``index`` along every axis of the grid."""
    tiling = plan.tiling
    combination, place = tiling.split(index)
    lengths = [len(values) for values in tiling.grid.static.values()]
    static = np.unravel_index(combination, lengths) if lengths else ()
    return dict(zip(tiling.grid.dims, (*(int(i) for i in static), *place)))
