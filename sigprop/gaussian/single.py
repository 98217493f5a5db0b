"""Gaussian expectations over one variable, with derivatives that hold for kinked functions."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._derivatives import with_value
from sigprop.activations import Activation
from sigprop.gaussian.closed_forms import closed_form
from sigprop.gaussian.panels import uniform_rule
from sigprop.gaussian.terms import least_variance, smooth_below
from sigprop.gaussian.trust import trusted
from sigprop.gaussian.windows import line_sums, positive

__all__ = [
    "gained",
    "integral",
    "mean_square",
    "mean_square_slope",
    "monomial",
    "slope_square",
    "squares",
]

Scalar = Float[Array, ""]


@dataclass(frozen=True)
class Monomial:
    """x -> x^argument φ(x)^value φ'(x)^slope: what the theory integrates, as a hashable."""

    activation: Activation
    value: int = 0
    slope: int = 0
    argument: int = 0

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        phi, derivative = self.activation.value_and_derivative(x)
        return x**self.argument * phi**self.value * derivative**self.slope


def monomial(
    activation: Activation, variance: Scalar, *, value: int = 0, slope: int = 0, argument: int = 0
) -> Scalar:
    """E[x^argument φ(x)^value φ'(x)^slope], x ~ N(0, variance); φ' without its jumps."""
    return integral(Monomial(activation, value, slope, argument), activation, variance)


def integral(f: Callable, activation: Activation, variance: Scalar) -> Scalar:
    """E[f(x)], x ~ N(0, variance), for f made of φ and φ'; nan where it is not known to 1e-9."""
    return _where_trusted(_heat(f, activation, 0, variance), f, activation, variance)


def _where_trusted(value: Scalar, f: Callable, activation: Activation, variance: Scalar) -> Scalar:
    low, high = trusted(f, activation)
    if low == 0.0 and high == np.inf:
        return value
    return jnp.where((variance >= low) & (variance <= high), value, jnp.nan)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _heat(f: Callable, activation: Activation, order: int, variance: Scalar) -> Scalar:
    """(d/dq)^order E[f(x)] = E[f(√q z) He_{2 order}(z)]/(2q)^order.

    The Gaussian solves the heat equation, so derivatives in q fall on it and not on f, which may
    have kinks and jumps.
    """
    if order == 0:
        return _mean(f, activation, 0, variance)
    least = smooth_below(activation)
    if least is None:
        wide = jnp.maximum(variance, np.asarray(least_variance(variance.dtype), variance.dtype))
        return _mean(f, activation, 2 * order, wide) / (2 * wide) ** order
    far = variance > np.asarray(least, variance.dtype)
    wide = jnp.where(far, variance, least)
    on_gaussian = _mean(f, activation, 2 * order, wide) / (2 * wide) ** order
    on_f = _mean(_raised(f, 2 * order), activation, 0, variance) / 2**order
    return jnp.where(far, on_gaussian, on_f)


def _mean(f: Callable, activation: Activation, order: int, variance: Scalar) -> Scalar:
    """E[(f(√q z) - f(0)) He_order(z)], or E[f(√q z)] for order 0."""
    deviation = jnp.sqrt(variance)

    def weighed(z):
        if order == 0:
            return f(deviation * z)
        # E[He_order] = 0, and where q is small the rest of f would drown in f(0)
        return (f(deviation * z) - f(jnp.zeros_like(deviation))) * hermite(order, z)

    return line_sums(activation, weighed, jnp.zeros_like(deviation), deviation)


def _raised(f: Callable, order: int) -> Callable:
    """The order-th derivative of an elementwise f."""
    for _ in range(order):
        f = functools.partial(lambda g, x: jax.jvp(g, (x,), (jnp.ones_like(x),))[1], f)
    return f


@_heat.defjvp
def _heat_jvp(f, activation, order, primals, tangents):
    (variance,), (variance_dot,) = primals, tangents
    return (
        _heat(f, activation, order, variance),
        _heat(f, activation, order + 1, variance) * variance_dot,
    )


