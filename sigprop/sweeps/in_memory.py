"""A sweep that is stored nowhere: its arrays in memory, filled chunk by chunk."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from sigprop.sweeps.layout import DONE, ZarrArray
from sigprop.sweeps.store_plan import Plan
from sigprop.sweeps.work import Outcome

__all__ = ["InMemory"]


class InMemory:
    """The arrays of ``plan``, blank at first."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.seconds, self.written = 0.0, 0
        blank = lambda array: np.full(array.shape, array.blank, array.dtype)  # noqa: E731
        self.arrays = {name: blank(array) for name, array in plan.arrays.items()}

    def write(self, outcome: Outcome) -> None:
        """Put what a chunk computed in its places."""
        chunk, answers = outcome.chunk, outcome.answers or {}
        self.seconds += outcome.seconds
        self.written += 1
        tiling = self.plan.tiling
        lengths = [len(values) for values in tiling.grid.static.values()] or [1]
        count = np.ones(len(chunk.where), int)
        static = [i * count for i in np.unravel_index(chunk.combination, lengths)]
        traced = np.unravel_index(chunk.where, tiling.sides)
        at = dict(zip(tiling.grid.static, static)) | dict(zip(tiling.grid.traced, traced))
        values = {**answers, DONE: count.astype(bool)}
        for name, array in self.plan.arrays.items():
            rows = self._rows(array, at)
            kept = tuple(at[dim][rows] for dim in array.dims if dim in at)
            if rows.any():
                self.arrays[name][kept] = values[name][rows] if kept else values[name][rows][0]

    def note_failure(self, outcome: Outcome) -> None:
        """Nothing is kept."""

    def _rows(self, array: ZarrArray, at: Mapping[str, np.ndarray]) -> np.ndarray:
        """Of an array without some axis, the cells at that axis's beginning (see `blocks.fill`)."""
        rows = np.ones(len(next(iter(at.values()))), bool)
        if not self.plan.refined:
            for dim in set(at) - set(array.dims):
                rows &= at[dim] == 0
        return rows

    def dataset(self, coordinates: Mapping[str, np.ndarray]) -> xr.Dataset:
        """As it would be read from a store."""
        done = self.arrays[DONE]
        counts = {"cells_done": int(done.sum()), "cells": done.size}
        attrs = {"status": "complete", **counts, "wall_seconds": self.seconds}
        told = self.plan.coordinates
        return xr.Dataset(
            {n: (a.dims, self._shown(a), a.attrs) for n, a in self.plan.arrays.items()},
            {name: (name, values, told[name].attrs) for name, values in coordinates.items()},
            {**self.plan.attrs, **attrs},
        )

    def _shown(self, array: ZarrArray) -> np.ndarray:
        """Integers with gaps as floating-point numbers with NaN, as Zarr's readers have it."""
        values = self.arrays[array.name]
        if array.dtype.kind not in "iu" or self.arrays[DONE].all():
            return values
        kind = np.float32 if array.dtype.itemsize <= 2 else np.float64
        return np.where(values == array.blank, kind(np.nan), values.astype(kind))
