"""Directions to check a gradient along: through all arrays, through each, along single entries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Line", "lines", "random_direction"]


@dataclass(frozen=True)
class Line:
    """A direction, an array for each array of the parameters.

    Attributes
    ----------
    members
        Places of the arrays it moves through.
    single
        Whether it is confined to one array.
    along
        In words.
    direction
        A step of 1 changes an entry by as much as entries of its array are large.
    """

    members: tuple[int, ...]
    single: bool
    along: str
    direction: tuple[np.ndarray, ...]


def lines(
    values: Sequence[Any],
    gradient: Sequence[np.ndarray],
    rng: np.random.Generator,
    directions: int,
    entries: int,
) -> Iterator[Line]:
    """``directions`` through everything; then for each array a random one and single entries."""
    sizes = _sizes(values)
    still = tuple(np.zeros(value.shape, value.dtype) for value in values)
    for _ in range(directions):
        yield random_direction(values, rng)
    for member, value in enumerate(values):
        if not value.size:
            continue
        spread = np.asarray(sizes[member] * rng.standard_normal(value.shape))
        yield _confined(member, "random direction", still, spread)
        for index in _chosen(gradient[member], entries, rng):
            unit = np.zeros(value.shape)
            unit[index] = max(abs(float(value[index])), sizes[member])
            place = f"entry ({', '.join(map(str, index))})" if index else "its value"
            yield _confined(member, place, still, unit)


def random_direction(
    values: Sequence[Any], rng: np.random.Generator, along: str = "random direction"
) -> Line:
    """A normal direction through all arrays."""
    pairs = zip(values, _sizes(values))
    drawn = tuple(np.asarray(size * rng.standard_normal(v.shape), v.dtype) for v, size in pairs)
    return Line(tuple(range(len(drawn))), False, along, drawn)


def _confined(member: int, along: str, still: tuple[np.ndarray, ...], own: np.ndarray) -> Line:
    own = own.astype(still[member].dtype)
    return Line((member,), True, along, (*still[:member], own, *still[member + 1 :]))


def _sizes(values: Sequence[Any]) -> list[float]:
    """Root mean square of each array, or a tenth of the usual one if its own is smaller.

    Arrays that are 0 (biases at the start) have no size of their own.
    """
    squares = [np.square(np.asarray(value).astype(np.float64)) for value in values]
    own = [float(np.sqrt(square.mean())) if square.size else 0.0 for square in squares]
    nonzero = [size for size in own if size > 0]
    usual = float(np.median(nonzero)) if nonzero else 1.0
    return [max(size, 0.1 * usual) if size else usual for size in own]


def _chosen(gradient: np.ndarray, entries: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The entry of largest gradient, and others at random; every one if there are no more."""
    if gradient.size <= entries:
        flat = np.arange(gradient.size)
    else:
        largest = np.argmax(np.abs(np.nan_to_num(gradient)))
        others = rng.choice(gradient.size, entries, replace=False)
        flat = [largest, *others[others != largest]][:entries]
    return [tuple(int(i) for i in np.unravel_index(place, gradient.shape)) for place in flat]
