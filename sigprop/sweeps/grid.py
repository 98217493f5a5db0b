"""A grid of cells: the coordinates of its axes, checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.sweeps.study import Study

__all__ = ["Grid", "checked_grid"]


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
    def combination_count(self) -> int:
        """How many combinations of static coordinates there are."""
        return math.prod(len(values) for values in self.static.values())

    def combination(self, number: int) -> dict[str, str]:
        """Static coordinates of combination ``number``, the last axis fastest."""
        places = np.unravel_index(number, [len(values) for values in self.static.values()] or [1])
        return {name: values[i] for (name, values), i in zip(self.static.items(), places)}

    @property
    def cell_count(self) -> int:
        """Cells of one static combination."""
        return math.prod(len(v) for v in self.traced.values())

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
        static={name: _strings(name, _named(study, name, grid)) for name in study.static_axes},
        traced={name: _numbers(name, grid[name]) for name in study.traced_axes},
    )
    study.check({**checked.static, **checked.traced})
    return checked


def _named(study: Study, name: str, grid: Mapping[str, Any]) -> Any:
    """As strings what the study has names for."""
    named, values = getattr(study, "named", None), grid[name]
    if named is None or isinstance(values, str):
        return values
    return [named(name, value) for value in values]


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