def hermite(order: int, z: Float[Array, "*nodes"]) -> Float[Array, "*nodes"]:
    """Probabilists' Hermite polynomial He_order(z)."""
    previous, current = jnp.zeros_like(z), jnp.ones_like(z)
    for n in range(order):
        previous, current = current, z * current - n * previous
    return current


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def mean_square(activation: Activation, variance: Scalar) -> Scalar:
    """E[φ(x)²]; its derivative is E[x φ φ']/q (Stein), right for kinked φ."""
    closed = closed_form(activation)
    if closed is not None:
        return closed.square(variance)
    return monomial(activation, variance, value=2)


@mean_square.defjvp
def _mean_square_jvp(activation, primals, tangents):
    (variance,), (variance_dot,) = primals, tangents
    slope = mean_square_slope(activation, variance)
    return mean_square(activation, variance), slope * variance_dot


def mean_square_slope(activation: Activation, variance: Scalar) -> Scalar:
    """D E[φ²]/dq = E[x φ(x) φ'(x)]/q, jumps of φ included."""
    closed = closed_form(activation)
    if closed is not None:
        return closed.square_slope(variance)
    rough, square = activation.rough, Monomial(activation, value=2)
    if not rough.slope_known:  # from the values of φ alone
        by_values = _heat(square, activation, 1, variance)
        return _where_trusted(by_values, square, activation, variance)
    least = smooth_below(activation)
    near = np.asarray(least or least_variance(variance.dtype), variance.dtype)
    wide = with_value(variance, jnp.maximum(variance, near))
    smooth = monomial(activation, wide, value=1, slope=1, argument=1) / wide
    if not rough.jumps:
        near_0 = smooth if least is None else _heat(square, activation, 1, variance)
        return jnp.where(variance > near, smooth, near_0)
    total = smooth + _jumps_of_square(rough.jumps, variance)
    return _where_trusted(total, square, activation, variance)  # φ' = 0 tells nothing of jumps


def _jumps_of_square(jumps: tuple[tuple[float, float, float], ...], variance: Scalar) -> Scalar:
    """E[x/(2q) Σ_k (φ(k+)² - φ(k-)²) δ(x - k)]: what E[φ φ''+ φ'²] has at jumps."""
    place, left, right = (jnp.asarray(column, variance.dtype) for column in np.transpose(jumps))
    deviation = jnp.sqrt(variance)
    z = place / positive(deviation)
    density = jnp.exp(-z * z / 2) / (float(np.sqrt(2 * np.pi)) * positive(deviation))
    near = jnp.abs(z) < 38  # beyond, powers of a small variance overflow before the rest vanishes
    shares = jnp.where(near, jnp.where(near, z, 0.0) * (right**2 - left**2) * density, 0.0)
    return jnp.sum(shares) / (2 * positive(deviation))


def slope_square(activation: Activation, variance: Scalar) -> Scalar:
    """E[φ'(x)²]; infinite where φ jumps, or is as steep as √|x|."""
    closed = closed_form(activation)
    if closed is not None:
        return closed.slope_square(variance)
    if activation.infinite_slope:
        return jnp.full_like(variance, jnp.inf)
    return monomial(activation, variance, slope=2)


def gained(weight_var: Float[Array, "..."], slope: Float[Array, "..."]) -> Float[Array, "..."]:
    """σ_w² E[φ'²]: where E[φ'²] is infinite, inf, and 0 without weights; differentiable there."""
    usual = jnp.isfinite(slope)
    infinite = jnp.where(weight_var > 0, jnp.where(jnp.isnan(slope), jnp.nan, jnp.inf), 0.0)
    product = weight_var * jnp.where(usual, slope, 1.0)
    return jnp.where(usual, product, infinite.astype(product.dtype))


def squares(
    activation: Activation, variance: Scalar, nodes: int | None = None
) -> tuple[Scalar, Scalar]:
    """E[φ(x)²] and E[φ'(x)²] from one pass: a step of a trajectory.

    ``nodes`` asks for a `uniform_rule` of that size, for analytic φ; panels otherwise.
    """
    closed = closed_form(activation)
    if closed is not None:
        return closed.square(variance), closed.slope_square(variance)
    if nodes is None:  # the pieces with derivatives that hold for kinked φ
        return mean_square(activation, variance), slope_square(activation, variance)
    z, weights = uniform_rule(nodes, variance.dtype)
    phi, derivative = activation.value_and_derivative(jnp.sqrt(variance) * z)
    return jnp.sum(weights * phi * phi), jnp.sum(weights * derivative * derivative)
