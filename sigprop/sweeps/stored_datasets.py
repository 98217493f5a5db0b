"""Reading a store, finished or not: what the mask promises, and nothing else."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from sigprop.sweeps.layout import DONE
from sigprop.sweeps.store import Store

__all__ = ["open_store"]


def open_store(store: str | os.PathLike) -> xr.Dataset:
    """The dataset of a sweep, read lazily; also of one that is running, or was stopped.

    The mask ``done`` and the attributes ``status`` (complete or unfinished), ``cells_done`` and
    ``cells`` say what is there. The rest is NaN; integers are floating-point numbers meanwhile. A
    damaged chunk is an error when it is read. Any Zarr reader opens the same folder.

    Raises
    ------
    ValueError
        If ``store`` is absent or not a sweep's, or has another format.

    Examples
    --------
    >>> open_store("nowhere.zarr")
    Traceback (most recent call last):
    ...
    ValueError: store must be a sweep's, got nowhere.zarr, which does not exist
    """
    place = Store(Path(store))
    if not place.of_first_format:
        if not place.path.exists():
            raise ValueError(f"store must be a sweep's, got {store}, which does not exist")
        if not place.books.exists():
            raise ValueError(f"store must be a sweep's, got {store}, which is something else")
        place.plan()  # raises for another format
    complete = place.complete  # before the mask: a sweep may be finished in between
    dataset = xr.open_dataset(place.path, engine="zarr", consolidated=True)
    if complete and DONE not in dataset:
        return dataset
    done = dataset[DONE].load()  # before any array it speaks of
    if complete:
        return dataset
    counts = {"status": "unfinished", "cells_done": int(done.sum()), "cells": done.size}
    return _masked(dataset.assign_attrs(counts), done)


def _masked(dataset: xr.Dataset, done: xr.DataArray) -> xr.Dataset:
    """``dataset`` without what is not marked yet: some arrays of a chunk may be there before."""
    for name in set(dataset.data_vars) - {DONE}:
        variable = dataset.variables[name]
        missing = [dim for dim in done.dims if dim not in variable.dims]
        there = done.variable.any(missing) if missing else done.variable
        lazy = indexing.LazilyIndexedArray(_Masked(variable, there.values))
        dataset[name] = xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)
    return dataset


class _Masked(BackendArray):
    """An array of which only what is marked is shown, when it is asked for."""

    def __init__(self, variable: xr.Variable, there: np.ndarray):
        self.variable, self.there = variable, there
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: Any) -> Any:
        outer = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, outer, self._taken)

    def _taken(self, key: tuple) -> np.ndarray:
        dims = self.variable.dims
        values = self.variable.isel(dict(zip(dims, key)))
        there = xr.Variable(dims[: self.there.ndim], self.there)
        there = there.isel(dict(zip(there.dims, key)))
        return np.asarray(values.where(there) if values.dtype.kind == "f" else values)
