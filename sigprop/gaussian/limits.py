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
    """√E[φ²] at 0, the slopes (left, right) of φ at 0 and at infinity; nan where none is a limit.

    A φ that jumps has the slopes of what it comes to on the whole, floor(x) those of x.
    """

    at_zero: float
    slopes_zero: tuple[float, float]
    slopes_infinity: tuple[float, float]
    infinite_slope: bool = False

    @property
    def square_zero(self) -> float:
        """E[φ'²] as q -> 0."""
        return np.inf if self.infinite_slope else _mean_square(self.slopes_zero)

    @property
    def square_infinity(self) -> float:
        """E[φ'²] as q -> infinity."""
        return np.inf if self.infinite_slope else _mean_square(self.slopes_infinity)


def _mean_square(slopes: tuple[float, float]) -> float:
    return (slopes[0] ** 2 + slopes[1] ** 2) / 2


@functools.lru_cache(maxsize=512)
@exact_float64
def limits(activation: Activation) -> Limits:
    """The `Limits` of an activation, evaluated once."""
    rough = activation.rough
    near = np.asarray(activation.derivative(jnp.asarray([-1e-30, 1e-30])))
    if any(place == 0.0 for place, _ in rough.steep):
        near = np.full(2, np.inf)
    far = 10.0 ** np.arange(7, 13)
    slope = (lambda x: activation.fn(x) / x) if rough.jumps else activation.derivative
    with np.errstate(all="ignore"):
        sides = [np.asarray(slope(jnp.asarray(s * far))) for s in (-1.0, 1.0)]
    # A mean square: that of either side of a jump at 0, where φ(0) itself has no weight.
    at_zero = [float(activation.fn(jnp.asarray(0.0)))] * 2
    for place, left, right in rough.jumps:
        at_zero = [left, right] if place == 0.0 else at_zero
    return Limits(
        at_zero=float(np.sqrt(np.mean(np.square(at_zero)))),
        slopes_zero=(float(near[0]), float(near[1])),
        slopes_infinity=(_limit(sides[0]), _limit(sides[1])),
        infinite_slope=bool(activation.infinite_slope),
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
