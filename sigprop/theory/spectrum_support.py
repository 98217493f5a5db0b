"""Where the spectrum lies: edges of its bulk, and its atoms.

Outside the support y = M(z) is real, and z(y) runs monotonically along each gap; an edge is where
it turns (dz/dy = 0), so edges are found on the real line without tracking a root.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import optimize

from sigprop.theory.spectrum_roots import SpectralEquation

__all__ = ["log_atoms", "log_bulk_edges", "log_top"]

_LEAST_MASS = 1e-13
# log|y - start of the gap|: beyond, z(y) is a power of y to rounding.
_GRID = np.linspace(-36.0, 26.0, 373) + 0.0123  # off the poles of z(y)


def log_atoms(equation: SpectralEquation) -> dict[float, float]:
    """Logarithms of the values of λ with positive probability, and their masses.

    0 as often as the layer that blocks most. With Gaussian weights nothing else; with orthogonal
    ones Π_l σ_w² d_l for every choice of atoms d_l > 0 of the layers' laws whose masses m_l leave
    1 - Σ_l (1 - m_l) > 0 (Belinschi 2003, for two factors; by induction).
    """
    zero = max(sum(m for d, m in law.atoms if d == 0) for law in equation.laws)
    found = {-np.inf: zero}
    if equation.exponent == 0:
        found |= _positive_atoms(equation)
    return {value: mass for value, mass in found.items() if mass > _LEAST_MASS}


def _positive_atoms(equation: SpectralEquation) -> dict[float, float]:
    depth = sum(equation.counts)
    chosen = {depth * equation.log_gain: 1.0}
    for law, count in zip(equation.laws, equation.counts):
        # Copies of one law must all take the same atom: two different ones have mass 1 in all.
        longer: dict[float, float] = {}
        for total, mass in chosen.items():
            for value, own in law.atoms:
                left = mass - count * (1 - own)
                if value > 0 and left > _LEAST_MASS:
                    at = total + count * float(np.log(value))
                    longer[at] = longer.get(at, 0.0) + left
        chosen = longer
    return chosen


def log_top(equation: SpectralEquation) -> float:
    """Logarithm of the largest λ in the support: where z(y), y > 0, first turns.

    Where it never does (orthogonal weights, and one layer or an atom at the top), the product of
    the layers' largest gains.
    """
    if not all(np.isfinite(law.largest) for law in equation.laws):
        return np.inf
    highest = sum(
        n * (equation.log_gain + np.log(law.largest))
        for law, n in zip(equation.laws, equation.counts)
    )
    if equation.exponent == 0 and sum(equation.counts) == 1:
        return float(highest)
    # As far as y gets before ζ meets the largest d.
    near_top = [
        np.real(law.transform(np.asarray([law.largest * (1 + 1e-12) + 0j]))[0])
        for law in equation.laws
    ]
    last = float(np.min(near_top))

    def path(s: np.ndarray):
        y = np.exp(s)
        return y, [law.inverse_above(y) for law in equation.laws]

    turn = _first_turn(equation, path, _GRID[np.exp(_GRID) < last], -1)
    if turn is not None:
        return turn
    if any(np.isclose(at, highest, rtol=1e-12, atol=1e-12) for at in log_atoms(equation)):
        return float(highest)
    return float(_real_value(equation, *path(np.log(np.asarray([last]))))[0][0])


def log_bulk_edges(equation: SpectralEquation) -> tuple[float, float]:
    """Logarithms of the least and the largest λ of the continuous part; nan where there is none."""
    atoms = log_atoms(equation)
    if 1 - sum(atoms.values()) < 1e-11:
        return np.nan, np.nan
    if equation.exponent == 0 and sum(equation.counts) == 1:
        (law,) = equation.laws
        with np.errstate(divide="ignore"):
            low, high = np.log(law.extent) + equation.log_gain
        return float(low), float(high)
    return _log_bulk_bottom(equation), _log_bulk_top(equation)


def _log_bulk_top(equation: SpectralEquation) -> float:
    """Below an atom at the top, z(y) falls from it as y rises from -∞."""
    top = log_top(equation)
    at_top = any(np.isclose(at, top, rtol=1e-12, atol=1e-12) for at in log_atoms(equation))
    if not at_top or any(law.second >= law.largest for law in equation.laws):
        return top

    def path(s: np.ndarray):
        y = -1 - np.exp(s)
        return y, [law.inverse_in_gap(y, law.second, law.largest) for law in equation.laws]

    turn = _first_turn(equation, path, _GRID[::-1], 1)
    return top if turn is None else turn


def _log_bulk_bottom(equation: SpectralEquation) -> float:
    """0, unless one layer blocks more than every other, or orthogonal layers block nothing."""
    blocked = np.asarray([law.mass_at_zero for law in equation.laws])
    most = blocked.max()
    if any(law.least_positive == 0 for law in equation.laws):
        return -np.inf
    if most == 0:
        return -np.inf if equation.exponent else -_log_bulk_top(_inverted(equation))
    if sum(n for n, m in zip(equation.counts, blocked) if m > most - 1e-13) > 1:
        return -np.inf

    def path(s: np.ndarray):
        y = -(1 - most) * (1 + np.exp(s))
        return y, [
            law.inverse_in_gap(y, -1.001 * law.mean / np.abs(y).min(), law.least_positive)
            for law in equation.laws
        ]

    turn = _first_turn(equation, path, _GRID[_GRID > -25], 1)
    return -np.inf if turn is None else turn


def _inverted(equation: SpectralEquation) -> SpectralEquation:
    """The equation of 1/λ, for orthogonal weights: 1/d in place of d, in the opposite order."""
    laws = tuple(law.inverted() for law in equation.laws)
    return replace(equation, log_gain=-equation.log_gain, laws=laws)


Path = Callable[[np.ndarray], tuple[np.ndarray, list[np.ndarray]]]


def _first_turn(
    equation: SpectralEquation, path: Path, grid: np.ndarray, sign: int
) -> float | None:
    """Value of log z where its slope by log|y| first loses its ``sign`` along s -> (y, ζ_l)."""

    def slope(s: np.ndarray) -> np.ndarray:
        return sign * _real_value(equation, *path(s))[1]

    along = slope(grid)
    turning = np.flatnonzero((along[:-1] > 0) & (along[1:] <= 0))
    if not turning.size:
        return None
    ends = grid[[turning[0], turning[0] + 1]]
    at = optimize.brentq(lambda s: float(slope(np.asarray([s]))[0]), *ends, xtol=1e-13)
    return float(_real_value(equation, *path(np.asarray([at])))[0][0])


def _real_value(
    equation: SpectralEquation, y: np.ndarray, zeta: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """log|z(y)| for real y, and its derivative by log|y|."""
    above = np.log(np.abs(1 + y))
    value = above - np.log(np.abs(y))
    slope = -1 / (1 + y)
    for law, count, at in zip(equation.laws, equation.counts, zeta):
        bend = y / (at * np.real(law.transform(at + 0j)[2]))
        value = value + count * (
            equation.log_gain + (equation.exponent - 1) * above + np.log(np.abs(y * at))
        )
        slope = slope + count * (1 + (equation.exponent - 1) * y / (1 + y) + bend)
    return value, slope
