"""One pass forwards and one back through a graph: what is at every place that is watched.

The gradient by a value is that by a zero added to it. Sizes are kept as a largest entry and the
mean square of the entries over it, so that no square under- or overflows.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.program.evaluation import evaluate, places
from sigprop.program.nodes import Graph, Node

__all__ = ["Measured", "Pass", "Size", "log_mean_square", "measured", "size", "widened"]

Size = dict[str, Any]


def size(array: Any) -> Size:
    """Of an array: largest |entry|, mean square of entries over it, whether all are finite."""
    magnitude = _magnitude(array)
    largest = jnp.max(magnitude, initial=0.0)
    some = (largest > 0) & jnp.isfinite(largest)
    square = jnp.sum((magnitude / jnp.where(some, largest, 1.0)) ** 2) / max(magnitude.size, 1)
    return {"largest": largest, "square": square, "finite": jnp.all(jnp.isfinite(magnitude))}


def log_mean_square(found: Size) -> np.ndarray:
    """Its log, from a size; -inf for 0, nan where an entry is not finite."""
    with np.errstate(all="ignore"):
        largest, square = (np.asarray(found[name], np.float64) for name in ("largest", "square"))
        log = 2 * np.log(largest) + np.log(square)
    return np.where(found["finite"], np.where(largest > 0, log, -np.inf), np.nan)


def _magnitude(array: Any) -> Any:
    array = jnp.abs(array) if jnp.iscomplexobj(array) else jnp.asarray(array)
    return jnp.abs(widened(array))


def widened(array: Any) -> Any:
    """In float32, if it holds real numbers of fewer digits."""
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


@dataclass(frozen=True, eq=False)
class Pass:
    """What is to be watched in a graph: a pass can be run for any numbers in it.

    Attributes
    ----------
    graph, parameters
        The program, and how many of its inputs are parameters.
    counts
        Steps of loops that run until a condition fails.
    notes
        By value: what to note as the value arrives.
    slopes
        By value: what to note of the gradient by it.
    closed
        Parameters, by place, that are exactly 0 and are opened on the way back.
    ends
        Values that ``volume`` multiplies: the outputs of the model.
    """

    graph: Graph
    parameters: int
    counts: dict[Node, int]
    notes: Mapping[int, Callable[[Callable], Any]]
    slopes: Mapping[int, Callable[[Any], Any]]
    closed: tuple[int, ...]
    ends: tuple[int, ...]

    @functools.cached_property
    def compiled(self) -> Callable:
        """As a jitted function of values, data, constants, what stands for zeros, and volume."""
        return jax.jit(self._run)

    def _run(self, values, data, constants, stands, volume):
        inputs = self.graph.program.inputs
        opening = {inputs[place]: stand for place, stand in zip(self.closed, stands)}
        volumes = dict.fromkeys(self.ends, volume)
        at = places(self.graph)

        def loss(shifts, values):
            (value, *_), noted = evaluate(
                self.graph, constants, [*values, *data], watch=self.notes, shifts=shifts,
                counts=self.counts, opening=opening, volumes=volumes,
            )  # fmt: skip
            return value, (value, noted)

        zeros = {}
        for value in self.slopes:
            aval = self.graph.avals[value]
            zeros[value] = jnp.zeros((*at.lengths(value, self.counts), *aval.shape), aval.dtype)
        by = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (by_shift, by_value), (value, noted) = by(zeros, list(values))
        slopes = {}
        for number, note in self.slopes.items():
            for _ in at.loops[number]:
                note = jax.vmap(note)
            slopes[number] = note(by_shift[number])
        return value, noted, slopes, [_rows(g) for g in by_value]


def _rows(array: Any) -> Size:
    """Sizes along the first axis, where an array is a stack of others; of all else the whole."""
    if array.ndim < 2 or not array.size:
        return jax.tree.map(lambda x: x[None], size(array))
    return jax.vmap(size)(array)


@dataclass(frozen=True)
class Measured:
    """What one pass found, as NumPy arrays.

    Attributes
    ----------
    loss
        The loss.
    noted, slopes
        By value, of the value and of the gradient by it; stacked over the loops around it.
    values, gradients
        Of every parameter: sizes of its rows.
    """

    loss: float
    noted: dict[int, Any]
    slopes: dict[int, Any]
    values: list[Size]
    gradients: list[Size]


def measured(ran: Pass, values, data, constants, stands, volume=1.0) -> Measured:
    """Run a pass with these numbers in its program."""
    given = (list(values), list(data), list(constants), list(stands), jnp.float32(volume))
    loss, noted, slopes, gradients = jax.tree.map(np.asarray, ran.compiled(*given))
    return Measured(float(loss), noted, slopes, [_sizes(v) for v in values], gradients)


def _sizes(array: Any) -> Size:
    """As `_rows`, of an array that is at hand."""
    array = np.abs(np.asarray(array))
    array = array.astype(np.float64).reshape(array.shape[0] if array.ndim > 1 else 1, -1)
    with np.errstate(all="ignore"):
        largest = array.max(axis=1, initial=0.0)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        square = np.sum((array / scale[:, None]) ** 2, axis=1) / max(array.shape[1], 1)
    return {"largest": largest, "square": square, "finite": np.isfinite(array).all(axis=1)}
