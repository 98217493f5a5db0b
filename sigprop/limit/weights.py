"""Drawn weights, by which of a model's arrays they are, and the laws of their entries."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np

from sigprop.limit.refusals import NotClosed

__all__ = ["Law", "Laws", "Weight", "law_of", "whole"]

Laws = Mapping[str, float] | Callable[[str, tuple[int, ...]], float | None] | None


@dataclass(frozen=True)
class Law:
    """Of the entries of one array.

    Attributes
    ----------
    variance
        Of one entry; 0: the array is what it is.
    mean
        Of one entry, where there is one.
    known
        Whether the variance was told, not estimated from the array.
    size
        Entries that it was estimated from.
    """

    variance: float
    mean: float
    known: bool
    size: int

    @property
    def relative_error(self) -> float:
        """Standard error of the variance, relative to it."""
        return 0.0 if self.known else math.sqrt(2 / self.size)


def law_of(name: str, array: np.ndarray, laws: Laws) -> Law:
    """As told by ``laws``; by the array itself otherwise.

    Raises
    ------
    ValueError
        For a variance below 0 or not finite.
    """
    told = _told(name, array.shape, laws)
    if told is not None:
        if not (math.isfinite(told) and told >= 0):
            raise ValueError(f"laws must give variances >= 0, got {told} for {name!r}")
        return Law(float(told), 0.0, True, array.size)
    if array.size == 0 or np.ptp(array) == 0:
        return Law(0.0, 0.0, True, array.size)
    mean, deviation = float(array.mean()), float(array.std())
    if abs(mean) < 5 * deviation / math.sqrt(array.size):
        return Law(float(np.mean(array**2)), 0.0, False, array.size)
    return Law(deviation**2, mean, False, array.size)


def _told(name: str, shape: tuple[int, ...], laws: Laws) -> float | None:
    if laws is None:
        return None
    if callable(laws):
        return laws(name, shape)
    if name in laws:
        return laws[name]
    return next((var for key, var in laws.items() if fnmatch(name, key)), None)


@dataclass(frozen=True)
class Weight:
    """An array with independent entries, or a part of it, seen through transposes and slices.

    Attributes
    ----------
    leaf
        The number of the model's array.
    variance
        Of one entry.
    ranges
        Which entries, along every axis of the array.
    axes
        For every axis here, those of the array that it runs along.
    scale
        What it is multiplied by.
    flipped
        Axes of the array that run backwards.
    """

    leaf: int
    variance: float
    ranges: tuple[tuple[int, int], ...]
    axes: tuple[tuple[int, ...], ...]
    scale: float = 1.0
    flipped: frozenset[int] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is seen."""
        return tuple(math.prod(self.length(a) for a in axis) for axis in self.axes)

    def length(self, axis: int) -> int:
        """Entries along an axis of the array."""
        start, stop = self.ranges[axis]
        return stop - start

    def scaled(self, factor: float) -> "Weight":
        """Times a number."""
        return replace(self, scale=self.scale * factor)

    def transposed(self, order: Any) -> "Weight":
        """With its axes in another order."""
        return replace(self, axes=tuple(self.axes[n] for n in order))

    def reshaped(self, shape: Any) -> "Weight":
        """With axes of the array together in one, or apart again."""
        left = [a for axis in self.axes for a in axis if self.length(a) > 1][::-1]
        axes = []
        for size in shape:
            taken, count = [], 1
            while count < size and left:
                taken.append(left.pop())
                count *= self.length(taken[-1])
            if count != size:
                raise NotClosed("reshape of a weight that cuts one of its axes")
            axes.append(tuple(taken))
        return replace(self, axes=tuple(axes))

    def sliced(self, starts: Any, stops: Any) -> "Weight":
        """A part of it."""
        ranges = list(self.ranges)
        for n, (start, stop) in enumerate(zip(starts, stops)):
            if (start, stop) == (0, self.shape[n]):
                continue
            if len(self.axes[n]) != 1 or self.axes[n][0] in self.flipped:
                raise NotClosed("slice of a weight along joined axes")
            first = ranges[self.axes[n][0]][0]
            ranges[self.axes[n][0]] = (first + start, first + stop)
        return replace(self, ranges=tuple(ranges))

    def flipped_along(self, dimensions: Any) -> "Weight":
        """Read backwards."""
        axes = frozenset(a for n in dimensions for a in self.axes[n])
        return replace(self, flipped=self.flipped ^ axes)

    @property
    def part(self) -> tuple:
        """Which part of which array it is."""
        return (self.leaf, self.ranges)

    def meets(self, ranges: tuple) -> bool:
        """Whether it shares entries with another part of the same array."""
        return all(a < d and c < b for (a, b), (c, d) in zip(self.ranges, ranges))


def whole(leaf: int, shape: tuple[int, ...], law: Law) -> Weight:
    """All of an array."""
    ranges = tuple((0, n) for n in shape)
    return Weight(leaf, law.variance, ranges, tuple((n,) for n in range(len(shape))))
