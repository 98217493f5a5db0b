"""What is said of expectations that are not given: nan, and a warning that names the variance."""

import functools
import warnings

import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._precision import is_traced
from sigprop.activations import Activation
from sigprop.gaussian.single import Monomial
from sigprop.gaussian.trust import trusted

__all__ = [
    "UnresolvedWarning",
    "expectation_range",
    "resolved_range",
    "warn_outside",
    "warn_unresolved",
]


class UnresolvedWarning(UserWarning):
    """An activation has more detail at a variance than its integrals resolve, or none is finite."""


@functools.lru_cache(maxsize=512)
def resolved_range(activation: Activation) -> tuple[float, float]:
    """Least and largest variance at which E[φ²], and E[φ'²] where it is finite, are known to 1e-8.

    Outside it they are nan, under a caller's jit as well. (inf, 0) if they never are.
    """
    wanted = [Monomial(activation, value=2)]
    if not activation.infinite_slope:
        wanted.append(Monomial(activation, slope=2))
    ranges = [trusted(f, activation) for f in wanted]
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def expectation_range(activation: Activation, power: int) -> tuple[float, float]:
    """Least and largest variance at which E[φ^power] is known; 0 is one always."""
    low, high = trusted(Monomial(activation, value=power), activation)
    return (0.0 if np.isfinite(low) else low), high


def warn_unresolved(activation: Activation, variance: ArrayLike, stacklevel: int = 3) -> None:
    """Warn of the first variance that is outside the resolved range; traced ones pass.

    Of a trajectory, nan stands for what a variance outside has led to.
    """
    if not (is_traced(variance) or activations.is_named(activation)):
        warn_outside(activation, variance, resolved_range(activation), stacklevel + 1)


def warn_outside(
    activation: Activation, variance: ArrayLike, known: tuple[float, float], stacklevel: int = 3
) -> None:
    """Warn of the first variance outside the least and the largest; traced ones pass."""
    if is_traced(variance):
        return
    low, high = known
    given = np.ravel(np.asarray(variance, float))
    outside = given[(given > 0) & ((given < low) | (given > high))]
    if outside.size:
        warnings.warn(
            f"{activation.name} has more detail at variance {outside[0]:g} than its integrals "
            f"resolve, or no finite ones: nan. They are known for variances in "
            f"[{low:.3g}, {high:.3g}]",
            UnresolvedWarning,
            stacklevel=stacklevel,
        )
