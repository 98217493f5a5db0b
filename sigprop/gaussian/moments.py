r"""E[f(u) g(v)] of a correlated pair for all f, g made of φ by x and d/dx, kinks and all.

For correlation c = ±r, r = 1 - ε >= 0, write u = √q (√r w + √ε y) with w shared and y its own.
Given w the two are independent, so E[f(u) g(v)] = E_w[f̄(w) ḡ(w)] where f̄ is f smoothed by a
Gaussian of variance qε. Nothing cancels as c -> 1. Where a derivative of φ holds δ(x - k), the
density of u at k stands in for the integral over u, so that nothing is divided by ε either.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop.activations import Activation
from sigprop.gaussian.closed_forms import homogeneous_pair
from sigprop.gaussian.single import hermite
from sigprop.gaussian.terms import Term, atoms, combined, derivative, regular
from sigprop.gaussian.windows import line_sums, shared_sums

__all__ = ["Cell", "Key", "moments", "smoothed", "split"]

Scalar = Float[Array, ""]


class Cell(NamedTuple):
    """Two centred Gaussians: variances, covariance, and 1 - c and 1 + c beside it.

    The last two are what the covariance keeps no digits of; values without derivatives.
    """

    a: Scalar
    b: Scalar
    covariance: Scalar
    apart: Scalar
    together: Scalar


# The terms at u and at v, and of either whether its atoms are left out, too far away to be felt.
Key = tuple[Term, Term, bool, bool]


def moments(
    f: Activation,
    g: Activation,
    keys: tuple[Key, ...],
    nodes: int | None,
    coincident: float,
    cell: Cell,
) -> list[Scalar]:
    """E[f(u) g(v)] for every key; the terms' φ is ``f`` at u and ``g`` at v.

    ``coincident`` is what E[δ(u - k) δ(v - k)] counts for where u = v and it is infinite.
    """
    values = _regular(f, g, [key[:2] for key in keys], nodes, cell)
    other = cell._replace(a=cell.b, b=cell.a)
    for place, (term_a, term_b, plain_a, plain_b) in enumerate(keys):
        # Where φ itself jumps, E[φ'(u) φ'(v)] is infinite at u = v, and not only its derivatives.
        at_one = jnp.inf if term_a[1] == term_b[1] == 1 else coincident
        if not plain_a and atoms(f, term_a):
            values[place] += _at_atoms(f, term_a, g, term_b, cell, None if plain_b else at_one)
        if not plain_b and atoms(g, term_b):
            values[place] += _at_atoms(g, term_b, f, term_a, other, None)
    return values


def _regular(f, g, pairs, nodes, cell: Cell) -> list[Scalar]:
    """The part of every expectation that knows nothing of atoms."""
    if f == g and f.homogeneous_slopes is not None:
        sides = cell.a, cell.b, cell.covariance, cell.apart, cell.together
        return [homogeneous_pair(f.homogeneous_slopes, a, b, *sides) for a, b in pairs]
    shared, own, sign = split(cell.apart, cell.together)
    bends = [(f, cell.a, jnp.ones_like(sign)), (g, cell.b, sign)]
    terms_a, terms_b = (tuple(sorted({pair[side] for pair in pairs})) for side in (0, 1))
    if f == g:
        terms_a = terms_b = tuple(sorted({*terms_a, *terms_b}))

    def products_at(w):
        m_a, m_b = jnp.sqrt(cell.a * shared) * w, sign * jnp.sqrt(cell.b * shared) * w
        s_a, s_b = (jnp.full_like(w, jnp.sqrt(q * own)) for q in (cell.a, cell.b))
        if f == g:  # one call for both: φ is inlined, and compiled, once
            both = jnp.concatenate([m_a, m_b]), jnp.concatenate([s_a, s_b])
            smooth = smoothed(f, terms_a, *both, nodes)
            smooth_a, smooth_b = smooth[:, : w.size], smooth[:, w.size :]
        else:
            smooth_a = smoothed(f, terms_a, m_a, s_a, nodes)
            smooth_b = smoothed(g, terms_b, m_b, s_b, nodes)
        return jnp.stack(
            [smooth_a[terms_a.index(a)] * smooth_b[terms_b.index(b)] for a, b in pairs]
        )

    return list(shared_sums(bends, shared, own, products_at, nodes))


def split(apart: Scalar, together: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Shared fraction r, own fraction 1 - r and sign of a correlation ±r."""
    own = jnp.minimum(apart, together)
    sign = jnp.where(apart > together, -1.0, 1.0).astype(own.dtype)
    return 1 - own, own, sign


