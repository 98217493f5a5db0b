"""Run a study over a grid: chunk by chunk, stored, resumable, assembled into one dataset."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from sigprop.sweeps import engines, files, provenance
from sigprop.sweeps.grid import Chunk, Grid, cells_per_chunk, checked_grid
from sigprop.sweeps.identity import digest, identity_of
from sigprop.sweeps.store import Store, open_store
from sigprop.sweeps.study import Study, Variable

__all__ = ["run"]

_SECONDS = "seconds_of_chunk"
Chunks = dict[int, dict[str, np.ndarray]]


def run(
    study: Study,
    grid: Mapping[str, Any],
    store: str | os.PathLike | None = None,
    engine: str = "local",
    memory_budget: int = 2**31,
    progress: bool = True,
) -> xr.Dataset:
    """The answers of ``study`` at every point of ``grid``, as one labelled dataset.

    Parameters
    ----------
    study
        What to ask at each point (see `Study`).
    grid
        One-dimensional coordinates by axis name: strings on the study's static axes, numbers on
        its traced ones.
    store
        Folder of the Zarr store to write; nothing is written if None. Finished chunks survive a
        kill and are not computed again. A store that already holds this very sweep is returned
        as it is.
    engine
        Who computes: ``"local"``, this process.
    memory_budget
        Bytes the cells of one chunk may take; > 0. Does not change the answers.
    progress
        Whether to show a progress bar over chunks (on the standard error stream).

    Returns
    -------
    xarray.Dataset
        In memory. Dimensions: the static axes, the traced axes, then each variable's own.

    Raises
    ------
    ValueError
        For a malformed grid, a store that holds another sweep or something else, or a place that
        cannot be written. Nothing is written then.
    """
    axes = checked_grid(study, grid)
    compute_all = engines.get(engine)
    size = cells_per_chunk(axes, study, memory_budget)
    if store is None:
        return _assembled(study, axes, _computed(study, axes, size, compute_all, None, progress))
    place, identity = Store(Path(store)), identity_of(study, axes)
    if not place.finished(identity):
        with place.claimed(identity, size) as size:
            chunks = _computed(study, axes, size, compute_all, place, progress)
            place.finish(_assembled(study, axes, chunks), identity)
    with open_store(place.path) as dataset:
        return dataset.load()


def _computed(
    study: Study,
    grid: Grid,
    size: int,
    engine: engines.Engine,
    place: Store | None,
    progress: bool,
) -> list[tuple[Chunk, dict[str, np.ndarray]]]:
    """Every chunk with its answers: read back where stored, computed and stored elsewhere."""
    chunks = list(grid.chunks(size))
    ready: Chunks = {}
    if place is not None:
        stored = [c.index for c in chunks if place.chunk_file(c.index).exists()]
        ready = {index: files.read_arrays(place.chunk_file(index)) for index in stored}
    with _progress_bar(progress) as bar:
        task = bar.add_task(study.name.replace("_", " "), total=len(chunks), completed=len(ready))
        todo = [chunk for chunk in chunks if chunk.index not in ready]
        for chunk, arrays in engine(lambda chunk: _answers(study, chunk), todo):
            if place is not None:
                files.write_arrays(place.chunk_file(chunk.index), arrays)
            ready[chunk.index] = dict(arrays)
            bar.advance(task)
    return [(chunk, ready[chunk.index]) for chunk in chunks]


def _progress_bar(shown: bool) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("chunks"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


def _answers(study: Study, chunk: Chunk) -> dict[str, np.ndarray]:
    """The outputs at the real cells of ``chunk``, checked against what the study declares."""
    begin = time.perf_counter()
    computed = study.compute(chunk.static, chunk.cells)
    if set(computed) != set(study.variables):
        odd = sorted(set(computed) ^ set(study.variables))
        raise ValueError(f"study {study.name} must return exactly its variables; differ: {odd}")
    answers = {}
    rows = len(next(iter(chunk.cells.values())))
    for name, variable in study.variables.items():
        array = np.asarray(computed[name])
        trailing = tuple(len(study.coordinates[dim]) for dim in variable.dims)
        if array.shape != (rows, *trailing):
            raise ValueError(
                f"{name} of study {study.name} must have shape {(rows, *trailing)}, "
                f"got {array.shape}"
            )
        answers[name] = array[: chunk.count].astype(variable.dtype)
    return answers | {_SECONDS: np.asarray(time.perf_counter() - begin)}


def _assembled(
    study: Study, grid: Grid, chunks: list[tuple[Chunk, dict[str, np.ndarray]]]
) -> xr.Dataset:
    """Chunks put back in their places, with dimensions, coordinates and attributes."""
    seconds = sum(float(arrays[_SECONDS]) for _, arrays in chunks)
    used = [dim for variable in study.variables.values() for dim in variable.dims]
    values = {**grid.static, **grid.traced, **{dim: study.coordinates[dim] for dim in used}}
    attrs = study.axis_attrs
    return xr.Dataset(
        data_vars={
            name: _placed(name, variable, grid, chunks)
            for name, variable in study.variables.items()
        },
        coords={dim: (dim, np.asarray(v), attrs.get(dim, {})) for dim, v in values.items()},
        attrs={
            "study": study.name,
            "config": json.dumps(study.config()),
            "config_hash": digest(identity_of(study, grid)),
            "package_versions": provenance.package_versions(),
            "git_commit": provenance.git_commit(),
            **study.attributes(),
            "wall_seconds": seconds,
        },
    )


def _placed(
    name: str, variable: Variable, grid: Grid, chunks: list[tuple[Chunk, dict[str, np.ndarray]]]
) -> xr.Variable:
    """One output over the axes it varies along, from all chunks."""
    first = chunks[0][1][name]
    shape = (len(grid.combinations), grid.cell_count, *first.shape[1:])
    whole = np.empty(shape, first.dtype)
    for chunk, arrays in chunks:
        whole[chunk.combination, chunk.start : chunk.start + chunk.count] = arrays[name]
    whole = whole.reshape(*grid.shape, *first.shape[1:])
    placed = xr.Variable((*grid.dims, *variable.dims), whole, dict(variable.attrs))
    return placed.isel({dim: 0 for dim in grid.dims if dim not in variable.axes})
