r"""x^i φ^(j) with derivatives as distributions: what derivatives of E[φ φ] are made of.

Away from its kinks φ^(j) is an ordinary function. At a kink k where φ^(m) jumps by J, φ^(j) holds
J δ^(j-1-m)(x - k) besides, and x δ^(p)(x - k) = k δ^(p)(x - k) - p δ^(p-1)(x - k).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._precision import exact_float64
from sigprop.activations import Activation

__all__ = [
    "Sum",
    "Term",
    "atoms",
    "breaks",
    "combined",
    "derivative",
    "euler",
    "least_variance",
    "most_variance",
    "odd",
    "order_at_zero",
    "regular",
    "rough",
    "slope_jumps",
    "smooth_below",
]

Term = tuple[int, int]  # (i, j) for x^i φ^(j)
Sum = dict[Term, int]

_MOST_KINKS = 64
_HIGHEST = 6  # second derivatives of E[φ'φ'] ask for φ^(5) and its jumps


def derivative(term: Term) -> Sum:
    """D/dx of x^i φ^(j)."""
    i, j = term
    return {(i, j + 1): 1} | ({(i - 1, j): i} if i else {})


def euler(term: Term) -> Sum:
    """X d/dx of x^i φ^(j): how it answers to its argument being stretched."""
    i, j = term
    return {(i + 1, j + 1): 1} | ({(i, j): i} if i else {})


def combined(operator: Callable[[Term], Sum], terms: Sum) -> Sum:
    """``operator`` of a sum of terms."""
    total: Sum = {}
    for term, c in terms.items():
        for following, factor in operator(term).items():
            total[following] = total.get(following, 0) + c * factor
    return total


def regular(
    activation: Activation, terms: tuple[Term, ...], x: Float[Array, "..."]
) -> Float[Array, "terms ..."]:
    """The ordinary functions among ``terms`` at x, kinks left out."""
    tower = _tower(activation, x, max(j for _, j in terms))
    return jnp.stack([x**i * tower[j] if i else tower[j] for i, j in terms])


def _tower(activation, x, order):
    """φ, φ', ..., φ^(order)."""
    if order == 0:
        return (activation.fn(x),)
    if order == 1:
        return activation.value_and_derivative(x)
    one = jnp.ones_like(x)
    values, raised = jax.jvp(lambda t: _tower(activation, t, order - 1), (x,), (one,))
    return (*values, raised[-1])


@functools.lru_cache(maxsize=512)
def atoms(activation: Activation, term: Term) -> tuple[np.ndarray, ...]:
    """Weights of δ^(p)(x - k) in a term, p = 0, 1, ...; each over the kinks k. () if none."""
    i, j = term
    if not activation.kinks or j == 0:
        return ()
    weights = list(reversed(_jumps(activation)[:j]))  # φ^(m) jumps: p = j - 1 - m
    for _ in range(i):
        lowered = [(p + 1) * w for p, w in enumerate(weights[1:])] + [0 * weights[0]]
        weights = [np.asarray(activation.kinks) * w - low for w, low in zip(weights, lowered)]
    while weights and not weights[-1].any():
        weights.pop()
    return tuple(weights)


def breaks(activation: Activation) -> list[float]:
    """Where φ jumps or is endlessly steep."""
    places = activation.rough
    return [x for x, *_ in (*places.jumps, *places.steep)]


def rough(activation: Activation) -> bool:
    """Whether φ jumps, is endlessly steep or has kinks without number: no terms of its own then."""
    return bool(breaks(activation)) or len(activation.kinks) > _MOST_KINKS


@functools.lru_cache(maxsize=512)
@exact_float64
def odd(activation: Activation) -> bool:
    """Whether φ(-x) = -φ(x)."""
    x = 2.0 ** np.linspace(-20, 13, 2000)
    with np.errstate(all="ignore"):
        right, left = (np.asarray(activation.fn(jnp.asarray(s * x))) for s in (1, -1))
        return bool(np.all(np.abs(left + right) <= 1e-15 * np.abs(right)))


def smooth_below(activation: Activation) -> float | None:
    """Up to which variance φ is as smooth as near 0; None if it has a kink there."""
    if rough(activation) or order_at_zero(activation) is not None:
        return None
    felt = [abs(k) for k, jumps in _felt(activation) if jumps.any()]
    return min([0.04, *((k / 9.5) ** 2 for k in felt)])


def order_at_zero(activation: Activation) -> int | None:
    """The first derivative of φ to jump at 0, if one does."""
    for kink, jumps in _felt(activation):
        if kink == 0.0 and jumps.any():
            return int(np.argmax(jumps != 0.0))
    return None


def slope_jumps(activation: Activation) -> bool:
    """Whether φ' jumps anywhere: then E[φ' φ'] is a cone where two inputs coincide."""
    return any(jumps[:2].any() for _, jumps in _felt(activation))


def _felt(activation: Activation):
    return list(zip(activation.kinks, _jumps(activation).T)) if activation.kinks else []


def most_variance(dtype: np.dtype) -> float:
    """What stands in for a variance beyond the numbers."""
    return float(np.finfo(dtype).max / 1e4)


def least_variance(dtype: np.dtype) -> float:
    """What stands in for a variance of 0 where a kink there makes expectations depend on it.

    Its powers that second derivatives take stay finite, and what they multiply is 0.
    """
    return float(np.finfo(dtype).tiny ** (1 / 3))


@functools.lru_cache(maxsize=512)
@exact_float64
def _jumps(activation: Activation) -> np.ndarray:
    """By how much φ, φ', ... jump at every kink; rounding is taken for no jump."""
    kinks = np.asarray(activation.kinks)
    near = np.maximum(np.abs(kinks) * 1e-13, 1e-30)
    sides = [
        np.asarray(_tower(activation, jnp.asarray(kinks + side * near), _HIGHEST - 1))
        for side in (-1, 1)
    ]
    with np.errstate(all="ignore"):
        jump = sides[1] - sides[0]
        return np.where(np.abs(jump) > 1e-9 * (1 + np.abs(sides).sum(0)), jump, 0.0)
