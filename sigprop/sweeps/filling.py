"""A refined dataset for figures: what was left coarse shows the nearest cell that was computed."""

from typing import Any

import numpy as np
import scipy.ndimage
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from sigprop.sweeps.layout import DONE

__all__ = ["filled"]


def filled(dataset: xr.Dataset) -> xr.Dataset:
    """``dataset`` with every masked cell showing the nearest computed one, for figures.

    Arrays are filled when they are read. The mask ``done`` stays as it is.

    Examples
    --------
    >>> coarse = xr.Dataset({"done": ("x", [True, False, False, True]),
    ...                      "phase": ("x", [0.0, np.nan, np.nan, 2.0])}, {"x": [1, 2, 3, 4]})
    >>> filled(coarse)["phase"].values
    array([0., 0., 2., 2.])
    """
    done = dataset[DONE]
    if bool(done.all()):
        return dataset
    shown, nearest = dataset.copy(), {}
    for name in set(dataset.data_vars) - {DONE}:
        variable = dataset.variables[name]
        kept = tuple(dim for dim in done.dims if dim in variable.dims)
        if kept not in nearest:
            nearest[kept] = _nearest(done.any([dim for dim in done.dims if dim not in kept]))
        lazy = indexing.LazilyIndexedArray(_Filled(variable, nearest[kept]))
        shown[name] = xr.Variable(variable.dims, lazy, variable.attrs)
    return shown


def _nearest(there: xr.DataArray) -> tuple[np.ndarray, ...]:
    """For every cell the place of the nearest one that is there, at the same names (strings)."""
    apart = [there[dim].dtype.kind in "OUST" for dim in there.dims]
    places = np.indices(there.shape)
    along = [axis for axis, separate in enumerate(apart) if not separate]
    for names in np.ndindex(*(n for n, separate in zip(there.shape, apart) if separate)):
        left = iter(names)
        at = tuple(next(left) if separate else slice(None) for separate in apart)
        if along and there.values[at].any():
            found = scipy.ndimage.distance_transform_edt(
                ~there.values[at], return_distances=False, return_indices=True
            )
            for axis, where in zip(along, np.asarray(found)):
                places[(axis, *at)] = where
    return tuple(places)


class _Filled(BackendArray):
    """An array that is filled when it is read."""

    def __init__(self, variable: xr.Variable, nearest: tuple[np.ndarray, ...]):
        self.variable, self.nearest = variable, nearest
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: Any) -> Any:
        outer = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, outer, self._taken)

    def _taken(self, key: tuple) -> np.ndarray:
        whole = self.variable.values[self.nearest] if self.nearest else self.variable.values
        return (
            xr.Variable(self.variable.dims, whole).isel(dict(zip(self.variable.dims, key))).values
        )
