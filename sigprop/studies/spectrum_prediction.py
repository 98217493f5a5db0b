"""What free probability says of a network's Jacobian, layer by layer along its trajectory."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sigprop import activations, gaussian, theory
from sigprop.activations import Activation
from sigprop.theory.spectrum_law import JacobianSpectrum

__all__ = ["SpectrumPrediction", "merged", "moments_along"]

_LEAST, _MOST = 1e-30, 1e30  # beyond, every activation is straight: the slopes' law does not change
_SAME = 1e-10  # variances closer than this are one
_NEAR = 1e-3  # ... and closer than this where a root is followed for every distinct layer


@dataclass(frozen=True)
class SpectrumPrediction:
    """Laws of λ = s² over the first 1, 2, ... square layers.

    Attributes
    ----------
    variances
        q^l of every layer.
    ensemble
        "gaussian" or "orthogonal".
    """

    activation: str
    weight_var: float
    variances: Float[np.ndarray, " layers"]
    ensemble: str

    def law(self, depth: int, within: float = _SAME) -> JacobianSpectrum:
        """Over the first ``depth`` layers, those with variances ``within`` taken for equal."""
        return theory.jacobian_spectrum(
            self.activation,
            depth=depth,
            weight_var=self.weight_var,
            variance=merged(self.variances[:depth], within),
            ensemble=self.ensemble,
        )

    def moments(self) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
        """Log E[λ] and Var[λ]/E[λ]² over the first 1, 2, ... layers."""
        chi = np.asarray(theory.chi(self.activation, self.variances, weight_var=self.weight_var))
        return moments_along(
            self.activation, chi, self.variances, np.asarray(self.weight_var), self.ensemble
        )

    def log_largest(self, depth: int) -> float:
        """Log s at the top edge over the first ``depth`` layers."""
        return float(np.log(self.law(depth, _NEAR).max_squared)) / 2

    def zero_fraction(self, depth: int) -> float:
        """Fraction of singular values that are exactly zero."""
        return self.law(depth, _NEAR).atoms.get(0.0, 0.0)

    def lyapunov_exponents(self, fraction: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Growth of ln s a layer if all layers were as the last one."""
        last = float(np.clip(self.variances[-1], _LEAST, _MOST))
        return theory.lyapunov_exponents(
            self.activation,
            fraction,
            weight_var=self.weight_var,
            variance=last,
            ensemble=self.ensemble,
        )

    def density(
        self, depth: int, log_singular_values: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, " points"]:
        """Density of ln s, atoms left out: 2 λ ρ(λ)."""
        squares = np.exp(2 * log_singular_values)
        return 2 * squares * self.law(depth, _NEAR).density(squares)


def moments_along(
    activation: str,
    chi: Float[np.ndarray, "*cells layers"],
    variances: Float[np.ndarray, "*cells layers"],
    weight_var: Float[np.ndarray, "..."],
    ensemble: str,
) -> tuple[Float[np.ndarray, "*cells layers"], Float[np.ndarray, "*cells layers"]]:
    """Log E[λ] and Var[λ]/E[λ]² over the first 1, 2, ... layers, of many networks at once.

    Both are sums over layers: of ln χ^l, and of σ_w⁴ E[φ'⁴]/χ² - 1 + g, g = 1 for Gaussian and 0
    for orthogonal weights (Pennington, Schoenholz and Ganguli 2017, eq. 22).

    Parameters
    ----------
    chi, variances
        χ^l and q^l of every layer.
    weight_var
        σ_w², to broadcast with them.
    """
    inside = np.clip(variances, _LEAST, _MOST)
    fourth = np.asarray(gaussian.expectation(_fourth_power_of_slope(activation), inside))
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing comes through: nan
        relative = weight_var**2 * fourth / chi**2 - 1 + (ensemble == "gaussian")
        return np.cumsum(np.log(chi), axis=-1), np.cumsum(relative, axis=-1)


@functools.lru_cache(maxsize=64)
def _fourth_power_of_slope(activation: str) -> Activation:
    kind = activations.get(activation)
    name = f"fourth power of the slope of {kind.name}"
    return Activation(lambda x: kind.derivative(x) ** 4, name=name, kinks=kind.kinks)


def merged(variances: Float[np.ndarray, " layers"], within: float) -> Float[np.ndarray, " layers"]:
    """``variances`` with runs that lie within a relative distance replaced by their mean.

    The law depends smoothly on each, so the mean leaves an error of the square of the distance.

    Examples
    --------
    >>> merged(np.asarray([4.0, 1.0, 1.1]), 0.2)
    array([4.  , 1.05, 1.05])
    """
    inside = np.clip(variances, _LEAST, _MOST)
    order = np.argsort(inside)
    out, start = np.empty_like(inside), 0
    for end in range(1, len(order) + 1):
        if end == len(order) or inside[order[end]] > (1 + within) * inside[order[start]]:
            out[order[start:end]] = inside[order[start:end]].mean()
            start = end
    return out
