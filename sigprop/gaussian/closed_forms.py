"""Gaussian integrals of activations for which they are elementary.

Positively homogeneous (relu, leaky_relu, linear): Cho and Saul 2009. erf: Williams 1997.
sin: the characteristic function of the Gaussian. `closed_form` finds the set for an activation.

Each set holds, for u, v ~ N(0, q) with correlation 1 - ε and for u_a, u_b of two variances:

- ``square(q)``            E[φ(u)²]
- ``slope_square(q)``      E[φ'(u)²]
- ``square_slope(q)``      d E[φ²]/dq = E[u φ(u) φ'(u)]/q
- ``deficit(q, e)``        E[(φ(u) - φ(v))²]/2, free of cancellation as ε -> 0

and where they are smooth in the covariance C and the determinant q_a q_b - C² (not so with a kink,
see `homogeneous_pair`), None otherwise:

- ``product(q_a, q_b, C, determinant)`` E[φ(u_a) φ(u_b)]
- ``slope_product``                     E[φ'(u_a) φ'(u_b)]
- ``smoothed(m, s)``                    E[φ(m + s y)], y ~ N(0, 1)
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.activations import Activation

__all__ = ["ClosedForm", "closed_form", "homogeneous_pair"]

Scalar = Float[Array, ""]


@dataclass(frozen=True)
class ClosedForm:
    """The integrals of one activation; see the module's docstring."""

    square: Callable[[Scalar], Scalar]
    slope_square: Callable[[Scalar], Scalar]
    square_slope: Callable[[Scalar], Scalar]
    deficit: Callable[[Scalar, Scalar], Scalar]
    product: Callable[[Scalar, Scalar, Scalar, Scalar], Scalar] | None = None
    slope_product: Callable[[Scalar, Scalar, Scalar, Scalar], Scalar] | None = None
    smoothed: Callable[[Array, Array], Array] | None = None


def closed_form(activation: Activation) -> ClosedForm | None:
    """The closed forms of an activation, or None if it has none."""
    if activation.homogeneous_slopes is not None:
        return _homogeneous(*activation.homogeneous_slopes)
    return _BY_FUNCTION.get(activation.fn)


# ------------------------------------------------- φ(x) = α x + β |x|


def _homogeneous(left: float, right: float) -> ClosedForm:
    odd, even = (right + left) / 2, (right - left) / 2  # α and β

    def constant(q):
        return jnp.full_like(q, (left**2 + right**2) / 2)

    def deficit(q, e):
        return q * ((odd**2 + even**2) * e - even**2 * _arc_excess(e))

    if even:
        return ClosedForm(lambda q: constant(q) * q, constant, constant, deficit)
    return ClosedForm(
        lambda q: constant(q) * q,
        constant,
        constant,
        deficit,
        lambda q_a, q_b, covariance, determinant: odd**2 * covariance,
        lambda q_a, q_b, covariance, determinant: jnp.full_like(covariance, odd**2),
        lambda m, s: odd * m,
    )


def homogeneous_pair(slopes, term_a, term_b, q_a, q_b, covariance, apart, together) -> Scalar:
    """E of x^i φ^(j) at u_a and at u_b, their atoms left out: x φ' is φ there, and φ'' is 0."""
    odd, even = (slopes[1] + slopes[0]) / 2, (slopes[1] - slopes[0]) / 2
    if max(j for _, j in (term_a, term_b)) > 1:
        return jnp.zeros_like(q_a)
    if {i - j for i, j in (term_a, term_b)} == {-1}:
        return odd**2 + even**2 * (1 - 2 * _angle(apart, together) / np.pi)  # asin c = π/2 - θ
    root = jnp.sqrt(q_a) * jnp.sqrt(q_b)
    return odd**2 * covariance + even**2 * (covariance + root * _arc_excess(apart))


