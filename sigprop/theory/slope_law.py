"""The law of d = φ'(z)², z ~ N(0, q): what one layer's nonlinearity does to squared gradients.

Held as atoms and quadrature nodes. It enters a product of layers through

    M(ζ) = E[d/(ζ - d)],

whose inverse ζ(y) is the layer's share of the S-transform (Voiculescu 1987).
"""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from sigprop.activations import Activation
from sigprop.gaussian.panels import legendre
from sigprop.theory.near_values import NearValues
from sigprop.theory.slope_panels import (
    legendre_analysis,
    panel_nodes,
    slope_panels,
    slopes_at,
)

__all__ = ["SlopeLaw", "limit_law", "slope_law"]

_REACH = 9.5  # standard deviations; the 2e-21 of the mass beyond does not count
_CUTS = np.asarray([0.7, 1.4, 2.1, 2.8, 3.6, 4.4, 5.4, 6.4, 7.8, _REACH])
_FLOOR = 1e-24  # d below this share of the largest is the rounding error of φ', and counts as 0
_CHUNK = 30_000  # entries of one ζ-by-node array


@dataclass(frozen=True)
class SlopeLaw:
    """A law of d >= 0: atoms, and a continuous part on panels of z.

    Attributes
    ----------
    atoms
        Values of d and their masses, by descending d.
    slopes, weights
        φ' at the nodes of each panel, and what each node weighs, (panels, ORDER).
    edges, copies
        The panels, (panels, 2), in standard deviations, and how many mirror images each stands for.
    extent
        Least and largest d outside the atoms, within reach; nan where there is nothing.
    lost
        Mass at values too small to tell from 0.
    """

    atoms: tuple[tuple[float, float], ...]
    slopes: np.ndarray
    weights: np.ndarray
    edges: np.ndarray
    copies: int
    extent: tuple[float, float]
    lost: float = 0.0

    @property
    def largest(self) -> float:
        """The largest d."""
        return float(np.nanmax([*(value for value, _ in self.atoms), self.extent[1]]))

    @property
    def second(self) -> float:
        """The largest d below an atom at the top, or 0."""
        return float(np.nanmax([*(value for value, _ in self.atoms[1:]), self.extent[1], 0.0]))

    @property
    def least_positive(self) -> float:
        """Infimum of the positive d."""
        positive = [value for value, _ in self.atoms if value > 0]
        return float(np.nanmin([*positive, self.extent[0]]))

    @property
    def mass_at_zero(self) -> float:
        """P(d = 0), values too small to tell from 0 included."""
        return self.lost + sum(mass for value, mass in self.atoms if value == 0.0)

    @functools.cached_property
    def mean(self) -> float:
        """E[d]."""
        return float(self._positive[1] @ self._positive[0])

    @functools.cached_property
    def _positive(self) -> tuple[np.ndarray, np.ndarray]:
        """Every positive value, atoms first, and its weight."""
        atoms = np.asarray([pair for pair in self.atoms if pair[0] > 0]).reshape(-1, 2)
        values, weights = self.slopes.ravel() ** 2, self.weights.ravel()
        return np.concatenate([atoms[:, 0], values]), np.concatenate([atoms[:, 1], weights])

    @functools.cached_property
    def _columns(self) -> np.ndarray:
        values, weights = self._positive
        return np.stack([weights, weights * values], 1)

    def relative_moments(self, order: int) -> list[float]:
        """E[(d/E[d] - 1)^j], j = 0 .. order: they keep their digits where d hardly varies.

        On quarters of the panels, as d^j bends j times as fast as d.
        """
        nodes, weights = legendre()
        quarter = ((np.arange(-3, 4, 2)[:, None] + nodes) / 4).ravel()
        series = self.slopes @ legendre_analysis()
        values = (series @ np.polynomial.legendre.legvander(quarter, nodes.size - 1).T) ** 2
        half = np.diff(self.edges, axis=1) / 2
        z = self.edges.mean(1, keepdims=True) + half * quarter
        share = self.copies * half * np.tile(weights / 4, 4) * _normal(z)
        excess = values / self.mean - 1
        atoms = [(value / self.mean - 1, mass) for value, mass in self.atoms]
        return [
            1.0
            if j == 0
            else float((share * excess**j).sum() + self.lost * (-1) ** j)
            + math.fsum(mass * value**j for value, mass in atoms)
            for j in range(order + 1)
        ]

    def transform(self, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """M(ζ), 1 + M(ζ) (with all its digits) and M'(ζ) for an array of ζ.

        Right as close to the values of d as wanted, on the side of the real axis that ζ is on.
        """
        zeta = np.asarray(zeta)
        size = max(1, _CHUNK // max(1, self._positive[0].size))
        pieces = [self._by_rule(zeta[i : i + size]) for i in range(0, max(1, zeta.size), size)]
        below, above, slope = (np.concatenate(part) for part in zip(*pieces))
        if not self.slopes.size:
            return below, above, slope
        extra, extra_slope = self._near.correction(zeta)
        return below + extra, above + extra, slope + extra_slope

    def _by_rule(self, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # In real arithmetic, with 1/(a + ib) = (a - ib)/(a² + b²): ten times faster.
        values, _ = self._positive
        b = np.imag(zeta)
        a = np.real(zeta)[:, None] - values
        share = 1 / (a * a + (b * b)[:, None])
        tilted = a * share
        above, below = (tilted @ self._columns - 1j * b[:, None] * (share @ self._columns)).T
        # Of the derivative: -(a - ib)²/(a² + b²)².
        column = self._columns[:, 1]
        flat = share @ column
        share *= share
        a *= share
        slope = 2 * b * b * (share @ column) - flat + 2j * b * (a @ column)
        above = self.mass_at_zero + zeta * above
        return below, above, slope

    @functools.cached_property
    def _near(self) -> NearValues:
        return NearValues.of_panels(self.slopes, self.edges, self.copies)

    def density_of_log(self, values: np.ndarray) -> np.ndarray:
        """Density of log d outside the atoms: -Im M/π on the upper side of the axis."""
        smooth = replace(self, atoms=())
        return -np.imag(smooth.transform(values * (1 + 1e-14j))[0]) / np.pi

    def inverted(self) -> "SlopeLaw":
        """The law of 1/d, for d > 0."""
        return replace(
            self,
            atoms=tuple((1 / value, mass) for value, mass in reversed(self.atoms)),
            slopes=1 / self.slopes,
            extent=(1 / self.extent[1], 1 / self.extent[0]),
        )

    def inverse_in_gap(self, y: np.ndarray, low: float, high: float) -> np.ndarray:
        """The ζ with M(ζ) = y in (low, high), free of d > 0, where M falls, by bisection."""

        def between(share: np.ndarray) -> np.ndarray:
            zeta = low + (high - low) * special.expit(share)
            return np.clip(zeta, np.nextafter(low, high), np.nextafter(high, low))

        left, right = np.full(y.shape, -80.0), np.full(y.shape, 80.0)
        for _ in range(90):
            middle = (left + right) / 2
            early = np.real(self.transform(between(middle) + 0j)[0]) > y
            left, right = np.where(early, middle, left), np.where(early, right, middle)
        return between((left + right) / 2)

    def inverse_above(self, y: np.ndarray) -> np.ndarray:
        """The ζ above the largest d with M(ζ) = y, for y > 0; the largest where M never gets to y.

        1/M is concave and increasing, so Newton's method rises to the root from below. It starts
        off the largest d by what M can be told from infinity.
        """
        lowest = self.largest * (1 + 1e-12)
        zeta = np.maximum(self.mean * (1 + 1 / y), lowest)
        for _ in range(200):
            value, _, slope = (np.real(part) for part in self.transform(zeta + 0j))
            following = np.maximum(zeta - (1 / y - 1 / value) * value**2 / slope, zeta)
            done = np.all(following - zeta <= 4e-16 * zeta)
            zeta = following
            if done:
                break
        return zeta


def slope_law(activation: Activation, variance: float) -> SlopeLaw:
    """The law of φ'(z)² at a variance > 0."""
    deviation = math.sqrt(variance)
    panels = slope_panels(activation, max(320.0, 2.0 ** math.ceil(math.log2(10 * deviation))))
    edges = _cut(panels.edges / deviation)
    slopes = slopes_at(activation, panel_nodes(edges) * deviation)
    sizes = np.abs(slopes).max(1, initial=0.0)
    largest = max([sizes.max(initial=0.0) ** 2, *(value for *_, value in panels.flat)])
    small = sizes**2 <= _FLOOR * largest
    weights = np.diff(edges, axis=1) / 2 * legendre()[1] * _normal(panel_nodes(edges))
    extent = _extent(activation, edges * deviation, panels.turns, slopes, bool(small.any()))
    edges, slopes, kept, copies = _folded(edges[~small], slopes[~small], weights[~small])
    return SlopeLaw(
        atoms=_merged_atoms([(d, _mass(a / deviation, b / deviation)) for a, b, d in panels.flat]),
        slopes=slopes,
        weights=kept,
        edges=edges,
        copies=copies,
        extent=extent,
        lost=float(weights[small].sum()),
    )


def _extent(
    activation: Activation, edges: np.ndarray, turns: np.ndarray, slopes: np.ndarray, lost: bool
) -> tuple[float, float]:
    """The least and the largest φ'² on panels of x."""
    if not edges.size:
        return np.nan, np.nan
    inward = 4e-16 * np.maximum(1.0, np.abs(edges)) * np.asarray([1.0, -1.0])
    inside = turns[(turns > edges.min()) & (turns < edges.max())]
    ends = np.where(np.diff(edges, axis=1) > 1e-14, edges + inward, edges)
    squares = slopes_at(activation, np.concatenate([ends.ravel(), inside])) ** 2
    crossing = slopes.min() < 0 < slopes.max()
    return (0.0 if lost or crossing else float(squares.min())), float(squares.max())


def limit_law(slopes: tuple[float, float]) -> SlopeLaw:
    """The law as q tends to 0 or infinity, where φ is straight on either side."""
    squares = [float(s) ** 2 for s in slopes]
    none = np.zeros((0, legendre()[0].size))
    atoms = _merged_atoms([(d, 0.5) for d in squares])
    return SlopeLaw(atoms, none, none, np.zeros((0, 2)), 1, (np.nan, np.nan))


def _merged_atoms(found: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    masses: dict[float, float] = {}
    for value, mass in found:
        masses[value] = masses.get(value, 0.0) + mass
    return tuple(sorted(((d, m) for d, m in masses.items() if m > 0), reverse=True))


def _cut(edges: np.ndarray) -> np.ndarray:
    """Panels within reach, cut on the scale of the Gaussian too."""
    inside = edges[(edges[:, 0] < _REACH) & (edges[:, 1] > -_REACH)]
    pieces = [np.zeros((0, 2))]
    cuts = np.concatenate([-_CUTS[::-1], [0.0], _CUTS])
    for low, high in np.clip(inside, -_REACH, _REACH):
        points = np.concatenate([[low], cuts[(low < cuts) & (cuts < high)], [high]])
        pieces.append(np.stack([points[:-1], points[1:]], 1))
    return np.concatenate(pieces)


def _folded(edges, slopes, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Half of the panels, counted twice, where φ'² is even."""
    even = (
        len(edges) % 2 == 0
        and np.allclose(edges, -edges[::-1, ::-1], rtol=1e-12)
        and np.allclose(slopes**2, slopes[::-1, ::-1] ** 2, rtol=1e-12, atol=0.0)
    )
    if not even or not len(edges):
        return edges, slopes, weights, 1
    half = len(edges) // 2
    return edges[half:], slopes[half:], 2 * weights[half:], 2


def _normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / np.sqrt(2 * np.pi)


def _mass(low: float, high: float) -> float:
    """P(low < z < high), from the nearer tail."""
    if low > 0:
        low, high = -high, -low
    return float(special.ndtr(high) - special.ndtr(low))
