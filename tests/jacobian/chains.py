"""Chains of matrices that make products hard, and what 500-digit arithmetic says of them."""

import itertools

import mpmath
import numpy as np

CHAINS = {}


def _chain(make):
    CHAINS[make.__name__] = make
    return make


def haar(rng, size):
    """A uniformly distributed orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))


@_chain
def gaussian(rng, size, length):
    """Widely spread."""
    return list(rng.standard_normal((length, size, size)) / np.sqrt(size))


@_chain
def orthogonal(rng, size, length):
    """All equal."""
    return [haar(rng, size) for _ in range(length)]


@_chain
def near_isometric(rng, size, length):
    """Clustered."""
    return [np.eye(size) + 1e-3 * rng.standard_normal((size, size)) for _ in range(length)]


@_chain
def residual(rng, size, length):
    """As residual networks have it."""
    scale = 1 / np.sqrt(size * length)
    return [np.eye(size) + scale * rng.standard_normal((size, size)) for _ in range(length)]


@_chain
def orthogonal_then_gaussian(rng, size, length):
    """Clustered at first, spread in the end."""
    half = length // 2
    return orthogonal(rng, size, half) + gaussian(rng, size, length - half)


@_chain
def gaussian_then_orthogonal(rng, size, length):
    """The other way round."""
    half = length // 2
    return gaussian(rng, size, half) + orthogonal(rng, size, length - half)


@_chain
def diagonal_ascending(rng, size, length):
    """The largest direction comes last."""
    return [np.diag(10.0 ** np.arange(size))] * length


@_chain
def rows_graded(rng, size, length):
    """diag(φ') W of saturated units."""
    scales = 10.0 ** rng.uniform(-12, 0, (length, size, 1))
    return list(scales * rng.standard_normal((length, size, size)))


@_chain
def columns_graded(rng, size, length):
    """W diag(φ') of saturated units."""
    scales = 10.0 ** rng.uniform(-12, 0, (length, 1, size))
    return list(scales * rng.standard_normal((length, size, size)))


@_chain
def graded_on_both_sides(rng, size, length):
    """Rows and columns at once."""
    rows, columns = 10.0 ** rng.uniform(-15, 15, (2, length, size))
    dense = rng.standard_normal((length, size, size))
    return list(rows[:, :, None] * dense * columns[:, None, :])


@_chain
def relu_rows(rng, size, length):
    """D W with exact zeros in D."""
    kept = rng.random((length, size, 1)) < 0.7
    return list(kept * rng.standard_normal((length, size, size)))


@_chain
def relu_columns(rng, size, length):
    """W D with exact zeros in D."""
    kept = rng.random((length, 1, size)) < 0.7
    return list(kept * rng.standard_normal((length, size, size)))


@_chain
def rectangular(rng, size, length):
    """Widths that change from layer to layer."""
    widths = rng.integers(max(1, size // 2), size + 1, length + 1)
    return [rng.standard_normal((m, n)) for n, m in itertools.pairwise(widths)]


@_chain
def repeated(rng, size, length):
    """Three singular values, each several times, in every factor."""
    values = np.repeat([3.0, 1.0, 0.2], -(-size // 3))[:size]
    return [haar(rng, size) * values @ haar(rng, size) for _ in range(length)]


@_chain
def distant_clusters(rng, size, length):
    """Clusters of three, 69 nats apart in every factor."""
    values = 10.0 ** (-30.0 * (np.arange(size) // 3))[:, None]
    near = near_isometric(rng, size, length)
    return [values * factor for factor in near]


@_chain
def exponentially_spread(rng, size, length):
    """Condition number 1e20 in no pattern of rows or columns."""
    values = 10.0 ** np.linspace(0, -20, size)
    return [haar(rng, size) * values @ haar(rng, size) for _ in range(length)]


@_chain
def hilbert(rng, size, length):
    """The classic, condition number 1e16 at size 12."""
    index = np.arange(size)
    return [1.0 / (index[:, None] + index + 1)] * length


@_chain
def jordan_block(rng, size, length):
    """Grows like a power of the depth only."""
    return [np.eye(size) + np.diag(np.ones(size - 1), -1)] * length


@_chain
def undone(rng, size, length):
    """A product followed by its inverse."""
    half = gaussian(rng, size, max(1, length // 2))
    return half + [np.linalg.inv(factor) for factor in reversed(half)]


@_chain
def ill_conditioned_and_undone(rng, size, length):
    """Likewise, with a factor that float64 cannot invert."""
    left, right, values = haar(rng, size), haar(rng, size), 10.0 ** np.linspace(0, -18, size)
    return [left * values @ right, right.T / values @ left.T] * max(1, length // 2)


@_chain
def rank_deficient(rng, size, length):
    """Integers; one factor is a product of thin ones, with no zero entry to see."""
    chain = list(np.round(5 * rng.standard_normal((length, size, size))) + 0.5)
    left, right = np.round(9 * rng.standard_normal((2, size, size)))
    half = max(1, size // 2)
    chain[length // 2] = left[:, :half] @ right[:half]
    return chain


@_chain
def annihilating(rng, size, length):
    """The second factor maps what is left of the first to zero in part, exactly."""
    left = np.round(5 * rng.standard_normal((size, 2))) + 7
    first = left @ np.round(5 * rng.standard_normal((2, size)))
    second = np.round(5 * rng.standard_normal((size, size)))
    if size > 1:
        second[:] = np.outer(np.arange(1, size + 1), np.zeros(size))
        second[:, :2] += np.outer(np.arange(1, size + 1), [left[1, 0], -left[0, 0]])
    return [first, second, *np.round(5 * rng.standard_normal((max(0, length - 2), size, size)))]


@_chain
def duplicate_rows(rng, size, length):
    """Two units with the same weights in every layer."""
    chain = gaussian(rng, size, length)
    for factor in chain:
        factor[-1] = factor[0]
    return chain


@_chain
def nilpotent(rng, size, length):
    """Zero from some power on."""
    return [np.diag(np.ones(size - 1), 1)] * length


@_chain
def tiny(rng, size, length):
    """1e-200 times ordinary."""
    return [1e-200 * factor for factor in gaussian(rng, size, length)]


@_chain
def huge(rng, size, length):
    """1e300 times ordinary."""
    return [1e300 * factor for factor in gaussian(rng, size, length)]


@_chain
def subnormal(rng, size, length):
    """A dozen bits an entry."""
    return [1e-320 * np.round(factor * 3e3) for factor in gaussian(rng, size, length)]


@_chain
def single_precision(rng, size, length):
    """Factors in float32."""
    return [factor.astype(np.float32) for factor in gaussian(rng, size, length)]


def reference(factors, digits=500):
    """Log singular values of the exact product, descending; -inf where they vanish."""
    with mpmath.workdps(digits):
        product = mpmath.matrix(np.asarray(factors[0], np.float64).tolist())
        for factor in factors[1:]:
            product = mpmath.matrix(np.asarray(factor, np.float64).tolist()) * product
        values = sorted(mpmath.svd_r(product, compute_uv=False), reverse=True)
        # Exact zeros come out some digits above the last; nothing in the table reaches there.
        floor = values[0] * mpmath.mpf(10) ** (-digits + 40)
        return np.array([float(mpmath.log(v)) if v > floor else -np.inf for v in values])
