"""A sweep that is refined: round after round of the cells that `refinement` wants."""

import numpy as np
import xarray as xr

from sigprop.sweeps import chunk_loop
from sigprop.sweeps.engines import Engine
from sigprop.sweeps.layout import DONE
from sigprop.sweeps.refinement import Lattice, classes, next_pieces
from sigprop.sweeps.store_plan import Plan
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk
from sigprop.sweeps.work import Outcome

__all__ = ["refined"]


def refined(
    study: Study,
    plan: Plan,
    engine: Engine,
    sink: chunk_loop.Sink,
    *,
    there: xr.Dataset | None = None,
    progress: bool = True,
) -> chunk_loop.Failed:
    """Compute what is wanted, round after round; gives the chunks that raised twice, and stops.

    ``there`` is what a store holds already, of a run that was stopped.
    """
    tiling = plan.tiling
    lattices = {
        number: Lattice(tiling, plan.refined) for number in range(tiling.grid.combination_count)
    }
    if there is not None:
        _learn_stored(study, plan, lattices, there)
    learning, unsettled, number = _Learning(study, sink, lattices), True, 0
    while unsettled:
        number += 1
        label = f"{study.name}, round {number}"
        todo = list(next_pieces(tiling, lattices))
        failed = chunk_loop.computed(study, engine, learning, todo, label=label, progress=progress)
        if failed:
            return failed
        unsettled = sum(lattice.split() for lattice in lattices.values()) > 0
    return []


class _Learning:
    """A sink that looks at the answers on their way to another."""

    def __init__(self, study: Study, sink: chunk_loop.Sink, lattices: dict[int, Lattice]):
        self.study, self.sink, self.lattices = study, sink, lattices

    def write(self, outcome: Outcome) -> None:
        self.sink.write(outcome)
        found = classes(self.study, outcome.answers or {})
        self.lattices[outcome.chunk.combination].learn(outcome.chunk.where, found)

    def note_failure(self, outcome: Outcome) -> None:
        self.sink.note_failure(outcome)


def _learn_stored(
    study: Study, plan: Plan, lattices: dict[int, Lattice], there: xr.Dataset
) -> None:
    """Classes of the cells that were computed before, box by box."""
    done, tiling = there[DONE].values, plan.tiling
    for index in range(len(tiling)):
        chunk = tiling.chunk(index)
        at = _positions(plan, chunk)
        kept = done[tuple(at.values())]
        if kept.any():
            at = {dim: places[kept] for dim, places in at.items()}
            found = classes(study, _Stored(there, at))
            lattices[chunk.combination].learn(chunk.where[kept], found)


def _positions(plan: Plan, chunk: Chunk) -> dict[str, np.ndarray]:
    """Places of a chunk's real cells along every axis of the grid."""
    grid = plan.tiling.grid
    lengths = [len(values) for values in grid.static.values()] or [1]
    static = np.unravel_index(chunk.combination, lengths)
    count = np.ones(len(chunk.where), int)
    traced = np.unravel_index(chunk.where, plan.tiling.sides)
    return dict(zip(grid.dims, [*(i * count for i in static[: len(grid.static)]), *traced]))


class _Stored(dict):
    """Answers at some cells, each read when it is asked for."""

    def __init__(self, dataset: xr.Dataset, at: dict[str, np.ndarray]):
        super().__init__()
        self.dataset, self.at = dataset, at

    def __missing__(self, name: str) -> np.ndarray:
        array = self.dataset[name]
        places = {dim: xr.DataArray(i, dims="cell") for dim, i in self.at.items()}
        found = array.isel({dim: i for dim, i in places.items() if dim in array.dims})
        return found.transpose("cell", ...).values
