"""Gaussian expectations of any function of one number, for use from outside the theory."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_finite, check_non_negative
from sigprop._precision import float64_when_eager, is_traced
from sigprop.activations import Activation, ScalarFunction
from sigprop.gaussian import pair, single
from sigprop.gaussian.unresolved import expectation_range, warn_outside

__all__ = ["expectation", "expectation_pair"]

Expectation = Float[Array, "..."] | Float[np.ndarray, "..."] | np.floating


def expectation(f: str | ScalarFunction | Activation, variance: ArrayLike = 1.0) -> Expectation:
    """E[f(x)], x ~ N(0, variance).

    Composite Gauss-Legendre quadrature with panels cut where f bends or has a kink, so it stays
    right where Gauss-Hermite fails: kinked functions, and bounded ones at large variance.

    Parameters
    ----------
    f
        A function of one number that JAX can trace, of at most polynomial growth; an `Activation`
        (which can name its kinks); or an activation's name.
    variance
        >= 0; an array gives an array.

    Returns
    -------
    NumPy float64, nan (with an `UnresolvedWarning`) where it is not known; or under jit, vmap and
    grad a JAX array of the ambient precision. Derivatives in the variance are those of the
    expectation: they fall on the Gaussian (Price 1958), so kinks and jumps of f do them no harm.

    Raises
    ------
    ValueError
        For a negative or non-finite variance, or a function JAX cannot trace.

    Examples
    --------
    >>> round(float(expectation(jnp.abs, 1.0)), 12), round(float(np.sqrt(2 / np.pi)), 12)
    (0.797884560803, 0.797884560803)
    >>> expectation(lambda x: x**4, [1.0, 2.0]).round(12)
    array([ 3., 12.])
    """
    check_non_negative("variance", variance)
    kind = activations.get(f)
    warn_outside(kind, variance, expectation_range(kind, 1))
    return _expectation(kind, variance)


@float64_when_eager("f")
def _expectation(f, variance):
    return jnp.vectorize(lambda q: single.integral(single.Monomial(f, value=1), f, q))(variance)


def expectation_pair(
    f: str | ScalarFunction | Activation,
    g: str | ScalarFunction | Activation,
    *,
    correlation: ArrayLike,
    variance_f: ArrayLike = 1.0,
    variance_g: ArrayLike = 1.0,
) -> Expectation:
    """E[f(u) g(v)] for centred Gaussians u, v of the given variances and correlation.

    Parameters
    ----------
    f, g
        As for `expectation`.
    correlation
        In [-1, 1].
    variance_f, variance_g
        Variances of u and of v, > 0; arrays broadcast.

    Returns
    -------
    As for `expectation`. The derivative in the covariance is E[f'(u) g'(v)] (Price 1958).

    Raises
    ------
    ValueError
        For a variance below 0, a correlation outside [-1, 1], a function JAX cannot trace.

    Examples
    --------
    >>> round(float(expectation_pair(jnp.sign, jnp.sign, correlation=0.5)), 12)  # asin(c) 2/π
    0.333333333333
    """
    check_non_negative("variance_f", variance_f)
    check_non_negative("variance_g", variance_g)
    check_finite("correlation", correlation)
    if not is_traced(correlation) and np.any(np.abs(np.asarray(correlation, float)) > 1):
        raise ValueError(f"correlation must lie in [-1, 1], got {correlation}")
    pair_of = activations.get(f), activations.get(g)
    for kind, variance in zip(pair_of, (variance_f, variance_g)):
        warn_outside(kind, variance, expectation_range(kind, 2))
    return _expectation_pair(*pair_of, correlation, variance_f, variance_g)


@float64_when_eager("f", "g")
def _expectation_pair(f, g, correlation, variance_f, variance_g):
    ranges = expectation_range(f, 2), expectation_range(g, 2)

    def cell(c, q_a, q_b):
        known = [(low <= q) & (q <= high) for q, (low, high) in zip((q_a, q_b), ranges)]
        value = pair.covariance(f, g, q_a, q_b, 1 - c)
        return jnp.where(known[0] & known[1], value, jnp.nan)

    return jnp.vectorize(cell)(correlation, variance_f, variance_g)
