"""Lyapunov exponents of an endless network: what its singular values grow like, a layer.

Of J_L = D W ⋯ D W with free factors, s^{1/L} tends to a fixed law as L grows. With S the
S-transform of the law of (D W)ᵀ(D W), the singular value that a fraction u of them exceeds grows by

    λ(u) = -½ ln S(-u)

a layer (Haagerup and Möller 2013, "The law of large numbers for the free multiplicative
convolution"; Kargin 2008). S is that of W, 1/(σ_w² (1 - u)) for Gaussian and 1/σ_w² for orthogonal
weights, times that of D², which is (1 - u)/(u t) with t > 0 the solution of E[d/(t + d)] = u,
d = φ'(z)². Linear Gaussian layers give ½ ln(σ_w² (1 - u)), the wide limit of Newman 1986.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_one_of, of_variances
from sigprop._precision import exact_float64
from sigprop.gaussian.panels import resolving_cuts, standard_rule
from sigprop.theory.maps import ActivationLike

__all__ = ["lyapunov_exponents"]

_FARTHEST = 700.0  # |ln t| beyond which t is no double
_HALVINGS = 64  # of that range: to the last digit of ln t


@of_variances
def lyapunov_exponents(
    activation: ActivationLike,
    fraction: ArrayLike,
    *,
    weight_var: float,
    variance: float,
    ensemble: str = "gaussian",
) -> Float[np.ndarray, "..."]:
    """Growth a layer of ln s of the Jacobian's singular values, width and then depth to infinity.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    fraction
        Which singular values: the fraction of them that are larger, in (0, 1).
    weight_var
        σ_w² > 0.
    variance
        q of every layer, > 0.
    ensemble
        "gaussian" (any independent entries) or "orthogonal" weights.

    Returns
    -------
    numpy.ndarray
        Nats a layer, of the shape of ``fraction``; -inf where singular values are exactly zero.

    Raises
    ------
    ValueError
        For a value out of range, or an activation that jumps.

    Examples
    --------
    >>> middle = lyapunov_exponents("linear", [0.5], weight_var=4.0, variance=1.0)
    >>> middle / np.log(2.0)
    array([0.5])
    >>> lyapunov_exponents("relu", [0.25, 0.75], weight_var=8.0, variance=1.0) / np.log(2.0)
    array([ 0.5, -inf])
    """
    fraction = np.asarray(fraction, float)
    check_one_of("ensemble", ensemble, ("gaussian", "orthogonal"))
    if not np.all((fraction > 0) & (fraction < 1)):
        raise ValueError(f"fraction must lie strictly between 0 and 1, got {fraction}")
    for name, value in (("weight_var", weight_var), ("variance", variance)):
        if np.ndim(value) or not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a finite scalar > 0, got {value!r}")
    kind = activations.get(activation)
    if kind.rough.jumps:
        raise ValueError(
            f"activation must have no jumps for Lyapunov exponents, of {kind.name} "
            f"{kind.infinite_slope}"
        )
    values, node_weights = _squared_slopes(kind, variance)
    log_t = _log_root(values, node_weights, fraction)
    weights = np.log(weight_var) + (np.log1p(-fraction) if ensemble == "gaussian" else 0.0)
    return (weights + np.log(fraction) + log_t - np.log1p(-fraction)) / 2


@exact_float64
def _squared_slopes(kind, variance) -> tuple[np.ndarray, np.ndarray]:
    """φ'(z)² at the nodes of a rule for z ~ N(0, variance), and their weights."""
    deviation = np.sqrt(variance)
    z, weights = standard_rule(jnp.asarray(np.asarray(resolving_cuts(kind)) / deviation))
    return np.square(np.asarray(kind.derivative(deviation * z))), np.asarray(weights)


def _log_root(values, weights, fraction) -> np.ndarray:
    """Log t with E[d/(t + d)] = fraction; -inf where d is zero too often. Falls in t: bisection."""
    positive = values > 0
    log_d, weights = np.log(values[positive]), weights[positive]
    low = np.full(fraction.shape, -_FARTHEST)
    high = np.full(fraction.shape, _FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        share = (1 / (1 + np.exp(np.minimum(middle[..., None] - log_d, _FARTHEST)))) @ weights
        above = share > fraction
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(fraction < weights.sum(), (low + high) / 2, -np.inf)
