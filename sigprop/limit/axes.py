"""Which axes of an array are places and which are wide, kept through reshapes and transposes.

A *wide* axis counts units that are alike and independent; every other axis counts *places* (inputs,
pixels, tokens). A reshape may put several of them into one axis: an axis is a tuple of parts. All
places of a value, in the order of its axes, are numbered 0, 1, ...; what is done to axes is then a
list of numbers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigprop.limit.refusals import NotClosed

__all__ = [
    "Axes", "Part", "alike", "labelled", "numbers", "places", "projected", "reshaped", "sizes",
    "spread", "units", "wide_axes",
]  # fmt: skip


class Part(NamedTuple):
    """A factor of an axis."""

    size: int
    wide: bool


Axes = tuple[tuple[Part, ...], ...]


def labelled(shape: Sequence[int], wide: Sequence[int]) -> Axes:
    """Axes of one part each, of which ``wide`` are wide."""
    return tuple(_axis([Part(n, axis in wide)]) for axis, n in enumerate(shape))


def _axis(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Without places that are but one; neighbours that are alike as one."""
    merged: list[Part] = []
    for part in parts:
        if part.size == 1 and not part.wide:
            continue
        if merged and merged[-1].wide == part.wide:
            merged[-1] = Part(merged[-1].size * part.size, part.wide)
        else:
            merged.append(part)
    return tuple(merged)


def sizes(axes: Axes) -> tuple[int, ...]:
    """The shape."""
    return tuple(math.prod(part.size for part in axis) for axis in axes)


def places(axes: Axes) -> int:
    """How many places there are."""
    return math.prod(part.size for axis in axes for part in axis if not part.wide)


def units(axes: Axes) -> int:
    """How many units there are at a place."""
    return math.prod(part.size for axis in axes for part in axis if part.wide)


def wide_axes(axes: Axes) -> tuple[int, ...]:
    """Axes with a wide part."""
    return tuple(n for n, axis in enumerate(axes) if any(part.wide for part in axis))


def numbers(axes: Axes) -> np.ndarray:
    """The numbers of the places, an axis for every axis."""
    shape = [math.prod(part.size for part in axis if not part.wide) for axis in axes]
    return np.arange(math.prod(shape)).reshape(shape)


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes:
    """After a reshape, which keeps the order of the places.

    Raises
    ------
    NotClosed
        If an axis is cut where none of its parts can be.
    """
    left = [part for axis in axes for part in axis][::-1]
    out = []
    for size in shape:
        taken, count = [], 1
        while count < size:
            if not left:
                raise NotClosed(f"reshape to {tuple(shape)} mixes places with units")
            part = left.pop()
            need = size // count if size % count == 0 else 0
            if part.size > need:
                if not need or part.size % need:
                    raise NotClosed(f"reshape to {tuple(shape)} cuts an axis of {part.size}")
                left.append(Part(part.size // need, part.wide))
                part = Part(need, part.wide)
            taken.append(part)
            count *= part.size
        out.append(tuple(_axis(taken)))
    if left and math.prod(part.size for part in left) > 1:
        raise NotClosed(f"reshape to {tuple(shape)} mixes places with units")
    return tuple(out)


def spread(axes: Axes, shape: Sequence[int], dims: Sequence[int]) -> tuple[Axes, np.ndarray]:
    """After a broadcast to ``shape``, of which ``dims`` are the axes here; and where from.

    Raises
    ------
    NotClosed
        If one unit would become many that are no longer independent.
    """
    out = [_axis([Part(size, False)]) for size in shape]
    own = numbers(axes)
    source = [1] * len(shape)
    for n, dim in enumerate(dims):
        source[dim] = own.shape[n]
        if sizes(axes)[n] == shape[dim]:
            out[dim] = axes[n]
        elif any(part.wide for part in axes[n]):
            raise NotClosed("broadcast of one unit to many")
    target = numbers(tuple(out)).shape
    return tuple(out), np.broadcast_to(own.reshape(source), target).ravel()


def alike(first: Axes, second: Axes) -> bool:
    """Whether two values of one shape have their units on the same axes."""
    return tuple(map(_axis, first)) == tuple(map(_axis, second))


def projected(array: np.ndarray, axes: Axes) -> np.ndarray:
    """A known array as (places, units)."""
    parts = list(itertools.chain.from_iterable(axes))
    full = np.broadcast_to(array, sizes(axes)).reshape([part.size for part in parts])
    order = sorted(range(len(parts)), key=lambda n: parts[n].wide)
    return full.transpose(order).reshape(places(axes), units(axes))
