"""One pass forwards and one back through a graph: what is at every place that is watched.

The gradient by a value is that by a zero added to it. The program gives out what it is watched for
as it is, and statistics are taken on the host: to reduce every array in the program itself would
take several times as long to compile as the model does.
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

__all__ = [
    "Measured",
    "Note",
    "Pass",
    "Size",
    "gradients_of",
    "log_mean_square",
    "loss_of",
    "measured",
    "size",
]

Size = dict[str, Any]


def size(array: Any, stacked: int = 0) -> Size:
    """Of an array: largest |entry|, mean square of entries over it, whether all are finite.

    So kept, no square under- or overflows. Over all axes but the first ``stacked``.
    """
    with np.errstate(all="ignore"):
        magnitude = np.abs(np.asarray(array))
        magnitude = magnitude.astype(np.float64 if magnitude.itemsize == 8 else np.float32)
        magnitude = magnitude.reshape(*magnitude.shape[:stacked], -1)
        largest = magnitude.max(axis=-1, initial=0.0)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)[..., None]
        square = np.sum((magnitude / scale) ** 2, axis=-1) / max(magnitude.shape[-1], 1)
    return {"largest": largest, "square": square, "finite": np.isfinite(largest)}


def rows(array: Any) -> Size:
    """Sizes along the first axis, where an array may be a stack of others; of others the whole."""
    array = np.asarray(array)
    return size(array, 1) if array.ndim > 1 and array.size else size(array[None], 1)


def log_mean_square(found: Size) -> np.ndarray:
    """Its log, from a size; -inf for 0, nan where an entry is not finite."""
    with np.errstate(all="ignore"):
        largest, square = (np.asarray(found[name], np.float64) for name in ("largest", "square"))
        log = 2 * np.log(largest) + np.log(square)
    return np.where(found["finite"], np.where(largest > 0, log, -np.inf), np.nan)


@dataclass(frozen=True)
class Note:
    """What is noted of a value.

    Attributes
    ----------
    collect
        Arrays to give out as the value arrives, from a function that looks values up.
    reduce
        What is kept of them, as NumPy arrays, given how many loops they are stacked over.
    """

    collect: Callable[[Callable], Any]
    reduce: Callable[[Any, int], Any]


@dataclass(frozen=True, eq=False)
class Pass:
    """What is to be watched in a graph: a pass can be run for any numbers in it.

    Attributes
    ----------
    graph
        The program.
    counts
        Steps of loops that run until a condition fails.
    notes
        By value.
    slopes
        By value: what is kept of the gradient by it, given how many loops it is stacked over.
    closed
        Parameters, by place, that are exactly 0 and are opened on the way back.
    ends
        Values that ``volume`` multiplies: the outputs of the model.
    """

    graph: Graph
    counts: dict[Node, int]
    notes: Mapping[int, Note]
    slopes: Mapping[int, Callable[[Any, int], Any]]
    closed: tuple[int, ...]
    ends: tuple[int, ...]

    @functools.cached_property
    def compiled(self) -> Callable:
        """As a jitted function of values, data, constants, what stands for zeros, and volume."""
        return jax.jit(self._run)

    def _run(self, values, data, constants, stands, volume):
        inputs = self.graph.program.inputs
        opening = {inputs[place]: stand for place, stand in zip(self.closed, stands)}
        watch = {value: note.collect for value, note in self.notes.items()}
        at = places(self.graph)

        def loss(shifts, values):
            (value, *_), noted = evaluate(
                self.graph, constants, [*values, *data], watch=watch, shifts=shifts,
                counts=self.counts, opening=opening, volumes=dict.fromkeys(self.ends, volume),
            )  # fmt: skip
            return value, (value, noted)

        zeros = {}
        for value in self.slopes:
            aval = self.graph.avals[value]
            zeros[value] = jnp.zeros((*at.lengths(value, self.counts), *aval.shape), aval.dtype)
        by = jax.grad(loss, argnums=(0, 1), has_aux=True)
        (slopes, gradients), (value, noted) = by(zeros, list(values))
        return value, noted, slopes, gradients


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


def loss_of(ran: Pass, values, data, constants, stands, volume: float) -> float:
    """The loss with these numbers in a program, the model's outputs so many times as large."""
    return float(_run(ran, values, data, constants, stands, volume)[0])


def measured(ran: Pass, values, data, constants, stands) -> Measured:
    """Run a pass with these numbers in its program."""
    loss, noted, slopes, gradients = _run(ran, values, data, constants, stands, 1.0)
    loops = {value: len(around) for value, around in places(ran.graph).loops.items()}
    return Measured(
        float(loss),
        {value: note.reduce(noted[value], loops[value]) for value, note in ran.notes.items()},
        {value: reduce(slopes[value], loops[value]) for value, reduce in ran.slopes.items()},
        [rows(array) for array in values],
        [rows(array) for array in gradients],
    )


def gradients_of(ran: Pass, values, data, constants, stands) -> list[Any]:
    """The gradient by every parameter, as the graph gives it."""
    return _run(ran, values, data, constants, stands, 1.0)[3]


def _run(ran: Pass, values, data, constants, stands, volume: float):
    given = (list(values), list(data), list(constants), list(stands))
    return ran.compiled(*given, np.float32(volume))
