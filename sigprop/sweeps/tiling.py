"""A grid cut into boxes, each a chunk: computed together, stored as whole Zarr chunks."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sigprop.sweeps.grid import Grid

__all__ = ["Chunk", "Tiling", "tiled"]


@dataclass(frozen=True)
class Chunk:
    """Cells that are computed in one call.

    ``cells`` are padded; the first ``len(where)`` are real, and ``where`` counts them among all
    cells of their combination of static coordinates, the last axis fastest.
    """

    index: int
    combination: int
    where: np.ndarray
    static: Mapping[str, str]
    cells: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tiling:
    """Boxes of ``box`` cells along the traced axes, and the row count that calls are padded to."""

    grid: Grid
    box: tuple[int, ...]
    rows: int

    @property
    def sides(self) -> tuple[int, ...]:
        """Length of every traced axis."""
        return tuple(len(values) for values in self.grid.traced.values())

    @property
    def boxes(self) -> tuple[int, ...]:
        """Boxes along every traced axis."""
        return tuple(-(-side // length) for side, length in zip(self.sides, self.box))

    @property
    def boxes_per_combination(self) -> int:
        """Boxes of one static combination."""
        return math.prod(self.boxes)

    def __len__(self) -> int:
        return self.boxes_per_combination * self.grid.combination_count

    def split(self, index: int) -> tuple[int, tuple[int, ...]]:
        """Of box ``index``: the number of its combination, and its place among the boxes."""
        combination, place = divmod(index, self.boxes_per_combination)
        return combination, tuple(int(i) for i in np.unravel_index(place, self.boxes))

    def slices(self, place: tuple[int, ...]) -> tuple[slice, ...]:
        """The cells of a box, along every traced axis."""
        return tuple(
            slice(i * length, min((i + 1) * length, side))
            for i, length, side in zip(place, self.box, self.sides)
        )

    def chunk(self, index: int) -> Chunk:
        """All cells of box ``index``."""
        combination, place = self.split(index)
        ranges = [np.arange(part.start, part.stop) for part in self.slices(place)]
        where = np.ravel_multi_index(np.meshgrid(*ranges, indexing="ij"), self.sides).ravel()
        return self.gathered(combination, where, index)

    def gathered(self, combination: int, where: np.ndarray, index: int = -1) -> Chunk:
        """The cells ``where``, at most ``rows``, wherever they are.

        The last is repeated up to ``rows``: a multiply over another number of rows may round
        differently, and one shape is one compile.
        """
        padded = where[np.minimum(np.arange(self.rows), len(where) - 1)]
        positions = np.unravel_index(padded, self.sides)
        axes = self.grid.traced.items()
        cells = {name: values[i] for (name, values), i in zip(axes, positions)}
        return Chunk(index, combination, where, self.grid.combination(combination), cells)

    def by_box(self, chunk: Chunk) -> Iterator[tuple[int, tuple[np.ndarray, ...], np.ndarray]]:
        """The boxes a chunk has cells in: index, places inside the box, rows of the chunk."""
        positions = np.unravel_index(chunk.where, self.sides)
        places = [p // length for p, length in zip(positions, self.box)]
        inside = [p % length for p, length in zip(positions, self.box)]
        numbers = np.ravel_multi_index(places, self.boxes)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            index = chunk.combination * self.boxes_per_combination + int(number)
            yield index, tuple(part[rows] for part in inside), rows

    def described(self, index: int) -> str:
        """Where box ``index`` lies, for people."""
        combination, place = self.split(index)
        static = [f"{name} {value}" for name, value in self.grid.combination(combination).items()]
        traced = [
            f"{name} {values[part][0]:g}" + (f" to {values[part][-1]:g}" if part_is_long else "")
            for (name, values), part in zip(self.grid.traced.items(), self.slices(place))
            for part_is_long in [part.stop - part.start > 1]
        ]
        return ", ".join([*static, *traced])


def tiled(grid: Grid, most: int, multiple: int) -> Tiling:
    """Boxes of at most ``most`` cells (or of ``multiple``), as few and as equal as can be.

    The last axes are filled first: along the first one the program may change.

    Examples
    --------
    >>> grid = Grid({}, {"x": np.arange(5.0), "y": np.arange(3.0)})
    >>> [tiled(grid, most, 1).box for most in (1, 2, 3, 7, 99)]
    [(1, 1), (1, 2), (1, 3), (2, 3), (5, 3)]
    """
    box, left = [], max(most, 1)
    for values in reversed(list(grid.traced.values())):
        count = -(-len(values) // min(left, len(values)))
        box.append(-(-len(values) // count))
        left = left // len(values) if count == 1 else 1
    box = tuple(reversed(box))
    return Tiling(grid, box, multiple * math.ceil(math.prod(box) / multiple))
