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

__all__ = ["SpectralEquation"]

_TURNS = (0.6, 0.85)  # factors by which the angle falls: the second, where the first loses the root
_ITERATIONS = 25
_LONGEST_STEP = 0.7
_PRECISION = 2e-13
_ROUNDING = 8e-16


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

    @functools.cached_property
    def _narrowest(self) -> int:
        """The law that blocks most: as z -> 0 its ζ keeps the digits that y loses."""
        return int(np.argmax([law.mass_at_zero for law in self.laws]))

    def on_axis(self, log_squares: np.ndarray, finest: float) -> np.ndarray:
        """The physical y = M(λ + i0), nan where the root was lost.

        ``finest`` is the angle below which z no longer turns: small against the relative width of
        the spectrum.
        """
        omega = np.full(log_squares.shape, np.nan + 0j)
        with np.errstate(all="ignore"):  # a root that strays is dropped for not being finite
            start = self._on_negative_axis(log_squares)
            for turn in _TURNS:
                left = np.flatnonzero(np.isnan(omega))
                if not left.size:
                    break
                omega[left] = self._turned(log_squares[left], start[:, left], finest, turn)
            return self.laws[self._narrowest].transform(np.exp(omega))[0]

    def _turned(
        self, log_squares: np.ndarray, omega: np.ndarray, finest: float, turn: float
    ) -> np.ndarray:
        """The narrowest layer's ω once z has turned from the negative axis to the positive one."""
        steps = int(np.log(finest / np.pi) / np.log(turn)) + 2
        for angle in (np.pi, *(np.pi * turn ** np.arange(1, steps)), 0.0):
            omega = self._newton(log_squares + 1j * angle, omega)
        upper = np.all(np.imag(omega) > -1e-9, axis=0)
        return np.where(upper, omega[self._narrowest], np.nan)

    def _newton(self, log_z: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The ω_l of the root near one given, nan where it is lost: no more time is spent there."""
        omega = start.copy()
        active = np.arange(log_z.size)
        for _ in range(_ITERATIONS):
            step, exact = self._step(log_z[active], omega[:, active])
            size = np.abs(step).max(0)
            step *= np.minimum(1.0, _LONGEST_STEP / np.maximum(size, 1e-300))
            omega[:, active] += step
            active = active[~(exact | (size <= _PRECISION) | np.isnan(size))]
            if not active.size:
                break
        omega[:, active] = np.nan
        return omega

    def _step(self, log_z: np.ndarray, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Newton's step of all ω_l together, and where the equations hold to rounding.

        At an edge, where z(y) turns, the step itself never gets small.
        """
        ratios = [_log_ratio(law, own) for law, own in zip(self.laws, omega)]
        v = ratios[self._narrowest][0]
        log_above = -_log_upper(-np.expm1(v))
        total, size, slope = log_z + v, np.abs(v), self.exponent * self.depth / np.expm1(-v) - 1
        exact = np.ones(v.shape, bool)
        for (own, stretch), count, at in zip(ratios, self.counts, omega):
            gain = self.log_gain + self.exponent * log_above + v + at
            total = total - count * (gain + (v - own) / stretch)
            size = size + count * (1 + abs(self.log_gain) + np.abs(v) + np.abs(at))
            slope = slope + count * (1 + 1 / stretch)
            exact &= np.abs(v - own) <= _ROUNDING * (1 + np.abs(own))
        exact &= np.abs(total) <= _ROUNDING * size
        step = total / slope
        # In this order: near the end of a law that blocks, a step of v is far below its rounding.
        return np.stack([(step + (v - own)) / stretch for own, stretch in ratios]), exact

    def _on_negative_axis(self, log_squares: np.ndarray) -> np.ndarray:
        """The real root at z = -λ: from a table in log(-ζ) of the layer that blocks most.

        Everything is monotone there; Newton's method then has the last digits.
        """
        ends = min(600.0, np.abs(log_squares - self.log_mean).max(initial=0.0) + 60)
        grid = np.sinh(np.linspace(-1, 1, 1001) * np.arcsinh(ends))
        log_r = np.stack([grid + np.log(law.mean) for law in self.laws])
        ratio = np.stack(
            [np.real(_log_ratio(w, r + 1j * np.pi)[0]) for w, r in zip(self.laws, log_r)]
        )
        u = ratio[self._narrowest]
        omega = np.stack([np.interp(-u, -own, r) for own, r in zip(ratio, log_r)])
        omega[self._narrowest] = log_r[self._narrowest]
        log_z = -u + np.asarray(self.counts) @ (
            self.log_gain - self.exponent * np.logaddexp(0, u) + u + omega
        )
        return np.stack([np.interp(log_squares, log_z, row) for row in omega]) + 1j * np.pi

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