def _angle(e: Scalar, together: Scalar) -> Scalar:
    """θ = arccos(1 - ε), accurate at both ends."""
    return 2 * jnp.arctan2(jnp.sqrt(e), jnp.sqrt(together))


def _arc_excess(e: Scalar) -> Scalar:
    """E|u||v| - E[u v] at unit variance: (2/π)(sin θ - θ cos θ)."""
    angle = _angle(e, jnp.maximum(2 - e, 0))
    square = angle * angle
    series = 1 / 3 - square * (1 / 30 - square * (1 / 840 - square / 45360))
    small = angle * square * series
    exact = jnp.sin(angle) - angle * jnp.cos(angle)
    return (2 / np.pi) * jnp.where(angle < 0.1, small, exact)


# ------------------------------------------------- φ(x) = erf(x)


def _erf_square(q):
    return (2 / np.pi) * jnp.arctan2(2 * q, jnp.sqrt(1 + 4 * q))


def _erf_slope_square(q):
    return (4 / np.pi) / jnp.sqrt(1 + 4 * q)


def _erf_square_slope(q):
    return (4 / np.pi) / ((1 + 2 * q) * jnp.sqrt(1 + 4 * q))


def _erf_product(q_a, q_b, covariance, determinant):
    # (1 + 2 q_a)(1 + 2 q_b) - 4 cov² never cancels when written this way.
    gap = 1 + 2 * (q_a + q_b) + 4 * determinant
    return (2 / np.pi) * jnp.arctan2(2 * covariance, jnp.sqrt(gap))


def _erf_slope_product(q_a, q_b, covariance, determinant):
    return (4 / np.pi) / jnp.sqrt(1 + 2 * (q_a + q_b) + 4 * determinant)


def _erf_deficit(q, e):
    # asin A - asin B with A = 2q/(1+2q), B = A(1-ε): the tangent of a difference of angles.
    root_one = jnp.sqrt(1 + 4 * q)
    root_e = jnp.sqrt(1 + 4 * q + 4 * q * q * e * (2 - e))
    # A sqrt(1-B²) - B sqrt(1-A²) = A(root_e - root_1 + ε root_1)/(1+2q)
    rise = 4 * q * q * e * (2 - e) / (root_e + root_one)
    sine = 2 * q * (rise + e * root_one)
    cosine = root_one * root_e + 4 * q * q * (1 - e)
    return (2 / np.pi) * jnp.arctan2(sine, cosine)


# ------------------------------------------------- φ(x) = sin(x)


def _sin_product(q_a, q_b, covariance, determinant):
    # e^{-(q_a+q_b)/2} sinh(cov) with the exponents joined before they overflow.
    sign = jnp.where(covariance < 0, -1.0, 1.0).astype(covariance.dtype)
    size = sign * covariance
    decay = jnp.exp(size - (q_a + q_b) / 2)
    return sign * decay * -jnp.expm1(-2 * size) / 2


def _sin_slope_product(q_a, q_b, covariance, determinant):
    mean = (q_a + q_b) / 2
    return (jnp.exp(covariance - mean) + jnp.exp(-covariance - mean)) / 2


def _sin_deficit(q, e):
    return -jnp.expm1(-q * e) * (1 + jnp.exp(-q * (2 - e))) / 2


_BY_FUNCTION = {
    jax.lax.erf: ClosedForm(
        _erf_square,
        _erf_slope_square,
        _erf_square_slope,
        _erf_deficit,
        _erf_product,
        _erf_slope_product,
        lambda m, s: jax.lax.erf(m / jnp.sqrt(1 + 2 * s * s)),
    ),
    jnp.sin: ClosedForm(
        lambda q: -jnp.expm1(-2 * q) / 2,
        lambda q: (1 + jnp.exp(-2 * q)) / 2,
        lambda q: jnp.exp(-2 * q),
        _sin_deficit,
        _sin_product,
        _sin_slope_product,
        lambda m, s: jnp.exp(-s * s / 2) * jnp.sin(m),
    ),
}
