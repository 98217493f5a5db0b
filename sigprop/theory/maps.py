"""One layer of an infinitely wide network: how variance, correlation and gradient pass it.

Poole et al. 2016 (eqs. 3 and 5), Schoenholz et al. 2017 (eqs. 4-9).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, of_variances
from sigprop._derivatives import refused, with_value
from sigprop._precision import ambient_arrays, float64_when_eager, is_traced
from sigprop.activations import Activation, ScalarFunction
from sigprop.gaussian import covariances, single
from sigprop.gaussian.terms import order_at_zero, slope_jumps
from sigprop.gaussian.unresolved import warn_unresolved
from sigprop.kinds.gauss import cellwise

__all__ = [
    "chi",
    "correlation_map",
    "input_correlation",
    "input_variance",
    "variance_map",
    "variance_slope",
]

Theory = Float[Array, "..."] | Float[np.ndarray, "..."] | np.floating
ActivationLike = str | ScalarFunction | Activation


@of_variances
def variance_map(
    activation: ActivationLike,
    variance: ArrayLike,
    *,
    weight_var: ArrayLike,
    bias_var: ArrayLike,
) -> Theory:
    """Variance of the next layer's pre-activations: q' = σ_w² E[φ(z)²] + σ_b², z ~ N(0, q).

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    variance, weight_var, bias_var
        q, σ_w², σ_b², each >= 0; arrays broadcast.

    Returns
    -------
    q', with the broadcast shape.

    Raises
    ------
    ValueError
        For a negative or non-finite variance, or an unknown activation.

    Warns
    -----
    UnresolvedWarning
        Where a function of your own has more detail than is resolved; the result there is nan.

    Notes
    -----
    Poole et al. 2016, eq. 3. Right to 1e-10 relative; to 1e-8 for functions of your own.

    Examples
    --------
    >>> round(float(variance_map("tanh", 1.0, weight_var=1.5, bias_var=0.05)), 12)
    0.641441735597
    """
    _check(variance=variance, weight_var=weight_var, bias_var=bias_var)
    kind = activations.get(activation)
    warn_unresolved(kind, variance)
    return _variance_map(kind, variance, weight_var, bias_var)


@float64_when_eager("activation")
def _variance_map(activation, variance, weight_var, bias_var):
    square = jnp.vectorize(functools.partial(single.mean_square, activation))(variance)
    return weight_var * square + bias_var


@of_variances
def variance_slope(
    activation: ActivationLike, variance: ArrayLike, *, weight_var: ArrayLike
) -> Theory:
    """Slope of the variance map, χ_q at a fixed point: σ_w² E[z φ(z) φ'(z)]/q, z ~ N(0, q).

    This form of dq'/dq holds for kinked φ, where σ_w² E[φ φ'' + φ'²] misses the kinks.

    Examples
    --------
    >>> round(float(variance_slope("relu", 3.0, weight_var=2.0)), 12)
    1.0
    """
    _check(variance=variance, weight_var=weight_var)
    kind = activations.get(activation)
    warn_unresolved(kind, variance)
    return _variance_slope(kind, variance, weight_var)


@float64_when_eager("activation")
def _variance_slope(activation, variance, weight_var):
    slope = jnp.vectorize(functools.partial(single.mean_square_slope, activation))
    return weight_var * slope(variance)


@of_variances
def chi(
    activation: ActivationLike,
    variance: ArrayLike,
    *,
    weight_var: ArrayLike,
    correlation: ArrayLike = 1.0,
) -> Theory:
    """χ = σ_w² E[φ'(u) φ'(v)] for u, v ~ N(0, q) with a correlation; χ₁ at correlation 1.

    χ₁ is the factor by which squared gradients pass one layer backwards, the mean squared singular
    value of a layer's Jacobian, and the slope of the correlation map at 1 (Schoenholz et al. 2017,
    eq. 5). It is inf where φ jumps (sign), and where φ is as steep as √|x| is at 0. Where φ' jumps
    (relu) its derivative by the correlation is infinite at ±1.

    Examples
    --------
    >>> round(float(chi("relu", 1.0, weight_var=2.0)), 12)
    1.0
    """
    _check(variance=variance, weight_var=weight_var)
    check_correlation("correlation", correlation)
    kind = activations.get(activation)
    warn_unresolved(kind, variance)
    return _chi(kind, variance, weight_var, correlation)


@float64_when_eager("activation")
def _chi(activation, variance, weight_var, correlation):
    def cell(q, c):
        return covariances.slope(activation, _pair(q, q, q, c)) + _cone(activation, q, q, c, 1)

    return single.gained(weight_var, cellwise(cell, variance, correlation))


@of_variances
def correlation_map(
    activation: ActivationLike,
    correlation: ArrayLike,
    *,
    variance: ArrayLike,
    weight_var: ArrayLike,
    bias_var: ArrayLike,
    variance_b: ArrayLike | None = None,
) -> Theory:
    """Correlation of two inputs one layer on: c' = (σ_w² E[φ(u) φ(v)] + σ_b²)/√(q_a' q_b').

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    correlation
        c in [-1, 1].
    variance
        q of both inputs, or of the first when ``variance_b`` is given; > 0.
    weight_var, bias_var
        σ_w², σ_b² >= 0.
    variance_b
        q of the second input, if it differs.

    Returns
    -------
    c', normalised by the variances that leave the layer (which equal q at a fixed point).

    Notes
    -----
    Poole et al. 2016, eq. 5.

    Examples
    --------
    >>> at = dict(variance=1.0, weight_var=2.0, bias_var=0.0)
    >>> round(float(correlation_map("relu", 0.0, **at)), 12), round(1 / np.pi, 12)
    (0.318309886184, 0.318309886184)
    """
    _check(variance=variance, weight_var=weight_var, bias_var=bias_var)
    check_correlation("correlation", correlation)
    kind = activations.get(activation)
    warn_unresolved(kind, variance)
    if variance_b is None:
        return _equal_map(kind, correlation, variance, weight_var, bias_var)
    _check(variance_b=variance_b)
    warn_unresolved(kind, variance_b)
    return _unequal_map(kind, correlation, variance, variance_b, weight_var, bias_var)


@float64_when_eager("activation")
def _equal_map(activation, correlation, variance, weight_var, bias_var):
    def cell(c, q, weight_var, bias_var):
        square = single.mean_square(activation, q)
        found = covariances.through(activation, _pair(q, q, q, c), (square, square))
        after = weight_var * square + bias_var
        lost = jax.lax.stop_gradient(weight_var * square * found.apart / after)
        passed = (weight_var * found.covariance + bias_var) / after
        return with_value(passed + _cone(activation, q, q, c, 2), 1 - lost)

    return cellwise(cell, correlation, variance, weight_var, bias_var)


@float64_when_eager("activation")
def _unequal_map(activation, correlation, variance, variance_b, weight_var, bias_var):
    def cell(c, q_a, q_b, weight_var, bias_var):
        squares = single.mean_square(activation, q_a), single.mean_square(activation, q_b)
        inputs = _pair(q_a, q_b, jnp.sqrt(q_a) * jnp.sqrt(q_b), c)
        found = covariances.through(activation, inputs, squares)
        after = [weight_var * square + bias_var for square in squares]
        passed = (weight_var * found.covariance + bias_var) / jnp.sqrt(after[0] * after[1])
        return passed + _cone(activation, q_a, q_b, c, 2)

    return cellwise(cell, correlation, variance, variance_b, weight_var, bias_var)


def _pair(q_a, q_b, root, c) -> covariances.Cell:
    """Two inputs."""
    fixed = jax.lax.stop_gradient(c)
    return covariances.Cell(q_a, q_b, root * c, 1 - fixed, 1 + fixed)


def _cone(activation, q_a, q_b, c, order: int):
    """0, with no order-th derivative by c where E[φ'φ'] is a cone: at ±1 if φ' jumps."""
    if not slope_jumps(activation):
        return jnp.zeros_like(c)
    cone = (q_a == q_b) | (order_at_zero(activation) == 1)
    return refused(c, cone & (jnp.abs(c) == 1), order) - c


