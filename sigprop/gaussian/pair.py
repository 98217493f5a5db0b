"""Gaussian expectations over a correlated pair, by conditioning on what the two share.

For correlation c = ±r, r = 1 - ε >= 0, write u = √q (√r w + √ε y) with w shared and y its own.
Given w the two are independent, so E[f(u) g(v)] = E_w[f̄(w) ḡ(w)] where f̄ is f smoothed by a
Gaussian of variance qε. Nothing cancels as c -> 1, and derivatives fall on the Gaussian:

    ∂^n f̄ = E_y[f(m + s y) He_n(y)]/s^n

which is right for kinked and for discontinuous f (Price 1958 in its general form).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.activations import Activation
from sigprop.gaussian.closed_forms import ClosedForm, closed_form, homogeneous_pair
from sigprop.gaussian.single import hermite, mean_square
from sigprop.gaussian.windows import line_sums, positive, shared_sums

__all__ = ["covariance", "deficit", "deficit_and_slope", "product", "slope_product"]

Scalar = Float[Array, ""]


def covariance(f: Activation, g: Activation, q_a: Scalar, q_b: Scalar, e: Scalar) -> Scalar:
    """E[f(u) g(v)] for variances q_a, q_b and correlation 1 - ε."""
    return _pair(f, g, 0, 0, None, q_a, q_b, e)


def product(
    activation: Activation, q_a: Scalar, q_b: Scalar, e: Scalar, nodes: int | None = None
) -> Scalar:
    """E[φ(u) φ(v)] for variances q_a, q_b and correlation 1 - ε.

    ``nodes`` asks for a `uniform_rule` of that size, for analytic φ; panels otherwise.
    """
    return _pair(activation, activation, 0, 0, nodes, q_a, q_b, e)


def slope_product(
    activation: Activation, q_a: Scalar, q_b: Scalar, e: Scalar, nodes: int | None = None
) -> Scalar:
    """E[φ'(u) φ'(v)] for variances q_a, q_b and correlation 1 - ε."""
    value = _pair(activation, activation, 1, 1, nodes, q_a, q_b, e)
    if not activation.infinite_slope:
        return value
    # Where u and v pass a jump together it is infinite; if only perhaps, it is not given.
    rough = activation.rough
    at_zero = 0.0 in [*(x for x, *_ in rough.jumps), *(x for x, _ in rough.steep)]
    together = at_zero | ((e == 0) & (q_a == q_b))
    at_end = jnp.where(together, jnp.inf, jnp.nan)
    return jnp.where((e == 0) | (e == 2), at_end.astype(value.dtype), value)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4))
def _pair(
    f: Activation,
    g: Activation,
    order_a: int,
    order_b: int,
    nodes: int | None,
    q_a: Scalar,
    q_b: Scalar,
    e: Scalar,
) -> Scalar:
    """E[f^(order_a)(u) g^(order_b)(v)], derivatives in the sense of distributions."""
    closed = closed_form(f)
    if closed is not None and f == g and order_a == order_b <= 1:
        return _in_closed_form(closed, f, order_a, q_a, q_b, e)
    shared, own, sign = _split(e)
    bends = [(f, q_a, jnp.ones_like(sign)), (g, q_b, sign)]
    root = jnp.sqrt(shared)

    def product_at(w):
        m_a, m_b = jnp.sqrt(q_a) * root * w, sign * jnp.sqrt(q_b) * root * w
        s_a, s_b = (jnp.full_like(w, jnp.sqrt(q * own)) for q in (q_a, q_b))
        if f == g and order_a == order_b:  # one call for both: φ is inlined, and compiled, once
            both = jnp.concatenate([m_a, m_b]), jnp.concatenate([s_a, s_b])
            smooth = _smoothed(f, order_a, *both, nodes)
            return smooth[: w.size] * smooth[w.size :]
        smooth_a = _smoothed(f, order_a, m_a, s_a, nodes)
        return smooth_a * _smoothed(g, order_b, m_b, s_b, nodes)

    return shared_sums(bends, shared, own, product_at, nodes)


@_pair.defjvp
def _pair_jvp(f, g, order_a, order_b, nodes, primals, tangents):
    q_a, q_b, e = primals
    q_a_dot, q_b_dot, e_dot = tangents

    def raised(a, b):
        return _pair(f, g, order_a + a, order_b + b, nodes, q_a, q_b, e)

    # ∂/∂cov raises both orders by one, ∂/∂q_a at fixed cov is half the second derivative.
    ratio = jnp.sqrt(q_b / q_a)
    by_covariance = raised(1, 1)
    by_a = (raised(2, 0) + (1 - e) * ratio * by_covariance) / 2
    by_b = (raised(0, 2) + (1 - e) / ratio * by_covariance) / 2
    by_e = -jnp.sqrt(q_a) * jnp.sqrt(q_b) * by_covariance
    return raised(0, 0), by_a * q_a_dot + by_b * q_b_dot + by_e * e_dot


def _in_closed_form(closed: ClosedForm, activation: Activation, order: int, q_a, q_b, e) -> Scalar:
    expectation = (closed.product, closed.slope_product)[order]
    covariance = jnp.sqrt(q_a) * jnp.sqrt(q_b) * (1 - e)
    if expectation is not None:
        return expectation(q_a, q_b, covariance, q_a * q_b * e * (2 - e))
    term, angles = (0, order), (e, jnp.maximum(2 - e, 0))
    slopes = activation.homogeneous_slopes
    return homogeneous_pair(slopes, term, term, q_a, q_b, covariance, *angles)


def _split(e: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Shared fraction r, own fraction 1 - r and sign of a correlation 1 - ε = ±r."""
    negative = e > 1
    return (
        jnp.abs(1 - e),
        jnp.where(negative, 2 - e, e),
        jnp.where(negative, -1.0, 1.0).astype(e.dtype),
    )


