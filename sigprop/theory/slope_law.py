"""The law of d = φ'(z)², z ~ N(0, q): what one layer's nonlinearity does to squared gradients.

Held as a discrete law on quadrature nodes. With the moment-generating function

    M(ζ) = E[d/(ζ - d)],

its inverse ζ(y) carries the law into the S-transform of a product (Voiculescu 1987).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian.panels import resolving_cuts, standard_rule

__all__ = ["SlopeLaw", "limit_law", "slope_law"]

_GRADES = 24  # panels that shrink towards a maximum of φ'², where 1/(ζ - d) is sharpest


@dataclass(frozen=True)
class SlopeLaw:
    """A law of d >= 0 with finitely many values.

    Attributes
    ----------
    values, weights
        d and its probabilities, by descending d.
    """

    values: np.ndarray
    weights: np.ndarray

    @property
    def largest(self) -> float:
        """The largest d."""
        return float(self.values[0])

    @property
    def mass_at_zero(self) -> float:
        """P(d = 0)."""
        return float(self.weights[self.values == 0.0].sum())

    @property
    def mass_at_largest(self) -> float:
        """P(d = largest), where that is an atom and not one node of a continuous law."""
        share = float(self.weights[0])
        return share if share > 1e-3 else 0.0

    def moment(self, order: int) -> float:
        """E[d^order]."""
        return float(self.weights @ self.values**order)

    def transform(self, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """M(ζ) and M'(ζ), elementwise."""
        gap = zeta[..., None] - self.values
        share = self.weights * self.values / gap
        return share.sum(-1), -(share / gap).sum(-1)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """ζ with M(ζ) = y for real y: above the largest d for y > 0, negative for y < 0.

        Bisection in the logarithm of the distance to the pole, then Newton.
        """
        y = np.asarray(y, float)
        pole, side = np.where(y > 0, self.largest, 0.0), np.sign(y)
        mean = self.moment(1)
        low = np.full(y.shape, np.log(1e-300))
        high = np.log(mean / np.abs(y) + self.largest) + 1.0
        for _ in range(80):
            middle = (low + high) / 2
            with np.errstate(divide="ignore"):  # the pole itself, when nothing lies between
                size = np.abs(self.transform(pole + side * np.exp(middle))[0])
            beyond = size > np.abs(y)
            low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
        return pole + side * np.exp((low + high) / 2)


@exact_float64
def slope_law(activation: Activation, variance: float) -> SlopeLaw:
    """The law of φ'(z)² at a variance > 0."""
    deviation = np.sqrt(variance)
    cuts = np.asarray(resolving_cuts(activation)) / deviation
    z, weights = (np.asarray(a) for a in standard_rule(jnp.asarray(cuts)))
    peak = z[np.argmax(np.abs(_slope(activation, deviation * z)))]
    grades = peak + np.outer([-1, 1], 0.5 ** np.arange(_GRADES)).ravel()
    fine = np.linspace(-9.0, 9.0, 73)
    finer = np.concatenate([cuts, grades, [peak], fine])
    z, weights = (np.asarray(a) for a in standard_rule(jnp.asarray(finer)))
    return _collected(_slope(activation, deviation * z) ** 2, weights)


def limit_law(slopes: tuple[float, float]) -> SlopeLaw:
    """The law as q tends to 0 or infinity, where φ is straight on either side."""
    return _collected(np.square(slopes), np.asarray([0.5, 0.5]))


def _slope(activation: Activation, x: np.ndarray) -> np.ndarray:
    return np.asarray(activation.derivative(jnp.asarray(x)))


def _collected(values: np.ndarray, weights: np.ndarray) -> SlopeLaw:
    """Equal values merged, descending; nodes of no weight dropped."""
    keep = weights > 1e-30
    distinct, where = np.unique(values[keep], return_inverse=True)
    shares = np.bincount(where, weights[keep])
    return SlopeLaw(distinct[::-1], shares[::-1] / shares.sum())
