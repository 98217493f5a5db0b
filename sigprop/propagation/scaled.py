"""Numbers of any size: row dot products held beside a log scale, and sums of logs over depth."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

__all__ = ["LogSum", "Products", "log_norms", "log_weighted_sum", "pairs", "products"]

# Up to this many rows, one reduction for each pair beats a batched multiply of tiny matrices.
_FEW_ROWS = 4


def pairs(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs (a, b) with a <= b: the diagonal first, then the pairs above it."""
    above = np.triu_indices(rows, 1)
    diagonal = np.arange(rows)
    return np.concatenate([diagonal, above[0]]), np.concatenate([diagonal, above[1]])


class Products(NamedTuple):
    """Dot products of rows, in the order of `pairs`: of rows a and b, times exp(s_a + s_b)."""

    values: Float[Array, "*layers pairs"]
    scale: Float[Array, "*layers rows"]


def _in_units(rows: Array) -> tuple[Array, Array]:
    """Every row times a power of two that brings its largest entry near 1, and that power's -log.

    So its square neither vanishes nor overflows before the row itself does.
    """
    largest = jnp.max(jnp.abs(rows), axis=-1)
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, jnp.ones_like(largest)))
    limits = jnp.finfo(rows.dtype)  # both the power and its inverse are normal numbers
    exponent = jnp.clip(exponent, limits.minexp + 1, -limits.minexp - 1)
    factor = jnp.ldexp(jnp.ones_like(largest), -exponent)
    log_two = jnp.log(jnp.asarray(2, rows.dtype))
    return rows * factor[:, None], exponent.astype(rows.dtype) * log_two


def products(rows: Float[Array, "rows width"]) -> Products:
    """Of all rows with each other."""
    rows, size = _in_units(rows)
    first, second = pairs(len(rows))
    if len(rows) > _FEW_ROWS:
        gram = jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)
        return Products(gram[first, second], size)
    return Products(jnp.stack([jnp.sum(rows[a] * rows[b]) for a, b in zip(first, second)]), size)


def log_norms(rows: Float[Array, "rows width"]) -> Float[Array, " rows"]:
    """Log of every row's norm."""
    rows, size = _in_units(rows)
    return size + 0.5 * jnp.log(jnp.sum(jnp.square(rows), axis=-1))


class LogSum(NamedTuple):
    """A sum of logs over many layers, with the rounding error carried beside it (Knuth 1969)."""

    high: Float[Array, "..."]
    low: Float[Array, "..."]

    @classmethod
    def of(cls, value: Float[Array, "..."]) -> "LogSum":
        """A sum with one term."""
        return cls(value, jnp.zeros_like(value))

    @property
    def value(self) -> Float[Array, "..."]:
        """The sum."""
        return self.high + self.low

    def plus(self, term: Float[Array, "..."]) -> "LogSum":
        """The sum with one (finite) term more; two-sum, so nothing is lost."""
        high = self.high + term
        kept = high - self.high
        lost = (self.high - (high - kept)) + (term - kept)
        return LogSum(high, self.low + lost)


# A sum that is smaller than this many roundings of its terms is one of rounding errors.
_ROUNDINGS = 16


def log_weighted_sum(
    values: Float[Array, "*layers pairs"], log_scale: Float[Array, "*layers rows"]
) -> Float[Array, "*layers"]:
    """Log Σ_ab P_ab exp(s_a + s_b), over all ordered pairs of rows; -inf where the sum is 0.

    The sum is a squared norm. Where its terms cancel to within their rounding nothing is known of
    it but that it is small: 0 then, as of a bias that the next batch norm takes out again.
    """
    first, second = pairs(log_scale.shape[-1])
    largest = jnp.max(log_scale, axis=-1, keepdims=True)
    scale = jnp.exp(log_scale - largest)
    count = jnp.asarray(np.where(first == second, 1.0, 2.0), values.dtype)
    terms = count * values * scale[..., first] * scale[..., second]
    total = jnp.sum(terms, axis=-1)
    known = total > _ROUNDINGS * jnp.finfo(values.dtype).eps * jnp.sum(jnp.abs(terms), axis=-1)
    return jnp.log(jnp.where(known, total, jnp.zeros_like(total))) + 2 * largest[..., 0]
