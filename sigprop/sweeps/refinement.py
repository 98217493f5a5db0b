"""Cells spent near boundaries: a coarse lattice, halved where its cells differ.

The grid that is asked for is the finest one. Along the refined axes a lattice of every sixteenth
cell is computed at first. A box of the lattice in which two computed cells are of different classes
is cut in half along every refined axis, and so on down to single cells; cells on a face are seen
by the boxes on both sides, so a boundary is followed where it goes. An island that lies between
the cells of the first lattice is not seen.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Chunk, Tiling

__all__ = ["Lattice", "classes", "next_pieces"]

_COARSEST = 16  # cells between neighbours at first

Box = tuple[tuple[int, int], ...]


def classes(study: Study, answers: Mapping[str, np.ndarray]) -> np.ndarray:
    """A whole number for every cell; where it changes between neighbours there is a boundary.

    By the study's own ``boundary``, else by all of its variables with ``flag_values`` and one
    number a cell: a phase, a class of growth.

    Raises
    ------
    ValueError
        If the study has neither.
    """
    boundary = getattr(study, "boundary", None)
    if boundary is not None:
        return np.asarray(boundary(answers)).astype(np.int64)
    names = [n for n, v in study.variables.items() if "flag_values" in v.attrs and not v.dims]
    if not names:
        raise ValueError(f"refine needs a study with a boundary, and {study.name} names none")
    codes = np.stack([np.asarray(answers[name]).astype(np.int64) for name in names], axis=-1)
    return (codes * 31 ** np.arange(len(names))).sum(-1)


class Lattice:
    """What is known of one combination of static coordinates, and what is to be computed next.

    Cells that differ along the other axes only are computed together: they share one lattice.
    """

    def __init__(self, tiling: Tiling, refined: Sequence[str]):
        axes = list(tiling.grid.traced)
        self.sides = tiling.sides
        self.along = [axes.index(name) for name in axes if name in refined]
        self.others = [i for i in range(len(axes)) if i not in self.along]
        shape = [self.sides[i] for i in self.along]
        self.known = np.zeros(shape, bool)
        self.classes = np.zeros((*shape, *(self.sides[i] for i in self.others)), np.int64)
        cuts = [sorted({*range(0, n - 1, _COARSEST), n - 1}) for n in shape]
        pairs = [list(itertools.pairwise(cut)) or [(0, 0)] for cut in cuts]
        self.boxes: list[Box] = list(itertools.product(*pairs))

    def learn(self, where: np.ndarray, found: np.ndarray) -> None:
        """The classes of cells (numbers among all of the combination)."""
        at = np.unravel_index(where, self.sides)
        refined, others = [tuple(at[i] for i in part) for part in (self.along, self.others)]
        self.classes[(*refined, *others)] = found
        self.known[refined] = True

    def split(self) -> bool:
        """Cut every box in which classes differ; whether there was one."""
        before = len(self.boxes)
        halves = [self._halves(box) if self._is_mixed(box) else [box] for box in self.boxes]
        self.boxes = [box for part in halves for box in part]
        return len(self.boxes) > before

    def wanted(self) -> np.ndarray:
        """Numbers of the cells at corners of boxes of which nothing is known."""
        corners = np.zeros_like(self.known)
        for box in self.boxes:
            corners[np.ix_(*box)] = True
        points = np.argwhere(corners & ~self.known)
        rest = list(itertools.product(*(range(self.sides[i]) for i in self.others)))
        at = np.empty((len(points), len(rest), len(self.sides)), int)
        at[..., self.along] = points[:, None, :]
        at[..., self.others] = np.asarray(rest, int).reshape(len(rest), len(self.others))
        return np.sort(np.ravel_multi_index(at.reshape(-1, len(self.sides)).T, self.sides))

    def _is_mixed(self, box: Box) -> bool:
        if all(high - low <= 1 for low, high in box):
            return False
        inside = tuple(slice(low, high + 1) for low, high in box)
        found = self.classes[inside][self.known[inside]]
        return bool((found != found[:1]).any())

    def _halves(self, box: Box) -> list[Box]:
        cuts = [(low, *([] if high - low <= 1 else [(low + high) // 2]), high) for low, high in box]
        return list(itertools.product(*(itertools.pairwise(cut) for cut in cuts)))


def next_pieces(tiling: Tiling, lattices: Mapping[int, Lattice]) -> Iterator[Callable[[], Chunk]]:
    """Every cell that is wanted next, in chunks of the tiling's row count."""
    for combination, lattice in lattices.items():
        cells = lattice.wanted()
        for start in range(0, len(cells), tiling.rows):
            part = cells[start : start + tiling.rows]
            yield functools.partial(tiling.gathered, combination, part)
