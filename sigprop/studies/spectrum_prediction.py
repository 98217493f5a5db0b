"""What free probability says of a network's Jacobian, layer by layer along its trajectory."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from sigprop import theory
from sigprop.theory.jacobian_spectrum import JacobianSpectrum

__all__ = ["SpectrumPrediction", "merged"]

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
        """Log E[λ] and Var[λ]/E[λ]² over the first 1, 2, ... layers: both are sums over layers."""
        distinct, where = np.unique(merged(self.variances, _SAME), return_inverse=True)
        laws = [replace(self, variances=distinct[i : i + 1]).law(1) for i in range(len(distinct))]
        log_mean = np.log([law.mean for law in laws])
        relative = np.asarray([law.variance_of_squares / law.mean**2 for law in laws])
        return np.cumsum(log_mean[where]), np.cumsum(relative[where])

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
