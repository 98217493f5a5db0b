"""Where a gradient is looked at: where it was asked for, and at generic points around it.

Below a head, a gain or a low-rank factor that is 0, every gradient is 0, right or wrong. Nothing is
learnt there; with another number in place of each 0, the same program tells. So do points where a
unit that is off is on, where a tie of logits is broken, where an expert is chosen.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Point", "elsewhere", "has_zeros", "normal", "opened", "sizes"]

_JITTER = 0.3  # of the logarithm of an entry's size: generic, and nowhere out of its range
_REDRAWN = 3


@dataclass(frozen=True)
class Point:
    """Values of the parameters, in double precision.

    Attributes
    ----------
    name
        In words; "" for the values that were given.
    values
        The arrays.
    gradient
        The claimed gradient there, array by array.
    center, noise
        The function's value, and the standard deviation of its rounding.
    """

    name: str
    values: tuple[np.ndarray, ...]
    gradient: tuple[np.ndarray, ...]
    center: float
    noise: float

    @functools.cached_property
    def sizes(self) -> list[float]:
        """What a step through each array is measured by."""
        return sizes(self.values)

    @functools.cached_property
    def still(self) -> tuple[np.ndarray, ...]:
        """A step of 0 through every array."""
        return tuple(np.zeros_like(value) for value in self.values)

    @functools.cached_property
    def slopes(self) -> list[float]:
        """How much the gradient says that a step through each array changes the function."""
        pairs = zip(self.gradient, self.sizes)
        return [size * float(np.linalg.norm(np.nan_to_num(g))) for g, size in pairs]


def sizes(values: Sequence[np.ndarray]) -> list[float]:
    """Root mean square of each array, or a tenth of the usual one if its own is smaller.

    Arrays that are 0 (biases at the start) have no size of their own.

    Examples
    --------
    >>> sizes([np.zeros(3), np.asarray([3.0, -3.0]), np.asarray([0.5, np.inf])])
    [1.75, 3.0, 0.5]
    """
    squares = [np.abs(value[np.isfinite(value)]) ** 2 for value in values]
    own = [float(np.sqrt(square.mean())) if square.size else 0.0 for square in squares]
    nonzero = [size for size in own if size > 0]
    usual = float(np.median(nonzero)) if nonzero else 1.0
    return [max(size, 0.1 * usual) if size else usual for size in own]


def has_zeros(values: Sequence[np.ndarray]) -> bool:
    """Whether any entry is exactly 0, as a head, a gain or a bias may be at the start."""
    return any(bool(np.any(value == 0)) for value in values)


def opened(values: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Each 0 replaced by a random number of the size of its array."""
    pairs = zip(values, sizes(values))
    return [np.where(v == 0, size * normal(v, rng), v) for v, size in pairs]


def elsewhere(
    values: Sequence[np.ndarray], rng: np.random.Generator
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Generic points, in words and in numbers: near by first, then of the same sizes only."""
    start = opened(values, rng)
    yield "moved", [np.asarray(v * np.exp(_JITTER * rng.standard_normal(v.shape))) for v in start]
    for _ in range(_REDRAWN):
        pairs = zip(start, sizes(values))
        yield "redrawn", [np.where(np.isfinite(v), s * normal(v, rng), v) for v, s in pairs]


def normal(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit normal numbers, real or complex, of the shape of ``value``."""
    drawn = rng.standard_normal(value.shape)
    if not np.iscomplexobj(value):
        return drawn
    return (drawn + 1j * rng.standard_normal(value.shape)) / 2**0.5