def smoothed(
    activation: Activation,
    terms: tuple[Term, ...],
    m: Float[Array, "shared"],
    s: Float[Array, "shared"],
    nodes: int | None,
) -> Float[Array, "terms shared"]:
    """E_y[t(m + s y)], y ~ N(0, 1), for the ordinary part t of every term."""

    def at(centre, s):
        def values(y):
            return regular(activation, terms, centre + s * y)

        return line_sums(activation, values, centre, s, nodes)

    return jax.vmap(at, out_axes=1)(m, s)


# ---------------------------------------------------------------------------- atoms


def _at_atoms(f, term, g, other, cell: Cell, coincident: float | None) -> Scalar:
    """Σ over the atoms W δ^(p)(u - k) of ``term`` of W (-∂_k)^p [p(k) E[other(v) | u = k]].

    u is the one of variance ``cell.a``. Given u = k, v is Gaussian around k cov/q_a with variance
    q_b (1 - c²). The atoms of ``other`` count unless ``coincident`` is None.
    """
    kinks = jnp.asarray(f.kinks, cell.a.dtype)
    ratio = cell.covariance / cell.a
    spread = jnp.sqrt(cell.b * cell.apart * cell.together)
    total = jnp.zeros_like(cell.a)
    for p, weights in enumerate(atoms(f, term)):
        if not weights.any():
            continue
        raised = {other: 1}  # derivatives of the other term
        for n in range(p + 1):
            given = sum(
                c * _given(g, t, kinks * ratio, spread, coincident) for t, c in raised.items()
            )
            density = _density(p - n, kinks, cell.a)
            share = (-1) ** p * math.comb(p, n) * ratio**n * density * given
            total += jnp.sum(jnp.asarray(weights, kinks.dtype) * share)
            raised = combined(derivative, raised)
    return total


def _density(order: int, x: Float[Array, "kinks"], variance: Scalar) -> Float[Array, "kinks"]:
    """The order-th derivative of the density of N(0, variance)."""
    z = x / jnp.sqrt(variance)
    near = jnp.abs(z) < 30  # beyond, powers of a small variance overflow before the rest vanishes
    z = jnp.where(near, z, 0.0)
    bell = jnp.exp(-z * z / 2) * hermite(order, z) * (-1) ** order / math.sqrt(2 * math.pi)
    scale = jnp.where(near, variance, 1.0) ** (-(order + 1) / 2)
    return jnp.where(near, bell * scale, 0.0)


def _given(g, term, mean, spread, coincident):
    """E[term(mean + spread y)] at every mean, where the mean may lie on a kink."""
    # A spread below the rounding of the mean would put both sides of a kink on one.
    least = 200 * np.finfo(mean.dtype).eps * jnp.abs(mean)
    total = smoothed(g, (term,), mean, jnp.maximum(spread, least), None)[0]
    if coincident is not None:
        kinks = jnp.asarray(g.kinks, mean.dtype)
        for p, weights in enumerate(atoms(g, term)):
            if weights.any():
                off = kinks - mean[:, None]
                total += _smoothed_atom(p, off, spread, coincident) @ jnp.asarray(
                    weights, mean.dtype
                )
    return total


def _smoothed_atom(p: int, off, spread, coincident):
    """δ^(p) under a Gaussian that is ``off`` away and ``spread`` wide."""
    moves = spread > 0
    z = off / jnp.where(moves, spread, 1.0)
    near = jnp.abs(z) < 30
    z = jnp.where(near, z, 0.0)
    bell = jnp.exp(-z * z / 2) * hermite(p, z) / math.sqrt(2 * math.pi)
    scale = jnp.where(moves & near, spread, 1.0) ** (-(p + 1))
    at_zero = jnp.where(off == 0, coincident if p == 0 else jnp.nan, 0.0)
    return jnp.where(moves, jnp.where(near, bell * scale, 0.0), at_zero)