def _smoothed(
    activation: Activation,
    order: int,
    m: Float[Array, "shared"],
    s: Float[Array, "shared"],
    nodes: int | None,
) -> Float[Array, "shared"]:
    """The order-th derivative in m of E_y[φ(m + s y)], y ~ N(0, 1)."""
    # A continuous φ lends its own derivative once; the rest falls on the Gaussian.
    lent = min(order, 1) if activation.continuous else 0
    f, raised = (activation.derivative if lent else activation.fn), order - lent

    def at(centre, s):
        def weighed(y):
            return hermite(raised, y) * f(centre + s * y)

        return line_sums(activation, weighed, centre, s, nodes) / positive(s) ** raised

    return jax.vmap(at)(m, s)


# ---------------------------------------------------------------------------- near c = 1

_SMALL = 1e-8
_FEW = np.polynomial.legendre.leggauss(2)  # errs by ε^(3/2) for kinked φ, less for smooth


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def deficit(activation: Activation, q: Scalar, e: Scalar, nodes: int | None = None) -> Scalar:
    """E[(φ(u) - φ(v))²]/2 at equal variance: what the correlation map loses, 0 at ε = 0.

    To full relative accuracy for every ε > 0, where E[φ²] - E[φφ] keeps 16 - log10(1/ε) digits.
    """
    closed = closed_form(activation)
    if closed is not None:
        return closed.deficit(q, e)

    def negative():
        return mean_square(activation, q) - product(activation, q, q, e, nodes)

    # Where φ jumps there is no cancellation, and where it is steep its slope is no help.
    least = np.asarray(np.finfo(e.dtype).tiny ** 0.25, e.dtype)
    small = least if activation.infinite_slope else np.asarray(_SMALL, e.dtype)

    def direct():
        return deficit_and_slope(activation, q, jnp.clip(e, small, 1), nodes)[0]

    def tiny():
        return _integrated_deficit(activation, q, jnp.minimum(e, _SMALL), nodes)

    if activation.infinite_slope:
        near = jnp.where(e > 0, direct(), 0.0)
        return jax.lax.cond(e > 1, negative, lambda: near)
    return jax.lax.cond(e > 1, negative, lambda: jax.lax.cond(e >= _SMALL, direct, tiny))


@deficit.defjvp
def _deficit_jvp(activation, nodes, primals, tangents):
    (q, e), (q_dot, e_dot) = primals, tangents
    by_e = q * slope_product(activation, q, q, e, nodes)
    _, by_q = jax.jvp(
        lambda v: mean_square(activation, v) - product(activation, v, v, e, nodes), (q,), (q_dot,)
    )
    return deficit(activation, q, e, nodes), by_e * e_dot + by_q


def deficit_and_slope(
    activation: Activation, q: Scalar, e: Scalar, nodes: int | None = None
) -> tuple[Scalar, Scalar]:
    """`deficit` and E[φ'(u) φ'(v)] from one pass, for 1e-8 <= ε <= 1 (a root finder's inner loop).

    Given w, half the mean square difference of two independent draws is their variance.
    """
    closed = closed_form(activation)
    if closed is not None:
        return closed.deficit(q, e), _in_closed_form(closed, activation, 1, q, q, e)
    s = jnp.sqrt(q * e)

    def at(centre):
        def changes(y):
            phi, derivative = activation.value_and_derivative(centre + s * y)
            change = phi - activation.fn(centre)
            if activation.infinite_slope:  # by Stein: φ' as given lacks jumps, and is inf at a node
                derivative = y * change / s
            return jnp.stack([change * change, change, derivative])

        square, mean, slope = line_sums(activation, changes, centre, s, nodes)
        return jnp.stack([square - mean**2, slope**2])

    def spread_and_slope(w):
        return jax.vmap(at, out_axes=1)(jnp.sqrt(q * (1 - e)) * w)

    bends = [(activation, q, jnp.ones_like(q))]
    lost, slope = shared_sums(bends, 1 - e, e, spread_and_slope, nodes)
    return lost, slope


def _integrated_deficit(activation, q, e, nodes):
    """Q ∫_0^ε E[φ'φ'] dε' with ε' = ε t²: positive terms only, and smooth in t for kinked φ."""
    points, weights = (jnp.asarray(a, e.dtype) for a in _FEW)
    t = (1 + points) / 2
    slopes = jax.vmap(lambda x: _near_slope(activation, q, e * x * x, nodes))(t)
    return q * e * jnp.sum(weights * t * slopes)


def _near_slope(activation, q, e, nodes):
    """E[φ'(u) φ'(v)] at equal variance and ε <= 1: both sides are the same smoothed function."""

    def square_at(w):
        s = jnp.full_like(w, jnp.sqrt(q * e))
        return _smoothed(activation, 1, jnp.sqrt(q * (1 - e)) * w, s, nodes) ** 2

    return shared_sums([(activation, q, jnp.ones_like(q))], 1 - e, e, square_at, nodes)