@of_variances
def input_variance(
    second_moment: ArrayLike, *, weight_var: ArrayLike, bias_var: ArrayLike
) -> Theory:
    """q¹ of an input: σ_w² |x⁰|²/N₀ + σ_b². The first layer is affine in the input.

    Examples
    --------
    >>> float(input_variance(1.0, weight_var=1.5, bias_var=0.25))
    1.75
    """
    _check(second_moment=second_moment, weight_var=weight_var, bias_var=bias_var)
    given = (second_moment, weight_var, bias_var)
    # In NumPy where numbers are given: XLA takes those below the smallest normal one for 0.
    m, w, b = ambient_arrays(*given) if is_traced(given) else (np.asarray(v, float) for v in given)
    return w * m + b


@of_variances
def input_correlation(
    correlation: ArrayLike,
    *,
    weight_var: ArrayLike,
    bias_var: ArrayLike,
    second_moment: ArrayLike = 1.0,
) -> Theory:
    """c¹ of two inputs with cosine c⁰ and equal |x⁰|²/N₀: (σ_w² m c⁰ + σ_b²)/(σ_w² m + σ_b²).

    Examples
    --------
    >>> float(input_correlation(0.5, weight_var=1.0, bias_var=1.0))
    0.75
    """
    _check(second_moment=second_moment, weight_var=weight_var, bias_var=bias_var)
    check_correlation("correlation", correlation)
    return _input_correlation(correlation, second_moment, weight_var, bias_var)


@float64_when_eager()
def _input_correlation(correlation, second_moment, weight_var, bias_var):
    signal = weight_var * second_moment
    return (signal * correlation + bias_var) / (signal + bias_var)


def _check(**variances: ArrayLike) -> None:
    for name, value in variances.items():
        check_non_negative(name, value)


def check_correlation(name: str, value: ArrayLike) -> None:
    """Raise unless every entry lies in [-1, 1]; traced values pass."""
    if is_traced(value):
        return
    array = np.asarray(value, float)
    wrong = ~(np.abs(array) <= 1)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f" at index {index}" if index else ""
        raise ValueError(f"{name} must lie in [-1, 1], got {array[index]}{where}")
