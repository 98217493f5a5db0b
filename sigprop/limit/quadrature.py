"""Expectations of functions of Gaussians at many cells: compiled once a function, not once a call.

Cells that occur more than once are integrated once, and arrays are padded to few lengths.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian import covariances, pair, single
from sigprop.gaussian.closed_forms import closed_form
from sigprop.gaussian.moments import Cell
from sigprop.gaussian.resolution import uniform_nodes
from sigprop.gaussian.single import Monomial
from sigprop.gaussian.trust import trusted
from sigprop.limit.expressions import Expression, activation_of, integral_of
from sigprop.limit.refusals import NotClosed

__all__ = ["mean", "mean_square", "mean_with_argument", "product", "same"]

_MOST_CELLS = 4096


def mean(f: Expression, variance: np.ndarray) -> np.ndarray:
    """E[f(z)]."""
    return _single(f, "mean", variance)


def mean_square(f: Expression, variance: np.ndarray) -> np.ndarray:
    """E[f(z)²]."""
    return _single(f, "square", variance)


def mean_with_argument(f: Expression, variance: np.ndarray) -> np.ndarray:
    """E[z f(z)]/q, which is E[f'(z)] (Stein), jumps of f included."""
    return _single(f, "slope", variance)


def _single(f: Expression, which: str, variance: np.ndarray) -> np.ndarray:
    if f.constant is not None:
        value = {"mean": f.constant, "square": f.constant**2, "slope": 0.0}[which]
        return np.full(variance.shape, float(value))
    if which == "slope" and np.any(variance == 0):
        raise NotClosed("derivative of a function of a Gaussian that has vanished")
    cells, back = np.unique(variance, return_inverse=True)
    known = integral_of(f)
    if known is not None and which != "slope":
        activation, factor = known
        found = _run(_slopes, (activation, which), [cells])[0]
        found = found * (factor**2 if which == "square" else factor)
    else:
        found = _run(_singles, (activation_of(f), which), [cells])[0]
    return _resolved(found[back.reshape(variance.shape)], f)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _singles(activation: Activation, which: str, variance):
    if which == "square":
        one = functools.partial(single.mean_square, activation)
    elif which == "mean":
        one = functools.partial(single.monomial, activation, value=1)
    else:
        one = lambda q: single.monomial(activation, q, value=1, argument=1) / q  # noqa: E731
    return (jax.vmap(one)(variance),)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _slopes(activation: Activation, which: str, variance):
    """E[φ'] and E[φ'²]."""
    if which == "square":
        one = functools.partial(single.slope_square, activation)
    else:
        one = functools.partial(single.monomial, activation, slope=1)
    return (jax.vmap(one)(variance),)


def same(f: Expression, q_a, q_b, lack) -> np.ndarray:
    """½ E[(f(u) - f(v))²] for variances q_a, q_b and what u and v lack; arrays of one shape."""
    if f.constant is not None:
        return np.zeros(q_a.shape)
    known = integral_of(f)
    if known is not None:
        return _same_slopes(f, *known, q_a, q_b, lack)
    activation = activation_of(f)
    cells, back = _cells(q_a, q_b, lack)
    nodes = _nodes(activation, float(cells[:2].max(initial=0)))
    apart = _apart(*cells)
    found = _run(_angles, (activation, nodes), [*cells[:2], apart, 2 - apart])
    a, b, angle = found
    lost = np.sqrt(a * b) * angle + (np.sqrt(a) - np.sqrt(b)) ** 2 / 2
    return _resolved(lost[back], f)


def _same_slopes(f: Expression, activation: Activation, factor: float, q_a, q_b, lack):
    """½ E[(φ'(u) - φ'(v))²] of a φ in the table, times the square of ``factor``."""
    cells, back = _cells(q_a, q_b, lack)
    if not np.all(cells[:2] > 0):
        raise NotClosed("slope of a function of a Gaussian that has vanished at some place")
    nodes = _nodes(activation, float(cells[:2].max(initial=0)))
    together = _run(_slope_products, (activation, nodes), [*cells[:2], _apart(*cells)])[0]
    squares = [mean_square(f, each) for each in cells[:2]]
    lost = np.where(cells[2] == 0, 0.0, np.mean(squares, axis=0) - factor**2 * together)
    return _resolved(lost[back], f)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _slope_products(activation, nodes, a, b, apart):
    one = lambda cell: pair.slope_product(activation, *cell, nodes=nodes)  # noqa: E731
    return (jax.lax.map(one, (a, b, apart)),)


def product(f: Expression, g: Expression, q_a, q_b, lack) -> np.ndarray:
    """E[f(u) g(v)] of two functions."""
    cells, back = _cells(q_a, q_b, lack)
    activation = activation_of(f), activation_of(g)
    for each in activation:
        _check_trusted(each, cells[:2])
    if not np.all(cells[:2] > 0):
        raise NotClosed("functions of a Gaussian that has vanished at some place")
    found = _run(_products, activation, [*cells[:2], _apart(*cells)])[0]
    return _resolved(found[back], f)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _angles(activation, nodes, a, b, apart, together):
    def one(cell):
        a, b, apart, together = cell
        found = Cell(a, b, a, apart, together)
        found = found._replace(covariance=covariances.covariance_value(found))
        squares = tuple(single.mean_square(activation, q) for q in (a, b))
        after = covariances.through(activation, found, squares, nodes)
        return after.a, after.b, after.apart

    return jax.lax.map(one, (a, b, apart, together))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _products(f, g, a, b, apart):
    return (jax.lax.map(lambda cell: pair.covariance(f, g, *cell), (a, b, apart)),)


def _cells(q_a, q_b, lack) -> tuple[np.ndarray, np.ndarray]:
    """Distinct cells, and which of them every entry is."""
    columns = np.stack([each.ravel() for each in np.broadcast_arrays(q_a, q_b, lack)])
    cells, back = np.unique(columns, axis=1, return_inverse=True)
    if cells.shape[1] > _MOST_CELLS:
        raise NotClosed(f"{cells.shape[1]} pairs of places, more than {_MOST_CELLS} integrals")
    return cells, back.reshape(np.broadcast(q_a, q_b, lack).shape)


def _apart(a, b, lack) -> np.ndarray:
    """1 - c by what they lack; of those that have vanished it means nothing."""
    size = np.sqrt(a * b)
    moves = size > 0
    angle = (lack - (np.sqrt(a) - np.sqrt(b)) ** 2 / 2) / np.where(moves, size, 1.0)
    return np.clip(np.where(moves, angle, 1.0), 0.0, 2.0)


@exact_float64
def _run(compiled, static: tuple, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """At one of few lengths."""
    count = arrays[0].size
    length = 1 << max(count - 1, 0).bit_length()
    padded = [jnp.asarray(np.pad(a, (0, length - count), mode="edge")) for a in arrays]
    return [np.asarray(found)[:count] for found in compiled(*static, *padded)]


def _nodes(activation: Activation, variance: float) -> int | None:
    if closed_form(activation) is not None or not variance:
        return None
    return uniform_nodes(activation, variance)


def _check_trusted(activation: Activation, variances: np.ndarray) -> None:
    if activations.is_named(activation):
        return
    low, high = trusted(Monomial(activation, value=2), activation)
    moving = variances[variances > 0]
    if moving.size and (moving.min() < low or moving.max() > high):
        raise NotClosed(f"{activation.name} has more detail than its integrals resolve")


def _resolved(found: np.ndarray, f: Expression) -> np.ndarray:
    if np.isnan(found).any():
        name = activation_of(f).name
        raise NotClosed(f"the integral of {name} is not resolved at some variance")
    return found
