"""How many cells a chunk has: so many that little is lost by a kill, and that memory holds them.

The number decides the compiled row count and with it the last bits of some results, so it follows
from the study and the grid alone wherever it can; what is measured moves it by factors of two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigprop.sweeps import memory
from sigprop.sweeps.grid import Grid
from sigprop.sweeps.study import Study
from sigprop.sweeps.tiling import Tiling, tiled
from sigprop.sweeps.work import Outcome, attempted

__all__ = ["Sized", "output_bytes", "sized", "start_size"]

SECONDS_A_CHUNK = 10.0
"""Aimed at: three times as much, on a busy machine, is what may be lost."""

_LEAST, _CHUNKS = 256, 256
_FREE_BYTES = 2**30  # what cells may take, by the study's own guess, where no budget was given
_STEP = 16  # from one probe of memory to the next
_HELD = 3  # chunks of answers in memory: computed, written, and on the way between


@dataclass(frozen=True)
class Sized:
    """A tiling; its first chunk where that was computed on the way; a word where a budget fails."""

    tiling: Tiling
    first: Outcome | None = None
    note: str = ""


def start_size(study: Study, grid: Grid) -> int:
    """Cells of a chunk as far as they follow from study and grid: a power of two times a block.

    At least 256, and a 256th of the grid, unless the study's own guesses of memory (a gigabyte a
    chunk) and time (10 s) say less.
    """
    seconds = getattr(study, "seconds_per_cell", 0.0)
    most = max(_LEAST, grid.cell_count // _CHUNKS, 1)
    most = min(most, _FREE_BYTES / max(study.bytes_per_cell, 1))
    most = min(most, SECONDS_A_CHUNK / seconds) if seconds > 0 else most
    return study.cell_multiple * _power_of_two(most / study.cell_multiple)


def _power_of_two(number: float) -> int:
    return 2 ** int(math.log2(number)) if number >= 1 else 1


def output_bytes(study: Study) -> int:
    """Of all answers at one cell."""
    return sum(
        np.dtype(v.dtype).itemsize * math.prod(len(study.coordinates[dim]) for dim in v.dims)
        for v in study.variables.values()
    )


def sized(study: Study, grid: Grid, memory_budget: int | None) -> Sized:
    """The tiling for this process's memory, where ``memory_budget`` is what all of it may take."""
    block = study.cell_multiple
    start = min(start_size(study, grid), block * math.ceil(grid.cell_count / block))
    if memory_budget is None:
        return _within_time(study, grid, tiled(grid, start, block))
    held = memory.resident_bytes()
    if memory_budget <= held:
        note = (
            f"memory budget of {memory_budget / 2**30:.3g} GB: this process holds "
            f"{held / 2**30:.2f} GB without a cell; taken as the budget of one chunk's cells"
        )
        return Sized(tiled(grid, _by_guess(study, memory_budget), block), note=note)
    probe = _Probe(study, grid)
    tiny = start <= _STEP * block and _STEP * start * study.bytes_per_cell < memory_budget - held
    fits = fitting(probe, block, start, memory_budget, start if tiny else block)
    small = f"memory budget of {memory_budget / 2**30:.3g} GB: the smallest chunk takes more"
    return Sized(probe.tiling(fits or block), probe.outcomes.get(fits), "" if fits else small)


def _by_guess(study: Study, budget: int) -> int:
    """Cells that fit by what the study says of one.

    Raises
    ------
    ValueError
        If the smallest chunk does not.
    """
    block = study.cell_multiple
    cells = budget // study.bytes_per_cell // block * block
    if not cells:
        raise ValueError(
            f"memory_budget must be at least {study.bytes_per_cell * block} bytes "
            f"({block} cells of {study.bytes_per_cell} bytes), got {budget}"
        )
    return cells


class _Probe:
    """Computes the first chunk at the sizes it is asked for, and watches the memory."""

    def __init__(self, study: Study, grid: Grid):
        self.study, self.grid, self.outcomes = study, grid, {}

    def tiling(self, cells: int) -> Tiling:
        return tiled(self.grid, cells, self.study.cell_multiple)

    def __call__(self, cells: int) -> tuple[int, int, int]:
        """Twice: compiling takes memory that does not grow with the cells."""
        tiling = self.tiling(cells)
        chunk, kept = tiling.chunk(0), _HELD * output_bytes(self.study) * tiling.rows
        memory.forget_peak()
        self.outcomes = {}
        attempted(self.study, chunk)
        most, before = memory.peak_bytes(), memory.resident_bytes()
        memory.forget_peak()
        outcome = attempted(self.study, chunk)
        self.outcomes = {cells: outcome} if outcome.error is None else {}
        again = memory.peak_bytes()
        return tiling.rows, max(most, again) + kept, max(again - before, 0) + kept


def fitting(
    peak: Callable[[int], tuple[int, int, int]],
    least: int,
    start: int,
    budget: int,
    first: int | None = None,
) -> int:
    """The largest size from ``least`` to ``start`` whose peak fits; 0 if none does.

    ``peak(cells)`` computes about so many and tells how many, the most the process held, and what
    of that these cells took. It is asked for ``first`` (or ``least``) cells, and for more only as
    far as by what those took they fit.

    Examples
    --------
    >>> fitting(lambda cells: (cells, 500 + 3 * cells, 3 * cells), 1, 256, budget=1000)
    128
    >>> fitting(lambda cells: (cells, 500 + 3 * cells, 3 * cells), 1, 256, budget=450)
    0
    """
    size, fits = first or least, 0
    while size > fits:
        now, most, taken = peak(size)
        if most > budget:
            break
        fits = size
        room = min(now + (budget - most) * now / max(taken, now), now * _STEP, start)
        size = start if room >= start else least * _power_of_two(room / least)
    return fits


def _within_time(study: Study, grid: Grid, tiling: Tiling) -> Sized:
    """Where the study does not guess its time: smaller boxes if the first takes far too long."""
    if getattr(study, "seconds_per_cell", 0.0) > 0:
        return Sized(tiling)
    first = attempted(study, tiling.chunk(0))
    if first.error is not None:
        return Sized(tiling)
    size = _power_of_two(tiling.rows * SECONDS_A_CHUNK / first.seconds / study.cell_multiple)
    smaller = tiled(grid, study.cell_multiple * size, study.cell_multiple)
    if first.seconds <= 2 * SECONDS_A_CHUNK or smaller.rows >= tiling.rows:
        return Sized(tiling, first)
    second = attempted(study, smaller.chunk(0))
    pays = second.error is None and second.seconds < first.seconds / 2  # not so with inner blocks
    return Sized(smaller, second) if pays else Sized(tiling, first)
