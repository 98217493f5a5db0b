"""Gaussian expectations over one variable, with derivatives that hold for kinked functions."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.activations import Activation
from sigprop.gaussian.closed_forms import closed_form
from sigprop.gaussian.panels import resolving_cuts, standard_rule, uniform_rule

__all__ = ["integral", "mean_square", "mean_square_slope", "monomial", "slope_square", "squares"]

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
    """E[x^argument φ(x)^value φ'(x)^slope], x ~ N(0, variance)."""
    f = Monomial(activation, value, slope, argument)
    return integral(f, resolving_cuts(activation), variance)


def integral(f: Callable, cuts: tuple[float, ...], variance: Scalar) -> Scalar:
    """E[f(x)], x ~ N(0, variance), with panels cut at ``cuts``."""
    return _heat(f, cuts, 0, variance)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _heat(f: Callable, cuts: tuple[float, ...], order: int, variance: Scalar) -> Scalar:
    """(d/dq)^order E[f(x)] = E[f(√q z) He_{2 order}(z)]/(2q)^order.

    The Gaussian solves the heat equation, so derivatives in q fall on it and not on f, which may
    have kinks and jumps.
    """
    deviation = jnp.sqrt(variance)
    z, weights = _rule(cuts, deviation)
    total = jnp.sum(weights * hermite(2 * order, z) * f(deviation * z))
    return total / (2 * variance) ** order if order else total


def _rule(cuts: tuple[float, ...], deviation: Scalar):
    tiny = np.asarray(np.finfo(deviation.dtype).tiny ** 0.5, deviation.dtype)
    return standard_rule(jnp.asarray(cuts, deviation.dtype) / jnp.maximum(deviation, tiny))


@_heat.defjvp
def _heat_jvp(f, cuts, order, primals, tangents):
    (variance,), (variance_dot,) = primals, tangents
    return (
        _heat(f, cuts, order, variance),
        _heat(f, cuts, order + 1, variance) * variance_dot,
    )


def hermite(order: int, z: Float[Array, "nodes"]) -> Float[Array, "nodes"]:
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
    """D E[φ²]/dq = E[x φ(x) φ'(x)]/q."""
    closed = closed_form(activation)
    if closed is not None:
        return closed.square_slope(variance)
    return monomial(activation, variance, value=1, slope=1, argument=1) / variance


def slope_square(activation: Activation, variance: Scalar) -> Scalar:
    """E[φ'(x)²]."""
    closed = closed_form(activation)
    if closed is not None:
        return closed.slope_square(variance)
    return monomial(activation, variance, slope=2)


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
