r"""E[φ(u) φ(v)] and E[φ'(u) φ'(v)] by variances and covariance, with all their derivatives.

Price 1958, in its general form: for u, v of variances q_a, q_b and covariance C,

    ∂E[f g]/∂C = E[f' g'],   ∂E[f g]/∂q_a = E[f'' g]/2,

where derivatives of kinked functions are distributions. `moments` takes the expectations.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._derivatives import refused, with_value
from sigprop.activations import Activation
from sigprop.gaussian import pair
from sigprop.gaussian.closed_forms import closed_form
from sigprop.gaussian.moments import Cell, Key, moments
from sigprop.gaussian.single import mean_square
from sigprop.gaussian.terms import (
    Sum,
    Term,
    combined,
    derivative,
    euler,
    least_variance,
    rough,
    smooth_below,
)

__all__ = ["deficit", "product", "slope_product"]

Scalar = Float[Array, ""]
_VALUE: Key = ((0, 0), (0, 0), False, False)
_SLOPE: Key = ((0, 1), (0, 1), False, False)
_NEAR = 1e-8


def product(activation: Activation, cell: Cell, value: Scalar, nodes: int | None = None) -> Scalar:
    """E[φ(u) φ(v)], known to be ``value``, with its derivatives by variances and covariance."""
    closed = closed_form(activation)
    if closed is not None and closed.product is not None:
        found = closed.product(*cell[:3], _determinant(cell))
        return with_value(found, value)
    if rough(activation):
        return with_value(pair.product(activation, *_by_angle(cell), nodes), value)
    return _known(activation, nodes, cell, value)


def slope_product(activation: Activation, cell: Cell, nodes: int | None = None) -> Scalar:
    """E[φ'(u) φ'(v)], with its derivatives by variances and covariance.

    Where u = v for a kinked φ it is a cone: not differentiable but along u = v. There its
    derivatives count as 0 in the other directions (as for |x| at 0), second ones as nan.
    """
    closed = closed_form(activation)
    if closed is not None and closed.slope_product is not None:
        return closed.slope_product(*cell[:3], _determinant(cell))
    if rough(activation):
        return pair.slope_product(activation, *_by_angle(cell), nodes)
    return _by_covariance(activation, (_SLOPE,), nodes, cell)[0]


def deficit(activation: Activation, q: Scalar, e: Scalar, nodes: int | None = None) -> Scalar:
    """E[(φ(u) - φ(v))²]/2 at equal variance and c = 1 - ε, as in `pair`, with its derivatives."""
    fixed_q, fixed_e = jax.lax.stop_gradient((q, e))
    lost = pair.deficit(activation, fixed_q, fixed_e, nodes)
    square = mean_square(activation, q)
    cell = Cell(q, q, q * (1 - e), fixed_e, 2 - fixed_e)
    found = square - product(activation, cell, jax.lax.stop_gradient(square) - lost, nodes)
    return with_value(found, lost)


def _by_angle(cell: Cell) -> tuple[Scalar, Scalar, Scalar]:
    """Variances and 1 - c, with derivatives that are refused where c is ±1 or nearly."""
    root = jnp.sqrt(cell.a) * jnp.sqrt(cell.b)
    apart = with_value(1 - cell.covariance / root, cell.apart)
    near = jnp.minimum(cell.apart, cell.together) < _NEAR
    return cell.a, cell.b, refused(apart, near, 1)


@jax.custom_jvp
def _determinant(cell: Cell) -> Scalar:
    """q_a q_b - C², which its definition loses near c = ±1."""
    return cell.a * cell.b * cell.apart * cell.together


@_determinant.defjvp
def _determinant_jvp(primals, tangents):
    (cell,), (dot,) = primals, tangents
    moved = cell.b * dot.a + cell.a * dot.b - 2 * cell.covariance * dot.covariance
    return _determinant(cell), moved


class _Rates(NamedTuple):
    """By what an expectation moves: sums over other expectations."""

    covariance: dict[Key, int]
    stretch: tuple[dict[Key, int], dict[Key, int]]  # E[u f'(u) g(v)], and at v
    curve: tuple[dict[Key, int], dict[Key, int]]  # E[f''(u) g(v)], and at v; {} if never wanted


def _rates(activation: Activation, key: Key) -> _Rates:
    a, b, plain_a, plain_b = key

    def at_a(terms: Sum, plain=plain_a):
        return {(t, b, plain, plain_b): c for t, c in terms.items()}

    def at_b(terms: Sum, plain=plain_b):
        return {(a, t, plain_a, plain): c for t, c in terms.items()}

    both = {
        (s, t, plain_a, plain_b): c * d
        for s, c in derivative(a).items()
        for t, d in derivative(b).items()
    }
    stretch = {} if plain_a else at_a(euler(a)), {} if plain_b else at_b(euler(b))
    if smooth_below(activation) is None:
        return _Rates(both, stretch, ({}, {}))
    plain = bool(activation.kinks)  # small variances do not reach them
    curve = at_a(_twice(a), plain), at_b(_twice(b), plain)
    return _Rates(both, stretch, curve)


def _twice(term: Term) -> Sum:
    return combined(derivative, derivative(term))


def _together(activation: Activation, keys: tuple[Key, ...]):
    """The rates of ``keys``, and all keys that they and their rates consist of."""
    rates = [_rates(activation, key) for key in keys]
    needed = dict.fromkeys(keys)
    for rate in rates:
        for part in (rate.covariance, *rate.stretch, *rate.curve):
            needed.update(dict.fromkeys(part))
    return rates, tuple(needed)


def _total(values: dict[Key, Scalar], part: dict[Key, int], like: Scalar) -> Scalar:
    return sum((c * values[key] for key, c in part.items()), jnp.zeros_like(like))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _known(activation, nodes, cell: Cell, value: Scalar) -> Scalar:
    return value


@_known.defjvp
def _known_jvp(activation, nodes, primals, tangents):
    (cell, value), (dot, _) = primals, tangents
    _, (moved,) = _moved(activation, (_VALUE,), nodes, cell, dot, False)
    return _known(activation, nodes, cell, value), moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _by_covariance(activation, keys: tuple[Key, ...], nodes, cell: Cell):
    """Expectations whose derivatives are taken at fixed covariance, so that no angle is needed."""
    return tuple(moments(activation, activation, keys, nodes, 0.0, cell))


@_by_covariance.defjvp
def _by_covariance_jvp(activation, keys, nodes, primals, tangents):
    (cell,), (dot,) = primals, tangents
    return _moved(activation, keys, nodes, cell, dot, True)


def _moved(activation, keys, nodes, cell: Cell, dot: Cell, with_values: bool):
    """Values, if wanted, and tangents of ``keys``.

    E[f''(u) g(v)]/2 is (E[u f' g] - C E[f' g'])/(2 q_a) by Stein: the same E[f' g'] as that of the
    covariance's rate, so that what is infinite in both as c -> 1 cancels in rounding, too. Near
    q_a = 0, where φ is smooth, the former.
    """
    rates, needed = _together(activation, keys)
    if not with_values:
        needed = tuple(key for key in needed if key not in keys)
    values = dict(zip(needed, _by_covariance(activation, needed, nodes, cell)))
    moved = []
    for rate in rates:
        by_covariance = _total(values, rate.covariance, cell.a)
        tangent = by_covariance * dot.covariance
        for q, q_dot, stretch, curve in zip(cell[:2], dot[:2], rate.stretch, rate.curve):
            stretched = _total(values, stretch, q) - cell.covariance * by_covariance
            curved = _total(values, curve, q) if curve else None
            by = _by_variance(activation, q, stretched if stretch else None, curved)
            tangent = tangent + by * q_dot
        moved.append(tangent)
    return tuple(values.get(key) for key in keys), tuple(moved)


def _by_variance(activation, q, stretched, curved):
    if stretched is None:
        return curved / 2
    least = np.asarray(smooth_below(activation) or least_variance(q.dtype), q.dtype)
    far = q > least
    stretched = stretched / (2 * jnp.where(far, q, 1.0))
    return stretched if curved is None else jnp.where(far, stretched, curved / 2)
