"""A grid of cells: its axes checked, its cells flattened, split into chunks and padded."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.sweeps.study import Study

__all__ = ["Chunk", "Grid", "cells_per_chunk", "checked_grid"]


@dataclass(frozen=True)
class Chunk:
    """Some cells of one static combination. ``cells`` are padded; the first ``count`` are real."""

    index: int
    combination: int
    start: int
    count: int
    static: Mapping[str, str]
    cells: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Checked coordinates of every axis; static axes come first, in the study's order."""

    static: Mapping[str, tuple[str, ...]]
    traced: Mapping[str, np.ndarray]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of all axes, static ones first."""
        return (*self.static, *self.traced)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis, in the order of ``dims``."""
        return tuple(len(v) for v in (*self.static.values(), *self.traced.values()))

    @property
    def combinations(self) -> list[dict[str, str]]:
        """Every combination of static coordinates, the last axis fastest."""
        return [dict(zip(self.static, c)) for c in itertools.product(*self.static.values())]

    @property
    def cell_count(self) -> int:
        """Cells of one static combination."""
        return math.prod(len(v) for v in self.traced.values())

    def cells(self) -> dict[str, np.ndarray]:
        """Coordinates of every cell, one flat array per traced axis, the last axis fastest."""
        mesh = np.meshgrid(*self.traced.values(), indexing="ij")
        return {name: values.ravel() for name, values in zip(self.traced, mesh)}

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All chunks of ``size`` cells, in a fixed order.

        The last one of a combination repeats its last cell up to ``size``: a multiply over
        another number of rows may round differently, and one shape is one compile.
        """
        flat = self.cells()
        starts = range(0, self.cell_count, size)
        for index, (combination, start) in enumerate(
            itertools.product(range(len(self.combinations)), starts)
        ):
            wanted = np.minimum(np.arange(start, start + size), self.cell_count - 1)
            cells = {name: values[wanted] for name, values in flat.items()}
            count = min(size, self.cell_count - start)
            yield Chunk(index, combination, start, count, self.combinations[combination], cells)

    def as_json(self) -> dict[str, list]:
        """Coordinates as plain lists; floats survive exactly."""
        static = {name: list(values) for name, values in self.static.items()}
        return static | {name: values.tolist() for name, values in self.traced.items()}


def checked_grid(study: Study, grid: Mapping[str, Any]) -> Grid:
    """``grid`` with every axis checked against what ``study`` expects.

    Raises
    ------
    ValueError
        For a missing or unknown axis, or one that is not one-dimensional, is empty, repeats a
        coordinate, or holds the wrong kind of value.
    """
    axes = (*study.static_axes, *study.traced_axes)
    missing = [name for name in axes if name not in grid]
    unknown = [name for name in grid if name not in axes]
    if missing or unknown:
        raise ValueError(
            f"grid must have exactly the axes {', '.join(axes)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    checked = Grid(
        static={name: _strings(name, grid[name]) for name in study.static_axes},
        traced={name: _numbers(name, grid[name]) for name in study.traced_axes},
    )
    study.check({**checked.static, **checked.traced})
    return checked


def _strings(name: str, values: Any) -> tuple[str, ...]:
    wrong = isinstance(values, str) or not all(isinstance(v, str) for v in values)
    if wrong or not len(values):
        raise ValueError(f"grid axis {name} must be a non-empty list of strings, got {values!r}")
    return tuple(str(v) for v in _distinct(name, list(values)))


def _numbers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iuf":
        raise ValueError(
            f"grid axis {name} must be a non-empty one-dimensional list of numbers, got {values!r}"
        )
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"grid axis {name} must be finite, got {array[where]} at index {where}")
    return np.asarray(_distinct(name, array.astype(np.float64).tolist()))


def _distinct(name: str, values: list) -> list:
    repeated = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if repeated is not None:
        raise ValueError(f"grid axis {name} must not repeat a coordinate, got {repeated!r} twice")
    return values


def cells_per_chunk(grid: Grid, study: Study, memory_budget: int) -> int:
    """Cells of every chunk: as few and as equal chunks as ``memory_budget`` bytes allow.

    Raises
    ------
    ValueError
        If the smallest chunk the study can compute does not fit.
    """
    block = study.cell_multiple
    blocks_that_fit = int(memory_budget // (study.bytes_per_cell * block))
    if blocks_that_fit < 1:
        raise ValueError(
            f"memory_budget must be at least {study.bytes_per_cell * block} bytes "
            f"({block} cells of {study.bytes_per_cell} bytes), got {memory_budget}"
        )
    chunk_count = math.ceil(grid.cell_count / (blocks_that_fit * block))
    return block * math.ceil(grid.cell_count / (chunk_count * block))
