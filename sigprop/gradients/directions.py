"""Directions to check a gradient along: through all arrays, through each, along single entries."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sigprop.gradients.points import Point, normal

__all__ = ["Line", "along_gradient", "entry_lines", "random_line", "through_all"]


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
        A step of 1 changes an entry by as much as entries of its array are large; 0 where an
        entry is infinite.
    """

    members: tuple[int, ...]
    single: bool
    along: str
    direction: tuple[np.ndarray, ...]


def through_all(at: Point, rng: np.random.Generator, along: str = "random direction") -> Line:
    """A normal direction through all arrays."""
    drawn = tuple(_drawn(at, member, rng) for member in range(len(at.values)))
    return Line(tuple(range(len(drawn))), False, along, drawn)


def random_line(at: Point, member: int, rng: np.random.Generator) -> Line:
    """A normal direction through one array."""
    return _confined(at, member, "random direction", _drawn(at, member, rng))


def along_gradient(at: Point, member: int) -> Line:
    """The direction of one array in which its gradient says that the function moves most."""
    claimed = np.conj(np.nan_to_num(at.gradient[member])) * np.isfinite(at.values[member])
    norm = float(np.linalg.norm(claimed))
    length = at.sizes[member] * claimed.size**0.5
    own = np.asarray(claimed * (length / norm) if norm else claimed)
    return _confined(at, member, "along the gradient", own)


def entry_lines(at: Point, member: int, rng: np.random.Generator, entries: int) -> Iterator[Line]:
    """Single entries of one array: that of the largest gradient, and others at random."""
    value = at.values[member]
    for index in _chosen(at.gradient[member], np.asarray(np.isfinite(value)), entries, rng):
        unit = np.zeros(value.shape, value.dtype)
        phase = np.exp(2j * np.pi * rng.random()) if np.iscomplexobj(value) else 1.0
        unit[index] = max(abs(value[index]), at.sizes[member]) * phase
        place = f"entry ({', '.join(map(str, index))})" if index else "its value"
        yield _confined(at, member, place, unit)


def _drawn(at: Point, member: int, rng: np.random.Generator) -> np.ndarray:
    value = at.values[member]
    return np.asarray(at.sizes[member] * normal(value, rng) * np.isfinite(value))


def _confined(at: Point, member: int, along: str, own: np.ndarray) -> Line:
    direction = (*at.still[:member], own, *at.still[member + 1 :])
    return Line((member,), True, along, direction)


def _chosen(
    gradient: np.ndarray, free: np.ndarray, entries: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """The entry of largest gradient, and others at random; every one if there are no more."""
    places = np.flatnonzero(free)
    if places.size > entries:
        largest = places[np.argmax(np.abs(np.nan_to_num(gradient)).ravel()[places])]
        others = rng.choice(places, entries, replace=False)
        places = [largest, *others[others != largest]][:entries]
    return [tuple(int(i) for i in np.unravel_index(place, gradient.shape)) for place in places]
