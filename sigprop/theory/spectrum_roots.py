"""The physical root of the spectral equation, tracked from where it is unique.

For the layers' laws of d = φ'² the S-transforms multiply to one equation for z and y = M(z). In
v = log(y/(1 + y)) and ω_l = log ζ_l it reads

    log z = -v + Σ_l [log σ_w² - g log(1 - e^v) + v + ω_l],        log M_l(ζ_l)/(1 + M_l(ζ_l)) = v.

It has many roots. For z < 0 the physical one is unique and real; from there z is turned through the
upper half plane, where that root moves analytically with Im y < 0 < Im ζ_l, onto λ + i0. All
logarithms are carried along continuously, so a root on another sheet does not solve the equation.
"""

import functools
from dataclasses import dataclass

import numpy as np

from sigprop.theory.slope_law import SlopeLaw

__all__ = ["Roots", "SpectralEquation"]

_TURNS = (0.6, 0.85)  # factors by which the angle falls: the second, where the first loses the root
_ITERATIONS = 25
_LONGEST_STEP = 0.7
_PRECISION = 2e-13
_ROUNDING = 8e-16


@dataclass
class Roots:
    """v and ω_l (layers, points) of the root at each point."""

    v: np.ndarray
    omega: np.ndarray

    def at(self, index: np.ndarray) -> "Roots":
        """Those at some of the points."""
        return Roots(self.v[index], self.omega[:, index])

    @property
    def y(self) -> np.ndarray:
        """M(z)."""
        return 1 / np.expm1(-self.v)


