"""M(ζ) = E[d/(ζ - d)] for ζ close to values that d takes, where quadrature alone fails.

On a panel of z the integrand has a pole at every root t₀ of d = φ'(t₀)² = ζ. Its share is
integrated in closed form instead of by the rule: with residue R,

    ∫ R/(t - t₀) dt - Σ_j w_j R/(t_j - t₀) = R [log((1 - t₀)/(-1 - t₀)) - Σ_j w_j/(t_j - t₀)],

which is what the rule misses, for t₀ as near to the panel as one likes (Helsing and Ojala 2008).
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import legder, legval

from sigprop.gaussian.panels import legendre
from sigprop.theory.slope_panels import legendre_analysis

__all__ = ["NearValues"]

_FAR = 3.5  # a root outside the ellipse of this size is seen by 16 nodes: 3.5^-32 = 4e-18


@dataclass(frozen=True)
class NearValues:
    """The panels of a law, ready for the roots of d = ζ.

    Attributes
    ----------
    slopes
        φ' at the nodes, (panels, ORDER).
    series
        Legendre coefficients of φ' and its first two derivatives, each (terms, panels).
    middle, half
        Centre and half width of each panel, in standard deviations.
    copies
        Mirror images that each panel stands for.
    """

    slopes: np.ndarray
    series: tuple[np.ndarray, np.ndarray, np.ndarray]
    middle: np.ndarray
    half: np.ndarray
    copies: int

    @classmethod
    def of_panels(cls, slopes: np.ndarray, edges: np.ndarray, copies: int) -> "NearValues":
        """From φ' at the nodes of panels given by their edges."""
        series = (slopes @ legendre_analysis()).T
        derivatives = (series, legder(series), legder(series, 2))
        return cls(slopes, derivatives, edges.mean(1), np.diff(edges, axis=1)[:, 0] / 2, copies)

    def correction(self, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the rule misses of M(ζ) and of M'(ζ)."""
        which, panel, root, slope = self._roots(*self._candidates(zeta), zeta)
        at = zeta[which]
        bend, turn = (legval(root, s[:, panel], tensor=False) for s in self.series[1:])
        first, second = 2 * slope * bend, 2 * (bend**2 + slope * turn)  # of d = φ'²
        root = _on_side_of(root, np.imag(slope) * np.real(bend))
        z = self.middle[panel] + self.half[panel] * root
        normal = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        residue = -self.copies * normal * self.half[panel] * at / first
        missed, missed_slope = _missed(root)
        moves = (-z * self.half[panel] - second / first) / first + 1 / at
        change = residue * (moves * missed + missed_slope / first)
        return _summed(which, residue * missed, zeta.size), _summed(which, change, zeta.size)

    def _candidates(self, zeta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (ζ, panel) with ζ near the range of d on the panel."""
        squares = self.slopes**2
        low, high = squares.min(1), squares.max(1)
        distance = np.abs(zeta[:, None] - (low + high) / 2)
        which, panel = np.nonzero(distance < 3.5 * (high - low))
        return which, panel

    def _roots(
        self, which: np.ndarray, panel: np.ndarray, zeta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pairs, and the roots t₀ of φ'(t₀) = ±√ζ near each panel with that ±√ζ.

        A root of φ' rather than of φ'²: well conditioned where φ' changes sign.
        """
        target = np.sqrt(zeta[which])[:, None] * np.asarray([1.0, 1.0, -1.0, -1.0])
        seeds = np.concatenate([self._seeds(panel, target[:, k]) for k in (0, 2)], axis=1)
        pair, branch = np.nonzero(_ellipse(seeds) < 2 * _FAR)
        which, panel, root, target = (
            which[pair],
            panel[pair],
            seeds[pair, branch],
            target[pair, branch],
        )
        value, first = (s[:, panel] for s in self.series[:2])
        error = np.full(root.shape, np.inf)
        for _ in range(12):
            bend = legval(root, first, tensor=False)
            step = (target - legval(root, value, tensor=False)) / bend
            error = np.abs(step)
            root = root + step * np.minimum(1.0, 0.5 / np.maximum(error, 1e-300))
            if np.all((error < 1e-14) | (_ellipse(root) > 3 * _FAR)):
                break
        good = (_ellipse(root) < _FAR) & (error < 1e-8) & np.isfinite(root)
        # Both seeds of one sign may have gone to one root.
        twin = np.zeros(root.shape, bool)
        same = (pair[1:] == pair[:-1]) & (branch[1:] == branch[:-1] + 1) & (branch[1:] % 2 == 1)
        apart = np.abs(seeds[pair[1:], branch[1:]] - seeds[pair[:-1], branch[:-1]])
        twin[1:] = same & good[:-1] & (np.abs(root[1:] - root[:-1]) < 0.05 * apart)
        keep = good & ~twin
        return which[keep], panel[keep], root[keep], target[keep]

    def _seeds(self, panel: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Both roots of the parabola at the node where φ' is nearest to the target."""
        nodes = legendre()[0]
        nearest = np.argmin(np.abs(target[:, None] - self.slopes[panel]), axis=1)
        start = nodes[nearest]
        value = self.slopes[panel, nearest] - target
        first, second = (legval(start, s[:, panel], tensor=False) for s in self.series[1:])
        root = np.sqrt(first**2 - 2 * second * value + 0j)
        root = np.where(np.real(np.conj(first) * root) < 0, -root, root)
        with np.errstate(divide="ignore", invalid="ignore"):  # no second root on a straight φ'
            near, far = -2 * value / (first + root), -(first + root) / second
        return np.nan_to_num(start[:, None] + np.stack([near, far], 1), nan=1e9, posinf=1e9)


def _missed(root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integral less rule of 1/(t - t₀) over [-1, 1], and its derivative by t₀."""
    nodes, weights = legendre()
    inverse = 1 / (nodes - root[:, None])
    value = np.log(1 - root) - np.log(-1 - root) - inverse @ weights
    slope = -1 / (1 - root) - 1 / (1 + root) - inverse**2 @ weights
    return value, slope


def _on_side_of(root: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Roots on the side of the real axis that ``side`` has the sign of, where rounding lost it."""
    size = np.abs(np.imag(root))
    lost = (size < 1e-12) & (side != 0)
    placed = np.real(root) + 1j * np.copysign(np.maximum(size, 1e-300), side)
    return np.where(lost, placed, root)


def _ellipse(t: np.ndarray) -> np.ndarray:
    """Size of the ellipse with foci ±1 through t: the sum of its half axes."""
    root = np.sqrt(t * t - 1 + 0j)
    return np.maximum(np.abs(t + root), np.abs(t - root))


def _summed(which: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    total = np.zeros(size, complex)
    np.add.at(total, which, values)
    return total
