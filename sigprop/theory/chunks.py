"""Run a compiled function over many cells in chunks of one length, on every core."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from sigprop.activations import Activation
from sigprop.gaussian import resolution

__all__ = ["by_nodes", "over_cells"]

CHUNK = 64


def over_cells(compiled: Callable, arrays: list[np.ndarray], chunk: int = CHUNK):
    """``compiled(*arrays)`` for 1-D arrays of cells, ``chunk`` cells at a time.

    One chunk length means one compilation, and threads keep the cores busy where the integrals of
    a cell are too small for XLA to split. The tree that comes back has the cells on axis 0.
    """
    size = arrays[0].size
    chunk = chunk if size > 1 else 1
    starts = range(0, size, chunk)
    padded = [np.resize(a, len(starts) * chunk) for a in arrays]

    def run(start: int):
        return compiled(*(a[start : start + chunk] for a in padded))

    first = run(0)  # compiles outside the threads
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        parts = [first, *pool.map(run, starts[1:])]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *parts)


def by_nodes(kind: Activation, largest: np.ndarray) -> list[tuple[int | None, np.ndarray]]:
    """Groups of cells that need equally many quadrature nodes for their largest variance."""
    needed = np.array([resolution.uniform_nodes(kind, q) or 0 for q in largest], int)
    return [(int(n) or None, np.flatnonzero(needed == n)) for n in np.unique(needed)]