@dataclass(frozen=True)
class SpectralEquation:
    """The equation of a product of layers.

    Attributes
    ----------
    log_gain
        log σ_w².
    laws, counts
        Distinct layers and how often each occurs.
    exponent
        g: 1 for Gaussian, 0 for orthogonal weights.
    """

    log_gain: float
    laws: tuple[SlopeLaw, ...]
    counts: tuple[int, ...]
    exponent: int

    def roots_on_axis(self, log_squares: np.ndarray, finest: float) -> tuple[Roots, np.ndarray]:
        """Roots at λ + i0, and where they were found.

        ``finest`` is the angle below which the root no longer turns: small against the relative
        width of the spectrum.
        """
        with np.errstate(all="ignore"):  # a root that strays is dropped for not being finite
            return self._turned(log_squares, finest)

    def _turned(self, log_squares: np.ndarray, finest: float) -> tuple[Roots, np.ndarray]:
        start = self._on_negative_axis(log_squares)
        roots = Roots(start.v.copy(), start.omega.copy())
        found = np.zeros(log_squares.shape, bool)
        for turn in _TURNS:
            left = np.flatnonzero(~found)
            if not left.size:
                break
            angles = np.pi * turn ** np.arange(1, int(np.log(finest / np.pi) / np.log(turn)) + 2)
            current = start.at(left)
            for angle in (np.pi, *angles, 0.0):
                current, good = self._newton(log_squares[left] + 1j * angle, current)
            good &= np.all(np.imag(current.omega) > -1e-9, axis=0) & (np.imag(current.y) < 1e-9)
            roots.v[left], roots.omega[:, left] = current.v, current.omega
            found[left] = good
        return roots, found

    def _newton(self, log_z: np.ndarray, start: Roots) -> tuple[Roots, np.ndarray]:
        """The root near one given, and where it was found."""
        roots = Roots(start.v.copy(), start.omega.copy())
        active = np.arange(log_z.size)
        for _ in range(_ITERATIONS):
            step, exact = self._step(log_z[active], roots.at(active))
            size = np.maximum(np.abs(step.v), np.abs(step.omega).max(0))
            ok = np.isfinite(size)
            roots.v[active[~ok]] = np.nan
            shorter = np.minimum(1.0, _LONGEST_STEP / np.maximum(size[ok], 1e-300))
            roots.v[active[ok]] += shorter * step.v[ok]
            roots.omega[:, active[ok]] += shorter * step.omega[:, ok]
            active = active[ok & ~exact & (size > _PRECISION)]
            if not active.size:
                break
        good = np.isfinite(roots.v)
        good[active] = False
        roots.v[active] = np.nan  # lost: no more time is spent on it
        return roots, good

    def _step(self, log_z: np.ndarray, at: Roots) -> tuple[Roots, np.ndarray]:
        """Newton's step of v and all ω_l together, and where the equations hold to rounding.

        At an edge, where z(y) turns, the step itself never gets small.
        """
        log_above = -_log_upper(-np.expm1(at.v))
        total, size, slope = log_z + at.v, np.abs(at.v), self.exponent * self.depth * at.y - 1
        exact, pending = np.ones(at.v.shape, bool), []
        for law, count, omega in zip(self.laws, self.counts, at.omega):
            own, stretch = _log_ratio(law, omega)
            behind = at.v - own
            gain = self.log_gain + self.exponent * log_above + at.v + omega
            total = total - count * (gain + behind / stretch)
            size = size + count * (1 + np.abs(gain))
            slope = slope + count * (1 + 1 / stretch)
            exact &= np.abs(behind) <= _ROUNDING * (1 + np.abs(own))
            pending.append((behind, stretch))
        exact &= np.abs(total) <= _ROUNDING * size
        step = total / slope
        return Roots(step, np.stack([(step + behind) / s for behind, s in pending])), exact

    def _on_negative_axis(self, log_squares: np.ndarray) -> Roots:
        """The real root at z = -λ: from a table in log(-ζ) of the layer that blocks most.

        Everything is monotone there; Newton's method then has the last digits.
        """
        ends = min(600.0, np.abs(log_squares - self.log_mean).max(initial=0.0) + 60)
        grid = np.sinh(np.linspace(-1, 1, 1001) * np.arcsinh(ends))
        log_r = np.stack([grid + np.log(law.mean) for law in self.laws])
        ratio = np.stack(
            [np.real(_log_ratio(w, r + 1j * np.pi)[0]) for w, r in zip(self.laws, log_r)]
        )
        blocking = int(np.argmax([law.mass_at_zero for law in self.laws]))
        u = ratio[blocking]
        omega = np.stack([_inverted(u, own, r) for own, r in zip(ratio, log_r)])
        log_z = -u + np.asarray(self.counts) @ (
            self.log_gain - self.exponent * np.logaddexp(0, u) + u + omega
        )
        where = [np.interp(log_squares, log_z, row) for row in (u, *omega)]
        return Roots(where[0] - 1j * np.pi, np.stack(where[1:]) + 1j * np.pi)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(self.counts)

    @functools.cached_property
    def log_mean(self) -> float:
        """Logarithm of E[λ]: Σ_l log(σ_w² E[d_l])."""
        with np.errstate(divide="ignore"):
            gains = [
                n * (self.log_gain + np.log(law.mean)) for law, n in zip(self.laws, self.counts)
            ]
        return float(sum(gains))


def _log_ratio(law: SlopeLaw, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of M/(1 + M) at ζ = e^ω, Im ζ >= 0, and its derivative by ω."""
    zeta = np.exp(omega)
    below, above, slope = law.transform(zeta)
    return _log_lower(below) - _log_lower(above), zeta * slope / (below * above)


def _log_lower(w: np.ndarray) -> np.ndarray:
    """Logarithm in the closed lower half plane, with a cut that it stays away from."""
    return np.log(1j * w) - 0.5j * np.pi


def _log_upper(w: np.ndarray) -> np.ndarray:
    return np.log(-1j * w) + 0.5j * np.pi


def _inverted(u: np.ndarray, ratio: np.ndarray, log_r: np.ndarray) -> np.ndarray:
    """Where in log r a falling table of ``ratio`` takes the values ``u``."""
    return np.interp(-u, -ratio, log_r)
