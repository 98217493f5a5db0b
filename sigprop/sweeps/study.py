"""What a sweep asks of a study: its axes, its outputs, its size in memory, and one call."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Study", "Variable"]


@runtime_checkable
class Variable(Protocol):
    """One output of a study: what comes after the grid's own dimensions, and what it means."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the trailing dimensions, e.g. ``("layer",)``; none for one number a cell."""
        ...

    @property
    def axes(self) -> tuple[str, ...]:
        """The grid axes it varies along; it is stored without the others."""
        ...

    @property
    def dtype(self) -> str:
        """Name of the NumPy dtype it is stored in."""
        ...

    @property
    def attrs(self) -> Mapping[str, Any]:
        """``long_name``, ``units``, ``flag_values`` and the like, as plain JSON values."""
        ...


@runtime_checkable
class Study(Protocol):
    """A question that can be asked at every point of a grid.

    A study is called once for every combination of its static axes (strings: they change the
    program) and chunk of its traced axes (numbers: they are data to one compiled program).

    More attributes are read where a study has them. ``seconds_per_cell``, a guess for a small
    machine, keeps chunks of slow cells small (without it the first chunk is timed). ``boundary``,
    for `refinement`, is a function of the answers at some cells that gives each a class.
    ``named(axis, value)`` gives the string for what stands on a static axis, ``content(static)``
    what decides the results behind those strings, as plain JSON values.
    """

    @property
    def name(self) -> str:
        """What the study is called in stores and messages."""
        ...

    @property
    def version(self) -> int:
        """Raised when the meaning of the results changes, so that old stores are not reused."""
        ...

    @property
    def static_axes(self) -> tuple[str, ...]:
        """Axes whose coordinates are strings; each combination is a call of its own."""
        ...

    @property
    def traced_axes(self) -> tuple[str, ...]:
        """Axes whose coordinates are numbers; flattened to cells."""
        ...

    @property
    def bytes_per_cell(self) -> int:
        """A guess of the peak memory of one cell; a memory budget has it measured instead."""
        ...

    @property
    def cell_multiple(self) -> int:
        """Every chunk holds a multiple of this many cells (padding included)."""
        ...

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The outputs, by name."""
        ...

    @property
    def coordinates(self) -> Mapping[str, Sequence | np.ndarray]:
        """Coordinates of the trailing dimensions, by dimension."""
        ...

    @property
    def axis_attrs(self) -> Mapping[str, Mapping[str, Any]]:
        """Attributes (``long_name``, ``units``) of every coordinate, by dimension."""
        ...

    def check(self, grid: Mapping[str, Sequence | np.ndarray]) -> None:
        """Raise ValueError for coordinates that cannot be computed, before anything is."""
        ...

    def config(self) -> Mapping[str, Any]:
        """Everything besides the grid that decides the results, as plain JSON values."""
        ...

    def attributes(self) -> Mapping[str, Any]:
        """What else a reader needs to repeat the run: device, matmul precision, seed."""
        ...

    def compute(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """Every output at ``cells`` (one array of equal length per traced axis), cell axis first.

        A cell's answer must not depend on which other cells are in the call.
        """
        ...
