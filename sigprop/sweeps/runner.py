"""Run a study over a grid: chunk by chunk, stored, resumable, by one engine or another."""

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sigprop.sweeps import (
    chunk_loop,
    engines,
    folders,
    inspection,
    layout,
    provenance,
    sizing,
    threads,
)
from sigprop.sweeps.grid import Grid, checked_grid
from sigprop.sweeps.identity import identity_of
from sigprop.sweeps.in_memory import InMemory
from sigprop.sweeps.refining import refined
from sigprop.sweeps.run_record import Record, described
from sigprop.sweeps.store import Shard, Store
from sigprop.sweeps.store_plan import Plan, planned
from sigprop.sweeps.stored_datasets import open_store
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk, tiled
from sigprop.sweeps.work import Outcome

__all__ = ["run"]


def run(
    study: Study,
    grid: Mapping[str, Any],
    store: str | os.PathLike | None = None,
    engine: Any = "local",
    shard: str | None = None,
    refine: Sequence[str] = (),
    memory_budget: int | None = None,
    chunk_cells: int | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
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
        Folder of the Zarr store to write; nothing is written if None. It can be read while the
        sweep runs (`open_store`), and what is finished survives a kill and is not computed again.
        A store that already holds this very sweep is returned as it is.
    engine
        Who computes: ``"local"``, this process with all its devices; ``"dask"``, a cluster of
        processes of this machine or the one at ``scheduler``; ``"multihost"``, all processes of a
        `jax.distributed` job together, each chunk; or a Dask client.
    shard
        ``"i/n"``: compute every n-th chunk only, from the i-th; needs a store. The last shard to
        finish completes it.
    refine
        Traced axes along which cells are computed near boundaries only (see `refinement`).
    memory_budget
        Bytes that a computing process may hold in all; chunks are sized by what cells are seen to
        take. A budget below what the process holds before the first cell is taken as that of the
        cells of one chunk, by the study's own guess. If None, the guess decides.
    chunk_cells
        Cells of a chunk at most; chosen if None. Results of different sizes may differ by rounding.
    scheduler, workers
        Of the engine ``"dask"``: the address of a scheduler that runs, or how many processes to
        start here (one a core, or one a GPU, if None).
    progress
        Whether to show progress, on the error stream: bars on a terminal, else lines.

    Returns
    -------
    xarray.Dataset
        Read lazily from the store, or in memory without one. Dimensions: the static axes, the
        traced axes, then each variable's own; ``done`` says what was computed, which is all unless
        the sweep is refined, or a shard of one that others have not finished.

    Raises
    ------
    ValueError
        For a malformed grid or option, a store that holds another sweep or something else, or a
        place that cannot be written. Nothing is written then.
    SweepIncompleteError
        If some chunks raised twice; the others are stored.
    """
    threads.at_least_two()
    axes = checked_grid(study, grid)
    part = None if shard is None else Shard.parsed(shard)
    _check(study, store, engine, part, refine, chunk_cells)
    engine = engines.opened(engine, scheduler, workers)
    identity = identity_of(study, axes, refine)
    if store is None:
        with engine as works:
            return _unstored(study, axes, works, identity, memory_budget, chunk_cells, progress)
    place = Store(Path(store))
    if place.holds(identity) and place.complete and not _damaged(place):
        return open_store(place.path)
    with folders.made_for(place.path), engine as works, place.one_line_errors():
        if not getattr(works, "leads", True):
            return _followed(works, study, axes, place)
        first = _laid_out(place, study, axes, works, identity, memory_budget, chunk_cells)
        with place.claimed(part):
            _work(place, study, works, first, part, progress)
    return open_store(place.path)


def _followed(engine: Any, study: Study, grid: Grid, place: Store) -> xr.Dataset:
    """What process 0 wrote with the help of this one; empty if it gave up."""
    engine.follow(study, grid)
    return open_store(place.path) if place.path.exists() else xr.Dataset()


def _check(
    study: Study,
    store: Any,
    engine: Any,
    shard: Shard | None,
    refine: Sequence[str],
    chunk_cells: int | None,
) -> None:
    if engine == "multihost" and (store is None or shard is not None):
        raise ValueError("engine multihost needs a store, and has no shards")
    if shard is not None and store is None:
        raise ValueError("shard needs a store that the shards write into together")
    if shard is not None and refine:
        raise ValueError("refine needs all neighbours in one sweep, and cannot be sharded")
    unknown = [axis for axis in refine if axis not in study.traced_axes]
    if unknown or len(set(refine)) < len(refine):
        raise ValueError(
            f"refine must name axes among {', '.join(study.traced_axes)}, got {' '.join(refine)}"
        )
    if chunk_cells is not None and chunk_cells < 1:
        raise ValueError(f"chunk_cells must be >= 1, got {chunk_cells}")


def _sized(
    study: Study, grid: Grid, engine: engines.Engine, budget: int | None, cells: int | None
) -> sizing.Sized:
    if cells is None and not getattr(engine, "measures", True):
        cells = sizing.start_size(study, grid)
    if cells is not None:
        return sizing.Sized(tiled(grid, cells, study.cell_multiple))
    sized = engine.once(sizing.sized, study, grid, budget)
    if sized.note:
        chunk_loop.say(sized.note)
    return sized


def _unstored(
    study: Study,
    grid: Grid,
    engine: engines.Engine,
    identity: Mapping[str, Any],
    budget: int | None,
    cells: int | None,
    progress: bool,
) -> xr.Dataset:
    sized = _sized(study, grid, engine, budget, cells)
    plan = planned(study, sized.tiling, identity)
    target = InMemory(plan)
    if plan.refined:
        failed = refined(study, plan, engine, target, progress=progress)
    else:
        todo = _pieces(plan, range(len(plan.tiling)))
        failed = chunk_loop.computed(
            study, engine, target, todo, first=sized.first, progress=progress
        )
    _raise_for(failed, plan, target.written, "give a store to keep the others")
    return target.dataset(_coordinates(study, plan))


def _pieces(plan: Plan, indices: Iterable[int]) -> list[Callable[[], Chunk]]:
    return [functools.partial(plan.tiling.chunk, index) for index in indices]


def _coordinates(study: Study, plan: Plan) -> dict[str, np.ndarray]:
    return {name: v for name, (_, v) in layout.coordinates_of(study, plan.tiling).items()}


def _laid_out(
    place: Store,
    study: Study,
    grid: Grid,
    engine: engines.Engine,
    identity: Mapping[str, Any],
    budget: int | None,
    cells: int | None,
) -> Outcome | None:
    """The store on the disk; gives the first chunk's outcome if that was computed for its size."""
    if place.path.exists():
        return None
    sized = _sized(study, grid, engine, budget, cells)
    plan = planned(study, sized.tiling, identity)
    place.lay_out(plan, _coordinates(study, plan))
    if not place.holds(identity):
        raise ValueError(f"store {place.path} was removed while it was laid out")
    return sized.first if place.plan().tiling.box == plan.box else None


def _damaged(place: Store) -> bool:
    """Whether a store that is marked complete is; of the first format nothing is known."""
    if place.of_first_format:
        return False
    return any(True for _ in inspection.damages(place, place.plan()))


def _work(
    place: Store,
    study: Study,
    engine: engines.Engine,
    first: Outcome | None,
    shard: Shard | None,
    progress: bool,
) -> None:
    """Compute what is missing of the claimed store, and mark it complete if nothing is left."""
    plan = place.plan()
    _tell_of_other_code(place, plan)
    _mend(place, plan, study)
    missing = inspection.missing(place, plan)
    todo = _pieces(plan, (i for i in missing if shard is None or shard.has(i)))
    record, there = Record(place, plan), len(plan.tiling) - len(missing)
    try:
        if plan.refined:
            before = open_store(place.path)
            there = int(before.attrs["cells_done"])
            failed = refined(study, plan, engine, record, there=before, progress=progress)
        else:
            failed = chunk_loop.computed(
                study, engine, record, todo, first=first, there=there, progress=progress
            )
        again = f"the others are kept in {place.path}; run the same command to try again"
        _raise_for(failed, plan, there + record.written, again)
    finally:
        if shard is None and not there + record.written:
            shutil.rmtree(place.path, ignore_errors=True)  # nothing came of it
    if plan.refined or not inspection.missing(place, plan):
        place.finish(plan)


def _tell_of_other_code(place: Store, plan: Plan) -> None:
    """A word if the code or its packages are not those that the sweep began with."""
    now = {"git_commit": provenance.git_commit(), "package_versions": provenance.package_versions()}
    changed = [name.replace("_", " ") for name, value in now.items() if plan.attrs[name] != value]
    if changed:
        chunk_loop.say(
            f"store {place.path} was begun with another {' and other '.join(changed)}: chunks "
            "computed now may differ from those before in more than they should"
        )


def _raise_for(failed: chunk_loop.Failed, plan: Plan, kept: int, advice: str) -> None:
    """Raise if chunks failed: what they raised where nothing else is there."""
    if not failed:
        return
    error = failed[0].error
    if not kept and error is not None:
        raise error
    where = "; ".join(described(plan, outcome.chunk) for outcome in failed[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    raise chunk_loop.SweepIncompleteError(
        f"{len(failed)} of {len(plan.tiling)} chunks raised twice and are missing "
        f"({type(error).__name__}: {error}): {where}{more}; {advice}"
    )


def _mend(place: Store, plan: Plan, study: Study) -> None:
    """Take the marks of damaged chunks back; write other damaged files anew."""
    found = list(inspection.damages(place, plan))
    boxes = sorted({damage.index for damage in found if damage.index is not None})
    for index in boxes:
        where = plan.tiling.described(index)
        chunk_loop.say(
            f"store {place.path}: chunk {index} ({where}) is damaged; it is computed again"
        )
    if found:
        place.reopen(plan, boxes)
        place.write_template(plan, _coordinates(study, plan))
