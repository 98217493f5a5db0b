"""What an activation looks like near 0 and far out: its limits as the variance goes there."""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.activations import Activation

__all__ = ["Limits", "limits"]


@dataclass(frozen=True)
class Limits:
    """φ(0), the slopes (left, right) of φ at 0 and at infinity; nan where there is no limit."""

    at_zero: float
    slopes_zero: tuple[float, float]
    slopes_infinity: tuple[float, float]

    @property
    def square_zero(self) -> float:
        """E[φ'²] as q -> 0."""
        return _mean_square(self.slopes_zero)

    @property
    def square_infinity(self) -> float:
        """E[φ'²] as q -> infinity."""
        return _mean_square(self.slopes_infinity)


def _mean_square(slopes: tuple[float, float]) -> float:
    return (slopes[0] ** 2 + slopes[1] ** 2) / 2


@functools.lru_cache(maxsize=512)
@exact_float64
def limits(activation: Activation) -> Limits:
    """The `Limits` of an activation, evaluated once."""
    near = np.asarray(activation.derivative(jnp.asarray([-1e-30, 1e-30])))
    far = 10.0 ** np.arange(7, 13)
    with np.errstate(all="ignore"):
        sides = [np.asarray(activation.derivative(jnp.asarray(s * far))) for s in (-1.0, 1.0)]
    return Limits(
        at_zero=float(activation.fn(jnp.asarray(0.0))),
        slopes_zero=(float(near[0]), float(near[1])),
        slopes_infinity=(_limit(sides[0]), _limit(sides[1])),
    )


def _limit(sequence: np.ndarray) -> float:
    if not np.isfinite(sequence).all():
        return float("inf") if not np.isnan(sequence[0]) else float("nan")
    steps = np.abs(np.diff(sequence))
    if np.abs(sequence).max() < 1e-12:  # a slope like 1/x² never is 0, but tends to it
        return 0.0
    if steps.max() <= 1e-6 * max(1.0, np.abs(sequence).max()):
        return float(sequence[-1])
    growing = np.all(np.diff(np.abs(sequence)) > 0)
    return float("inf") if growing and np.abs(sequence[-1]) > 1e6 else float("nan")
