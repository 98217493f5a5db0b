"""A store as a file for other programs: NetCDF, or a CSV of what is one number a cell."""

import contextlib
import csv
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from sigprop.sweeps.layout import DONE
from sigprop.sweeps.store import Store
from sigprop.sweeps.stored_datasets import open_store

__all__ = ["to_csv", "to_netcdf"]

_CELLS_AT_ONCE = 100_000
_MOST_IN_MEMORY = 2**30  # bytes; NetCDF 3, which SciPy writes, is made in memory


def to_csv(store: Path, path: Path) -> None:
    """A row for every cell that was computed: its coordinates, then every scalar variable.

    Raises
    ------
    ValueError
        For a store of the first format, or a place that cannot be written.
    """
    if Store(store).of_first_format:
        raise ValueError(f"store {store} has the first format, of which no CSV is written")
    with (
        open_store(store) as ds,
        _new(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(_rows(ds))


def _rows(ds: xr.Dataset) -> Iterator[list[Any]]:
    """The heads, then a row a cell; a slab along the first long axis is read at a time."""
    dims = ds[DONE].dims
    names = [n for n in ds.data_vars if n != DONE and set(ds[n].dims) <= set(dims)]
    yield [*dims, *names]
    for slab in _slabs(ds[[*names, DONE]], dims):
        sizes = {dim: slab.sizes[dim] for dim in dims}
        shown = [*(slab[dim] for dim in dims), *(slab[name] for name in names)]
        flat = [array.variable.set_dims(sizes).transpose(*dims).values.ravel() for array in shown]
        there = slab[DONE].values.ravel()
        yield from (list(row) for done, *row in zip(there, *flat) if done)


def _slabs(ds: xr.Dataset, dims: tuple) -> Iterator[xr.Dataset]:
    """Parts of at most a hundred thousand cells, or one step of the first axes."""
    cells = 1
    for dim in dims:
        cells *= ds.sizes[dim]
    if cells <= _CELLS_AT_ONCE or not dims:
        yield ds
        return
    first, *rest = dims
    for number in range(ds.sizes[first]):
        part = ds.isel({first: slice(number, number + 1)})
        yield from _slabs(part, tuple(rest)) if rest else [part]


def to_netcdf(store: Path, path: Path) -> None:
    """All of it, variable by variable (NetCDF 4) where h5netcdf is installed, else NetCDF 3.

    Raises
    ------
    ValueError
        If it is too large for NetCDF 3, or cannot be written.
    """
    with open_store(store) as ds, _new(path) as temporary:
        ds = ds.drop_encoding()
        if importlib.util.find_spec("h5netcdf") is None:
            if ds.nbytes > _MOST_IN_MEMORY:
                raise ValueError(
                    f"export of {ds.nbytes / 2**30:.1f} GB needs NetCDF 4: pip install h5netcdf"
                )
            ds.to_netcdf(temporary, engine="scipy")
            return
        ds.drop_vars(list(ds.data_vars)).to_netcdf(temporary, engine="h5netcdf")
        for name in ds.data_vars:
            ds[[name]].to_netcdf(temporary, mode="a", engine="h5netcdf")


@contextlib.contextmanager
def _new(path: Path) -> Iterator[Path]:
    """A temporary file that takes ``path``'s place once it is whole; never over another file."""
    if path.exists():
        raise ValueError(f"export must be to a new file, got {path}, which exists")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"export to {path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
